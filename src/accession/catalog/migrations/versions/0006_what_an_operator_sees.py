"""What an operator sees of the past: the retries of a run, and how it went on."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BY_STATE = "ix_runs_state_id"
_BY_DAY = "ix_purchase_records_collection_id_purchased_on"
_BY_TITLE = "ix_purchase_records_collection_id_license_pool_id"


def upgrade() -> None:
    """Make the change."""
    _keep_the_course_of_runs()
    _find_purchases_by_their_collection()
    _keep_the_changes_of_titles()
    op.add_column("rejected_records", sa.Column("note", sa.Text(), nullable=True))


def downgrade() -> None:
    """Undo it."""
    op.drop_column("rejected_records", "note")
    op.drop_table("title_changes")
    op.drop_index(_BY_TITLE, "purchase_records")
    op.drop_index(_BY_DAY, "purchase_records")
    op.drop_column("purchase_records", "collection_id")
    op.drop_table("run_samples")
    op.drop_table("run_retries")
    op.drop_column("runs", "sampled_at")
    op.drop_index(_BY_STATE, "runs")


def _keep_the_course_of_runs() -> None:
    op.create_index(_BY_STATE, "runs", ["state", "id"])
    op.add_column("runs", sa.Column("sampled_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "run_retries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retry", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_retries_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_retries")),
    )
    op.create_index("ix_run_retries_run_id_id", "run_retries", ["run_id", "id"])
    op.create_table(
        "run_samples",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("records_fetched", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_samples_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "at", name=op.f("pk_run_samples")),
    )


def _find_purchases_by_their_collection() -> None:
    op.add_column("purchase_records", sa.Column("collection_id", sa.Integer(), nullable=True))
    op.execute(
        "UPDATE purchase_records SET collection_id = license_pools.collection_id"
        " FROM license_pools WHERE license_pools.id = purchase_records.license_pool_id"
    )
    op.alter_column("purchase_records", "collection_id", nullable=False)
    op.create_foreign_key(
        op.f("fk_purchase_records_collection_id"),
        "purchase_records",
        "collections",
        ["collection_id"],
        ["id"],
        ondelete="CASCADE",
    )
    op.create_index(
        _BY_DAY,
        "purchase_records",
        ["collection_id", "purchased_on"],
        postgresql_include=["license_pool_id"],
    )
    op.create_index(_BY_TITLE, "purchase_records", ["collection_id", "license_pool_id"])


def _keep_the_changes_of_titles() -> None:
    op.create_table(
        "title_changes",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("edition_id", sa.Integer(), nullable=True),
        sa.Column("license_pool_id", sa.Integer(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changes", postgresql.JSONB(), nullable=False),
        sa.CheckConstraint(
            "num_nonnulls(edition_id, license_pool_id) = 1", name=op.f("ck_title_changes_of_one")
        ),
        sa.ForeignKeyConstraint(
            ["edition_id"], ["editions.id"], name=op.f("fk_title_changes_edition_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["license_pool_id"],
            ["license_pools.id"],
            name=op.f("fk_title_changes_license_pool_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_title_changes")),
    )
    for owner in ("edition_id", "license_pool_id"):
        op.create_index(
            f"ix_title_changes_{owner}_changed_at",
            "title_changes",
            [owner, "changed_at"],
            postgresql_where=sa.text(f"{owner} IS NOT NULL"),
        )
