"""What runs have counted stays when their rows go; unresolved rejected records have an index."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_COUNTED = (
    "pages",
    "records_fetched",
    "records_stored",
    "records_rejected",
    "titles_new",
    "titles_changed",
    "repairs",
)
_UNRESOLVED = "ix_rejected_records_unresolved"


def upgrade() -> None:
    """Make the change: the totals are those of the runs that there are and that have ended."""
    op.create_table(
        "run_totals",
        sa.Column("workflow", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTED),
        sa.PrimaryKeyConstraint("workflow", name=op.f("pk_run_totals")),
    )
    sums = ", ".join(f"sum({name})" for name in _COUNTED)
    op.execute(
        f"INSERT INTO run_totals (workflow, {', '.join(_COUNTED)}) SELECT workflow, {sums} FROM runs"  # noqa: S608
        " WHERE state NOT IN ('queued', 'running', 'retrying') GROUP BY workflow"
    )
    op.create_index(
        _UNRESOLVED, "rejected_records", ["collection_id"], postgresql_where=sa.text("resolved_at IS NULL")
    )


def downgrade() -> None:
    """Undo it; what runs had counted whose rows are gone is lost."""
    op.drop_index(_UNRESOLVED, "rejected_records")
    op.drop_table("run_totals")
