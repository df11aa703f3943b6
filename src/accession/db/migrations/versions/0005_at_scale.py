"""A collection's titles and runs are found in their order, however many others there are."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("license_pools", "runs")


def upgrade() -> None:
    """Make the change."""
    for table in _TABLES:
        op.create_index(f"ix_{table}_collection_id_id", table, ["collection_id", "id"])


def downgrade() -> None:
    """Undo it."""
    for table in _TABLES:
        op.drop_index(f"ix_{table}_collection_id_id", table)
