"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    op.create_table(
        "collections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("library_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("account_key_encrypted", sa.LargeBinary(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("marked_for_deletion_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collections")),
    )
    op.create_index(
        "uq_collections_name_in_use",
        "collections",
        ["name"],
        unique=True,
        postgresql_where=sa.text("marked_for_deletion_at IS NULL"),
    )
    op.create_table(
        "contributors",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sort_name", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contributors")),
        sa.UniqueConstraint("sort_name", "display_name", name=op.f("uq_contributors_sort_name_display_name")),
    )
    op.create_table(
        "identifiers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identifiers")),
        sa.UniqueConstraint("type", "identifier", name=op.f("uq_identifiers_type_identifier")),
    )
    op.create_table(
        "subjects",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("scheme", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subjects")),
        sa.UniqueConstraint("scheme", "name", name=op.f("uq_subjects_scheme_name")),
    )
    op.create_table(
        "editions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("data_source", sa.Text(), nullable=False),
        sa.Column("identifier_id", sa.Integer(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("subtitle", sa.Text(), nullable=True),
        sa.Column("publisher", sa.Text(), nullable=True),
        sa.Column("published", sa.Text(), nullable=True),
        sa.Column("on_sale", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("page_count", sa.Integer(), nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("medium", sa.Text(), nullable=True),
        sa.Column("format", sa.Text(), nullable=True),
        sa.Column("content_hash", sa.Text(), nullable=True),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["identifier_id"], ["identifiers.id"], name=op.f("fk_editions_identifier_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_editions")),
        sa.UniqueConstraint(
            "data_source", "identifier_id", name=op.f("uq_editions_data_source_identifier_id")
        ),
    )
    op.create_table(
        "identifier_equivalents",
        sa.Column("identifier_id", sa.Integer(), nullable=False),
        sa.Column("equivalent_id", sa.Integer(), nullable=False),
        sa.Column("data_source", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["equivalent_id"],
            ["identifiers.id"],
            name=op.f("fk_identifier_equivalents_equivalent_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["identifier_id"],
            ["identifiers.id"],
            name=op.f("fk_identifier_equivalents_identifier_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "identifier_id", "equivalent_id", "data_source", name=op.f("pk_identifier_equivalents")
        ),
    )
    op.create_index(
        op.f("ix_identifier_equivalents_equivalent_id"),
        "identifier_equivalents",
        ["equivalent_id"],
        unique=False,
    )
    op.create_table(
        "license_pools",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("identifier_id", sa.Integer(), nullable=False),
        sa.Column("data_source", sa.Text(), nullable=False),
        sa.Column("licenses_owned", sa.Integer(), server_default="0", nullable=False),
        sa.Column("licenses_available", sa.Integer(), server_default="0", nullable=False),
        sa.Column("licenses_reserved", sa.Integer(), server_default="0", nullable=False),
        sa.Column("patrons_in_hold_queue", sa.Integer(), server_default="0", nullable=False),
        sa.Column("status", sa.Text(), server_default="unknown", nullable=False),
        sa.Column("circulation_as_of", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_license_pools_collection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["identifier_id"], ["identifiers.id"], name=op.f("fk_license_pools_identifier_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_license_pools")),
        sa.UniqueConstraint(
            "collection_id",
            "data_source",
            "identifier_id",
            name=op.f("uq_license_pools_collection_id_data_source_identifier_id"),
        ),
    )
    op.create_index(op.f("ix_license_pools_identifier_id"), "license_pools", ["identifier_id"], unique=False)
    op.create_table(
        "rejected_records",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("purchased_on", sa.Date(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("raw_xml", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_rejected_records_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rejected_records")),
        sa.UniqueConstraint(
            "collection_id",
            "purchased_on",
            "content_hash",
            name=op.f("uq_rejected_records_collection_id_purchased_on_content_hash"),
        ),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cursor", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("records_fetched", sa.Integer(), nullable=False),
        sa.Column("records_rejected", sa.Integer(), nullable=False),
        sa.Column("titles_new", sa.Integer(), nullable=False),
        sa.Column("titles_changed", sa.Integer(), nullable=False),
        sa.Column("repairs", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_runs_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("task_id", name=op.f("uq_runs_task_id")),
    )
    op.create_index(
        "ix_runs_active",
        "runs",
        ["collection_id"],
        unique=False,
        postgresql_where=sa.text("state IN ('running', 'retrying')"),
    )
    op.create_index(
        "ix_runs_collection_id_workflow_id", "runs", ["collection_id", "workflow", "id"], unique=False
    )
    op.create_table(
        "timestamps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("service_type", sa.Text(), nullable=False),
        sa.Column("finish", sa.DateTime(timezone=True), nullable=True),
        sa.Column("counter", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_timestamps_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_timestamps")),
        sa.UniqueConstraint(
            "collection_id",
            "service",
            "service_type",
            name=op.f("uq_timestamps_collection_id_service_service_type"),
        ),
    )
    op.create_table(
        "apply_outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("license_pool_id", sa.Integer(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["license_pool_id"],
            ["license_pools.id"],
            name=op.f("fk_apply_outbox_license_pool_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_apply_outbox")),
        sa.UniqueConstraint("license_pool_id", name=op.f("uq_apply_outbox_license_pool_id")),
    )
    op.create_index(op.f("ix_apply_outbox_published_at"), "apply_outbox", ["published_at"], unique=False)
    op.create_table(
        "classifications",
        sa.Column("edition_id", sa.Integer(), nullable=False),
        sa.Column("subject_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["edition_id"], ["editions.id"], name=op.f("fk_classifications_edition_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["subject_id"], ["subjects.id"], name=op.f("fk_classifications_subject_id")),
        sa.PrimaryKeyConstraint("edition_id", "subject_id", name=op.f("pk_classifications")),
    )
    op.create_index(op.f("ix_classifications_subject_id"), "classifications", ["subject_id"], unique=False)
    op.create_table(
        "contributions",
        sa.Column("edition_id", sa.Integer(), nullable=False),
        sa.Column("contributor_id", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["contributor_id"], ["contributors.id"], name=op.f("fk_contributions_contributor_id")
        ),
        sa.ForeignKeyConstraint(
            ["edition_id"], ["editions.id"], name=op.f("fk_contributions_edition_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("edition_id", "contributor_id", "role", name=op.f("pk_contributions")),
    )
    op.create_index(
        op.f("ix_contributions_contributor_id"), "contributions", ["contributor_id"], unique=False
    )
    op.create_table(
        "links",
        sa.Column("edition_id", sa.Integer(), nullable=False),
        sa.Column("rel", sa.Text(), nullable=False),
        sa.Column("href", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["edition_id"], ["editions.id"], name=op.f("fk_links_edition_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("edition_id", "rel", "href", name=op.f("pk_links")),
    )
    op.create_table(
        "purchase_records",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("license_pool_id", sa.Integer(), nullable=False),
        sa.Column("purchased_on", sa.Date(), nullable=False),
        sa.Column("marc", sa.LargeBinary(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["license_pool_id"],
            ["license_pools.id"],
            name=op.f("fk_purchase_records_license_pool_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_purchase_records")),
        sa.UniqueConstraint(
            "license_pool_id", "purchased_on", name=op.f("uq_purchase_records_license_pool_id_purchased_on")
        ),
    )


def downgrade() -> None:
    """Take the change back."""
    op.drop_table("purchase_records")
    op.drop_table("links")
    op.drop_index(op.f("ix_contributions_contributor_id"), table_name="contributions")
    op.drop_table("contributions")
    op.drop_index(op.f("ix_classifications_subject_id"), table_name="classifications")
    op.drop_table("classifications")
    op.drop_index(op.f("ix_apply_outbox_published_at"), table_name="apply_outbox")
    op.drop_table("apply_outbox")
    op.drop_table("timestamps")
    op.drop_index("ix_runs_collection_id_workflow_id", table_name="runs")
    op.drop_index(
        "ix_runs_active", table_name="runs", postgresql_where=sa.text("state IN ('running', 'retrying')")
    )
    op.drop_table("runs")
    op.drop_table("rejected_records")
    op.drop_index(op.f("ix_license_pools_identifier_id"), table_name="license_pools")
    op.drop_table("license_pools")
    op.drop_index(op.f("ix_identifier_equivalents_equivalent_id"), table_name="identifier_equivalents")
    op.drop_table("identifier_equivalents")
    op.drop_table("editions")
    op.drop_table("subjects")
    op.drop_table("identifiers")
    op.drop_table("contributors")
    op.drop_index(
        "uq_collections_name_in_use",
        table_name="collections",
        postgresql_where=sa.text("marked_for_deletion_at IS NULL"),
    )
    op.drop_table("collections")
