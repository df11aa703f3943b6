"""A token is of a role, or opens feeds, of every collection or of one."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    op.alter_column("api_tokens", "role", nullable=True)
    op.add_column("api_tokens", sa.Column("feeds", sa.ARRAY(sa.Text()), nullable=True))
    op.add_column("api_tokens", sa.Column("collection_id", sa.Integer(), nullable=True))
    op.create_foreign_key(
        op.f("fk_api_tokens_collection_id"),
        "api_tokens",
        "collections",
        ["collection_id"],
        ["id"],
        ondelete="CASCADE",
    )
    op.create_check_constraint(op.f("ck_api_tokens_opens"), "api_tokens", _OPENS)


def downgrade() -> None:
    """Undo it: what a token of feeds opens cannot be said any more, and so it opens nothing."""
    op.execute("DELETE FROM api_tokens WHERE role IS NULL")
    op.drop_constraint(op.f("ck_api_tokens_opens"), "api_tokens")
    op.drop_constraint(op.f("fk_api_tokens_collection_id"), "api_tokens")
    op.drop_column("api_tokens", "collection_id")
    op.drop_column("api_tokens", "feeds")
    op.alter_column("api_tokens", "role", nullable=False)


_OPENS = "num_nonnulls(role, feeds) = 1 AND num_nonnulls(role, collection_id) < 2"
