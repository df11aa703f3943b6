"""Purchases may be known by their month alone, and a run remembers which titles it has looked up."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_DATED = ("purchase_records", "rejected_records")


def upgrade() -> None:
    """Make the change: of what there is, the day is known."""
    for table in _DATED:
        op.add_column(table, sa.Column("month_only", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "looked_up_titles",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_looked_up_titles_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "identifier", name=op.f("pk_looked_up_titles")),
    )


def downgrade() -> None:
    """Undo it; a purchase of which the month alone is known was then on the first of it."""
    op.drop_table("looked_up_titles")
    for table in _DATED:
        op.drop_column(table, "month_only")
