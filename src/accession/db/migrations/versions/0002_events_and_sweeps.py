"""Circulation events, the pools' snapshots, and when each batch of titles was last swept."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SNAPSHOT = ("snapshot_owned", "snapshot_available", "snapshot_reserved", "snapshot_holds")


def upgrade() -> None:
    """Make the change: the counts at hand are those of the last snapshot, since no event has moved them."""
    for name in _SNAPSHOT:
        op.add_column("license_pools", sa.Column(name, sa.Integer(), server_default="0", nullable=False))
    op.execute(
        "UPDATE license_pools SET snapshot_owned = licenses_owned, snapshot_available = licenses_available,"
        " snapshot_reserved = licenses_reserved, snapshot_holds = patrons_in_hold_queue"
    )
    op.create_table(
        "circulation_events",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("license_pool_id", sa.Integer(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_circulation_events_collection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["license_pool_id"],
            ["license_pools.id"],
            name=op.f("fk_circulation_events_license_pool_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_circulation_events")),
        sa.UniqueConstraint(
            "collection_id", "event_id", name=op.f("uq_circulation_events_collection_id_event_id")
        ),
    )
    op.create_index(
        "ix_circulation_events_license_pool_id_occurred_at",
        "circulation_events",
        ["license_pool_id", "occurred_at"],
    )
    op.create_table(
        "swept_batches",
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("after_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("identifier_ids", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("swept_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_swept_batches_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("collection_id", "after_id", name=op.f("pk_swept_batches")),
    )


def downgrade() -> None:
    """Undo it; events and snapshots are lost."""
    op.drop_table("swept_batches")
    op.drop_table("circulation_events")
    for name in _SNAPSHOT:
        op.drop_column("license_pools", name)
