"""Runs stand in the ledger before they begin, and account for every record; events are rejected, too."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ACTIVE = "ix_runs_active"


def upgrade() -> None:
    """Make the change: what a run had not rejected, it had stored."""
    op.add_column("runs", sa.Column("records_stored", sa.Integer(), nullable=True))
    op.execute("UPDATE runs SET records_stored = records_fetched - records_rejected")
    op.alter_column("runs", "records_stored", nullable=False)
    op.create_check_constraint(
        op.f("ck_runs_records_kept"), "runs", "records_fetched = records_stored + records_rejected"
    )
    op.drop_index(_ACTIVE, "runs")
    op.create_index(
        _ACTIVE,
        "runs",
        ["collection_id"],
        postgresql_where=sa.text("state IN ('queued', 'running', 'retrying')"),
    )
    op.add_column("rejected_records", sa.Column("workflow", sa.Text(), nullable=True))
    op.execute("UPDATE rejected_records SET workflow = 'purchases'")
    op.alter_column("rejected_records", "workflow", nullable=False)


def downgrade() -> None:
    """Undo it; runs that have not begun and rejected events are lost."""
    op.execute("DELETE FROM rejected_records WHERE workflow != 'purchases'")
    op.drop_column("rejected_records", "workflow")
    op.execute("DELETE FROM runs WHERE state = 'queued'")
    op.drop_index(_ACTIVE, "runs")
    op.create_index(
        _ACTIVE, "runs", ["collection_id"], postgresql_where=sa.text("state IN ('running', 'retrying')")
    )
    op.drop_constraint(op.f("ck_runs_records_kept"), "runs")
    op.drop_column("runs", "records_stored")
