"""What has changed since a moment is found by indexes."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TABLES = ("license_pools", "editions")


def upgrade() -> None:
    """Make the change."""
    for table in _TABLES:
        op.create_index(f"ix_{table}_updated_at", table, ["updated_at"])


def downgrade() -> None:
    """Undo it."""
    for table in _TABLES:
        op.drop_index(f"ix_{table}_updated_at", table)
