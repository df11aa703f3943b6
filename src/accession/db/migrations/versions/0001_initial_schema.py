"""Initial schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from accession.core.errors import UserError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table, index, function and extension."""
    for extension in ("pg_trgm", "unaccent"):
        _create_extension(extension)
    _create_fold_function()
    _create_collections()
    _create_titles()
    _create_editions()
    _create_circulation()
    _create_statistics()
    _create_runs()
    _create_verification()
    _create_users_and_tokens()
    _create_notifications()
    _create_digests()
    _create_webhooks()
    _create_audit_log()
    _create_storage()


def _create_extension(name: str) -> None:
    try:
        op.execute(f"CREATE EXTENSION IF NOT EXISTS {name}")
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        raise UserError(
            f"The database extension {name} cannot be created ({reason}): install PostgreSQL's contrib "
            f"modules on its server, and have its administrator run CREATE EXTENSION {name} in this database."
        ) from error


def _create_fold_function() -> None:
    """Create `accession_fold`, which removes accents, case and joining signs: `Élan-vital` -> `elan vital`.

    Full text search would otherwise read words joined by such signs as an address, a tag or a number. The
    body is parsed at creation (RETURN, not a string), so that it resolves unaccent under any search path,
    such as that of pg_restore. IMMUTABLE holds as long as unaccent's rules, which change at most with a new
    PostgreSQL version.

    Invisible characters, which titles contain where a script needs them, are removed, too. `translate` could
    do both, but takes five times as long.
    """
    op.execute(
        "CREATE FUNCTION accession_fold(value text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE"
        " RETURN regexp_replace("
        "regexp_replace(lower(unaccent('unaccent', value)), '[&+./<>@-]', ' ', 'g'),"
        r" U&'[\034F\061C\200C\200D\200E\200F\202A\202B\202C\2066\2067\2068\2069\FE0E\FE0F]', '', 'g')"
    )


def _create_collections() -> None:
    op.create_table(
        "collections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("library_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("account_key_encrypted", sa.LargeBinary(), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("vendor_max_concurrency", sa.Integer(), nullable=True),
        sa.Column("vendor_max_requests_per_second", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("marked_for_deletion_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events_pruned_before", sa.DateTime(timezone=True), nullable=True),
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
        "timestamps",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("service_type", sa.Text(), nullable=False),
        sa.Column("finish", sa.DateTime(timezone=True), nullable=True),
        sa.Column("confirmed", sa.DateTime(timezone=True), nullable=True),
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
        "workflow_schedules",
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=True),
        sa.Column("time_zone", sa.Text(), nullable=True),
        sa.Column("jitter_minutes", sa.Integer(), nullable=True),
        sa.Column("started_until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_workflow_schedules_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("collection_id", "workflow", name=op.f("pk_workflow_schedules")),
    )


def _create_titles() -> None:
    op.create_table(
        "identifiers",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identifiers")),
        sa.UniqueConstraint("type", "identifier", name=op.f("uq_identifiers_type_identifier")),
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
        sa.Column("snapshot_owned", sa.Integer(), server_default="0", nullable=False),
        sa.Column("snapshot_available", sa.Integer(), server_default="0", nullable=False),
        sa.Column("snapshot_reserved", sa.Integer(), server_default="0", nullable=False),
        sa.Column("snapshot_holds", sa.Integer(), server_default="0", nullable=False),
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
    op.create_index(op.f("ix_license_pools_identifier_id"), "license_pools", ["identifier_id"])
    op.create_index("ix_license_pools_collection_id_id", "license_pools", ["collection_id", "id"])
    op.create_index(
        "ix_license_pools_exhausted",
        "license_pools",
        ["collection_id", "id"],
        postgresql_where=sa.text("status = 'exhausted'"),
    )
    op.create_index(
        "ix_license_pools_on_order",
        "license_pools",
        ["collection_id", "id"],
        postgresql_where=sa.text("status = 'on order'"),
    )
    for name, columns in (
        ("ix_license_pools_with_holds", ["collection_id", "patrons_in_hold_queue", "id"]),
        ("ix_license_pools_with_holds_of_all", ["patrons_in_hold_queue", "id"]),
    ):
        op.create_index(name, "license_pools", columns, postgresql_where=sa.text("patrons_in_hold_queue > 0"))
    op.create_index("ix_license_pools_updated_at", "license_pools", ["updated_at"])
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
    op.create_index(op.f("ix_apply_outbox_published_at"), "apply_outbox", ["published_at"])
    op.create_table(
        "purchase_records",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("license_pool_id", sa.Integer(), nullable=False),
        sa.Column("purchased_on", sa.Date(), nullable=False),
        sa.Column("marc", sa.LargeBinary(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("month_only", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("listed", sa.Integer(), server_default="1", nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("warnings", postgresql.JSONB(astext_type=sa.Text()), server_default="[]", nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_purchase_records_collection_id"),
            ondelete="CASCADE",
        ),
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
    op.create_index(
        "ix_purchase_records_collection_id_purchased_on",
        "purchase_records",
        ["collection_id", "purchased_on", "license_pool_id"],
    )
    op.create_index(
        "ix_purchase_records_purchased_on", "purchase_records", ["purchased_on", "license_pool_id"]
    )
    op.create_index(
        "ix_purchase_records_collection_id_license_pool_id",
        "purchase_records",
        ["collection_id", "license_pool_id"],
    )
    op.create_index(
        "ix_purchase_records_warnings",
        "purchase_records",
        ["license_pool_id"],
        postgresql_where=sa.text("warnings <> '[]'"),
    )
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
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("month_only", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
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
    op.create_index(
        "ix_rejected_records_open",
        "rejected_records",
        ["collection_id"],
        postgresql_where=sa.text("resolved_at IS NULL"),
    )
    op.create_index(
        "ix_rejected_records_resolved_at",
        "rejected_records",
        ["resolved_at"],
        postgresql_where=sa.text("raw_xml <> ''"),
    )


def _create_editions() -> None:
    op.create_table(
        "editions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("data_source", sa.Text(), nullable=False),
        sa.Column("identifier_id", sa.Integer(), nullable=False),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("subtitle", sa.Text(), nullable=True),
        sa.Column("publisher", sa.Text(), nullable=True),
        sa.Column("published", sa.Text(), nullable=True),
        sa.Column("on_sale", sa.Text(collation="C"), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("page_count", sa.Integer(), nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("medium", sa.Text(), nullable=True),
        sa.Column("format", sa.Text(), nullable=True),
        sa.Column("sort_title", sa.Text(collation="C"), nullable=True),
        sa.Column("sort_author", sa.Text(collation="C"), nullable=True),
        sa.Column("audience", sa.Text(), nullable=True),
        sa.Column("content_hash", sa.Text(), nullable=True),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("search_text", sa.Text(), nullable=True),
        sa.Column(
            "search_words",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('simple'::regconfig, accession_fold(search_text))", persisted=True),
            nullable=True,
        ),
        sa.ForeignKeyConstraint(
            ["identifier_id"], ["identifiers.id"], name=op.f("fk_editions_identifier_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_editions")),
        sa.UniqueConstraint(
            "data_source",
            "identifier_id",
            name=op.f("uq_editions_data_source_identifier_id"),
            postgresql_include=["format", "language", "audience"],
        ),
    )
    key = ["data_source", "identifier_id"]
    for name, columns, filters in (
        ("format", ["format"], []),
        ("audience", ["audience"], []),
        ("sort_title", ["sort_title"], ["format", "language", "audience"]),
        ("sort_author", ["sort_author"], ["format", "language", "audience"]),
        ("language_sort_title", ["language", "sort_title"], ["format", "audience"]),
        ("language_sort_author", ["language", "sort_author"], ["format", "audience"]),
    ):
        op.create_index(f"ix_editions_{name}", "editions", columns, postgresql_include=[*key, *filters])
    op.create_index("ix_editions_on_sale", "editions", ["on_sale"])
    op.create_index("ix_editions_search_words", "editions", ["search_words"], postgresql_using="gin")
    op.create_index(
        "ix_editions_search_trigrams",
        "editions",
        [sa.text("accession_fold(search_text) gin_trgm_ops")],
        postgresql_using="gin",
    )
    op.create_index("ix_editions_updated_at", "editions", ["updated_at"])
    op.create_table(
        "contributors",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sort_name", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_contributors")),
        sa.UniqueConstraint("sort_name", "display_name", name=op.f("uq_contributors_sort_name_display_name")),
    )
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
    op.create_index(op.f("ix_contributions_contributor_id"), "contributions", ["contributor_id"])
    op.create_table(
        "subjects",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("scheme", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subjects")),
        sa.UniqueConstraint("scheme", "name", name=op.f("uq_subjects_scheme_name")),
    )
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
    op.create_index(op.f("ix_classifications_subject_id"), "classifications", ["subject_id"])
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
        "title_changes",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("edition_id", sa.Integer(), nullable=True),
        sa.Column("license_pool_id", sa.Integer(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changes", postgresql.JSONB(), nullable=False),
        sa.CheckConstraint(
            "num_nonnulls(edition_id, license_pool_id) = 1", name=op.f("ck_title_changes_one_owner")
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
        op.create_index(
            f"ix_title_changes_changed_at_of_{owner}",
            "title_changes",
            ["changed_at"],
            postgresql_where=sa.text(f"{owner} IS NOT NULL"),
        )
    op.create_index(
        "ix_title_changes_licenses_owned",
        "title_changes",
        ["changed_at", "license_pool_id"],
        postgresql_where=sa.text("license_pool_id IS NOT NULL AND changes ? 'licenses_owned'"),
    )


def _create_circulation() -> None:
    op.create_table(
        "circulation_events",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("license_pool_id", sa.Integer(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("rolled_up", sa.Boolean(), server_default=sa.false(), nullable=False),
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
    op.create_index(
        "ix_circulation_events_collection_id_occurred_at",
        "circulation_events",
        ["collection_id", "occurred_at"],
    )
    op.create_index(
        "ix_circulation_events_to_roll_up",
        "circulation_events",
        ["occurred_at", "id"],
        postgresql_where=sa.text("NOT rolled_up"),
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


def _create_statistics() -> None:
    op.create_table(
        "circulation_totals",
        sa.Column("license_pool_id", sa.Integer(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        _pool_of("circulation_totals"),
        sa.PrimaryKeyConstraint("license_pool_id", "day", "event_type", name=op.f("pk_circulation_totals")),
    )
    op.create_index("ix_circulation_totals_day", "circulation_totals", ["day"], postgresql_using="brin")
    op.create_index(
        "ix_circulation_totals_removed",
        "circulation_totals",
        ["day", "license_pool_id"],
        postgresql_where=sa.text("event_type = 'REMOVED'"),
    )
    op.create_table(
        "circulation_months",
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        _collection_of("circulation_months"),
        sa.PrimaryKeyConstraint("collection_id", "month", "event_type", name=op.f("pk_circulation_months")),
    )
    op.create_table(
        "title_statistics",
        sa.Column("license_pool_id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("loans", sa.Integer(), server_default="0", nullable=False),
        sa.Column("loans_last_year", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_loan_on", sa.Date(), nullable=True),
        sa.Column("first_purchased_on", sa.Date(), nullable=True),
        sa.Column("unused_since", sa.Date(), nullable=True),
        sa.Column("edition_id", sa.Integer(), nullable=True),
        sa.Column("format", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("audience", sa.Text(), nullable=True),
        sa.Column("has_metadata", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("has_cover", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("has_subject", sa.Boolean(), server_default=sa.true(), nullable=False),
        _pool_of("title_statistics"),
        _collection_of("title_statistics"),
        sa.PrimaryKeyConstraint("license_pool_id", name=op.f("pk_title_statistics")),
    )
    for name in ("loans", "loans_last_year", "unused_since"):
        of_collection = ["collection_id", name, "license_pool_id"]
        op.create_index(f"ix_title_statistics_{name}", "title_statistics", of_collection)
        op.create_index(f"ix_title_statistics_{name}_of_all", "title_statistics", of_collection[1:])
    op.create_index(
        "ix_title_statistics_incomplete",
        "title_statistics",
        ["collection_id", "license_pool_id"],
        postgresql_where=sa.text("NOT (has_metadata AND has_cover)"),
    )
    for name, condition in (
        ("format", "format IS NULL"),
        ("language", "language IS NULL"),
        ("subject", "NOT has_subject"),
        ("purchase", "first_purchased_on IS NULL"),
    ):
        op.create_index(
            f"ix_title_statistics_without_{name}",
            "title_statistics",
            ["collection_id", "license_pool_id"],
            postgresql_where=sa.text(condition),
        )
    op.create_table(
        "title_groups",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=True),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("titles", sa.Integer(), nullable=False),
        sa.Column("copies", sa.Integer(), nullable=False),
        sa.Column("holds", sa.Integer(), nullable=False),
        sa.Column("loans_last_year", sa.Integer(), nullable=False),
        _collection_of("title_groups"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_title_groups")),
    )
    op.create_index(
        "uq_title_groups_kind_collection_id_value",
        "title_groups",
        ["kind", "collection_id", "value"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "collection_overlaps",
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("other_id", sa.Integer(), nullable=False),
        sa.Column("titles", sa.Integer(), nullable=False),
        _collection_of("collection_overlaps"),
        sa.ForeignKeyConstraint(
            ["other_id"],
            ["collections.id"],
            name=op.f("fk_collection_overlaps_other_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("collection_id", "other_id", name=op.f("pk_collection_overlaps")),
    )
    op.create_table(
        "statistics_state",
        sa.Column("id", sa.Integer(), server_default="1", nullable=False),
        sa.Column("year_until", sa.Date(), nullable=True),
        sa.Column("refreshed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("refresh_seconds", sa.Float(), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_statistics_state_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statistics_state")),
    )
    op.create_table(
        "oai_repository",
        sa.Column("id", sa.Integer(), server_default="1", nullable=False),
        sa.Column("namespace", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_oai_repository_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_oai_repository")),
    )
    op.create_table(
        "export_results",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("file", sa.Text(), nullable=True),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("titles", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_export_results")),
    )


def _pool_of(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["license_pool_id"],
        ["license_pools.id"],
        name=op.f(f"fk_{table}_license_pool_id"),
        ondelete="CASCADE",
    )


def _collection_of(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["collection_id"], ["collections.id"], name=op.f(f"fk_{table}_collection_id"), ondelete="CASCADE"
    )


def _create_runs() -> None:
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
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.Column("pending_lookups", sa.Integer(), nullable=False),
        sa.Column("pending_since_page", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("records_stored", sa.Integer(), nullable=False),
        sa.Column("sampled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "records_fetched = records_stored + records_rejected", name=op.f("ck_runs_records_accounted_for")
        ),
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
        postgresql_where=sa.text("state IN ('queued', 'running', 'retrying')"),
    )
    op.create_index("ix_runs_collection_id_workflow_id", "runs", ["collection_id", "workflow", "id"])
    op.create_index("ix_runs_collection_id_id", "runs", ["collection_id", "id"])
    op.create_index("ix_runs_state_id", "runs", ["state", "id"])
    op.create_index(
        "ix_runs_collection_id_workflow_state_id", "runs", ["collection_id", "workflow", "state", "id"]
    )
    op.create_index("ix_runs_finished_at", "runs", ["finished_at"])
    op.create_table(
        "run_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("succeeded", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("interrupted", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("pages", sa.BigInteger(), nullable=False),
        sa.Column("records_fetched", sa.BigInteger(), nullable=False),
        sa.Column("records_stored", sa.BigInteger(), nullable=False),
        sa.Column("records_rejected", sa.BigInteger(), nullable=False),
        sa.Column("titles_new", sa.BigInteger(), nullable=False),
        sa.Column("titles_changed", sa.BigInteger(), nullable=False),
        sa.Column("repairs", sa.BigInteger(), nullable=False),
        sa.Column("restarts", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_run_days_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("day", "collection_id", "workflow", name=op.f("pk_run_days")),
    )
    op.create_index("ix_run_days_collection_id_day", "run_days", ["collection_id", "day"])
    op.create_table(
        "workflow_pauses",
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("has_stopped_run", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_workflow_pauses_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("collection_id", "workflow", name=op.f("pk_workflow_pauses")),
    )
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
    op.create_table(
        "run_steps",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("seconds", sa.REAL(), nullable=False),
        sa.Column("fetch_seconds", sa.REAL(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("records", sa.Integer(), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("offset", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_steps_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "number", "started_at", name=op.f("pk_run_steps")),
    )
    op.create_table(
        "run_step_totals",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("fetch_seconds", sa.Double(), nullable=False),
        sa.Column("store_seconds", sa.Double(), nullable=False),
        sa.Column("slot_seconds", sa.Double(), nullable=False),
        sa.Column("log_lines", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_step_totals_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run_step_totals")),
    )
    op.create_table(
        "run_requests",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("max_seconds", sa.REAL(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_requests_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "endpoint", "outcome", name=op.f("pk_run_requests")),
    )
    op.create_table(
        "run_log_lines",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("page", sa.Integer(), nullable=True),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_log_lines_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "id", name=op.f("pk_run_log_lines")),
    )
    op.create_table(
        "run_totals",
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("pages", sa.BigInteger(), nullable=False),
        sa.Column("records_fetched", sa.BigInteger(), nullable=False),
        sa.Column("records_stored", sa.BigInteger(), nullable=False),
        sa.Column("records_rejected", sa.BigInteger(), nullable=False),
        sa.Column("titles_new", sa.BigInteger(), nullable=False),
        sa.Column("titles_changed", sa.BigInteger(), nullable=False),
        sa.Column("repairs", sa.BigInteger(), nullable=False),
        sa.Column("restarts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workflow", name=op.f("pk_run_totals")),
    )
    op.create_table(
        "run_titles",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.Column("is_pending", sa.Boolean(), nullable=False),
        sa.Column("is_new", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_run_titles_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "identifier", name=op.f("pk_run_titles")),
    )
    op.create_index("ix_run_titles_pending", "run_titles", ["run_id"], postgresql_where=sa.text("is_pending"))


def _create_verification() -> None:
    op.create_table(
        "verified_months",
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("listed", sa.Integer(), nullable=False),
        sa.Column("missing", sa.Integer(), nullable=False),
        sa.Column("moved", sa.Integer(), nullable=False),
        sa.Column("extra", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_verified_months_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("collection_id", "month", name=op.f("pk_verified_months")),
    )
    op.create_table(
        "verification_findings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("identifier", sa.Text(), nullable=False),
        sa.Column("first_day", sa.Date(), nullable=False),
        sa.Column("last_day", sa.Date(), nullable=False),
        sa.Column("moved_to", sa.Text(), nullable=True),
        sa.Column("purchases", sa.Integer(), nullable=False),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_verification_findings_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verification_findings")),
    )
    op.create_index(
        "uq_verification_findings_open",
        "verification_findings",
        ["collection_id", "kind", "identifier", "first_day"],
        unique=True,
        postgresql_where=sa.text("resolved_at IS NULL"),
    )
    op.create_index(
        "ix_verification_findings_collection_id_identifier",
        "verification_findings",
        ["collection_id", "identifier"],
    )
    op.create_index(
        "ix_verification_findings_resolved_at",
        "verification_findings",
        ["resolved_at"],
        postgresql_where=sa.text("resolved_at IS NOT NULL"),
    )
    op.create_table(
        "listed_records",
        sa.Column("run_id", sa.Integer(), nullable=False),
        sa.Column("is_verification", sa.Boolean(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("listed", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_listed_records_run_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "is_verification", "key", name=op.f("pk_listed_records")),
    )
    op.create_table(
        "undated_records",
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("raw_xml", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_undated_records_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("collection_id", "key", name=op.f("pk_undated_records")),
    )


def _create_users_and_tokens() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("oidc_issuer", sa.Text(), nullable=True),
        sa.Column("oidc_subject", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_login_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deactivated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("session_key", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "num_nonnulls(password_hash, oidc_subject) = 1 AND num_nonnulls(oidc_issuer, oidc_subject) <> 1",
            name=op.f("ck_users_password_or_provider"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
        sa.UniqueConstraint("oidc_issuer", "oidc_subject", name=op.f("uq_users_oidc_issuer_oidc_subject")),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("feeds", sa.ARRAY(sa.Text()), nullable=True),
        sa.Column("collection_id", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "num_nonnulls(role, feeds) = 1 AND num_nonnulls(role, collection_id) < 2",
            name=op.f("ck_api_tokens_role_or_feeds"),
        ),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_api_tokens_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_tokens_token_hash")),
    )
    op.create_index(
        "uq_api_tokens_name_in_use",
        "api_tokens",
        ["name"],
        unique=True,
        postgresql_where=sa.text("revoked_at IS NULL"),
    )


def _create_audit_log() -> None:
    """Create the audit log, and the triggers that protect it.

    No entry can be changed, and none younger than 90 days be deleted: not by a bug, and not by somebody who
    can send statements through Accession. The owner of the table can remove the triggers.
    """
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor_kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_table(
        "process_settings",
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("settings", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("process", name=op.f("pk_process_settings")),
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"])
    op.create_index("ix_audit_log_action_id", "audit_log", ["action", "id"])
    op.create_index("ix_audit_log_actor_id", "audit_log", ["actor", "id"])
    op.create_index("ix_audit_log_subject_id", "audit_log", ["subject", "id"])
    op.execute("""
        CREATE FUNCTION accession_protect_audit_log() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' AND OLD.at < now() - INTERVAL '90 days' THEN
                RETURN OLD;
            END IF;
            RAISE EXCEPTION 'the audit log is append-only: its entries cannot be changed, and not be deleted '
                'before they are 90 days old' USING ERRCODE = 'restrict_violation';
        END
        $$
    """)
    op.execute(
        "CREATE TRIGGER protect_entries BEFORE UPDATE OR DELETE ON audit_log"
        " FOR EACH ROW EXECUTE FUNCTION accession_protect_audit_log()"
    )
    op.execute(
        "CREATE TRIGGER protect_table BEFORE TRUNCATE ON audit_log"
        " FOR EACH STATEMENT EXECUTE FUNCTION accession_protect_audit_log()"
    )


def _create_storage() -> None:
    op.create_table(
        "prunings",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("pruned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_prunings")),
    )
    op.create_table(
        "table_sizes",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "name", name=op.f("pk_table_sizes")),
    )


def _create_notifications() -> None:
    op.create_table(
        "notification_channels",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("url_encrypted", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification_channels")),
        sa.UniqueConstraint("name", name=op.f("uq_notification_channels_name")),
    )
    op.create_table(
        "notification_rules",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("collection_ids", postgresql.ARRAY(sa.Integer()), nullable=True),
        sa.Column("min_severity", sa.Text(), nullable=False),
        sa.Column("quiet_hours", sa.Text(), nullable=True),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("critical_ignores_quiet_hours", sa.Boolean(), nullable=False),
        sa.Column("still_failing_hours", sa.Integer(), nullable=False),
        sa.Column("no_success_hours", sa.Integer(), nullable=False),
        sa.Column("rejected_records", sa.Integer(), nullable=False),
        sa.Column("disk_free_percent", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["channel_id"],
            ["notification_channels.id"],
            name=op.f("fk_notification_rules_channel_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification_rules")),
        sa.UniqueConstraint("name", name=op.f("uq_notification_rules_name")),
    )
    op.create_table(
        "notification_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=True),
        sa.Column("workflow", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_notification_events_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification_events")),
    )
    op.create_table(
        "notification_incidents",
        sa.Column("rule_id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=True),
        sa.Column("workflow", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Integer(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("notified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reminded_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_notification_incidents_collection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["rule_id"],
            ["notification_rules.id"],
            name=op.f("fk_notification_incidents_rule_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("rule_id", "key", name=op.f("pk_notification_incidents")),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("channel_id", sa.Integer(), nullable=True),
        sa.Column("rule_id", sa.Integer(), nullable=True),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("items", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["channel_id"],
            ["notification_channels.id"],
            name=op.f("fk_notifications_channel_id"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["rule_id"],
            ["notification_rules.id"],
            name=op.f("fk_notifications_rule_id"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
    )
    op.create_index(
        "ix_notifications_pending",
        "notifications",
        ["due_at"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index("ix_notifications_state_id", "notifications", ["state", "id"])
    op.create_index("ix_notifications_created_at", "notifications", ["created_at"])
    op.create_index("ix_notifications_channel_id_id", "notifications", ["channel_id", "id"])


def _create_digests() -> None:
    op.create_table(
        "digests",
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("frequency", sa.Text(), nullable=False),
        sa.Column("weekday", sa.Text(), nullable=False),
        sa.Column("time", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("recipients", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("send_empty", sa.Boolean(), nullable=False),
        sa.Column("max_titles", sa.Integer(), nullable=False),
        sa.Column("issued_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("covered_until", sa.Date(), nullable=True),
        sa.Column("purchases_until", sa.Date(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collections.id"], name=op.f("fk_digests_collection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("collection_id", name=op.f("pk_digests")),
    )
    op.create_table(
        "digest_issues",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=False),
        sa.Column("scheduled", sa.Boolean(), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_digest_issues_collection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_digest_issues")),
    )
    op.create_index("ix_digest_issues_collection_id_id", "digest_issues", ["collection_id", "id"])
    op.create_index("ix_digest_issues_created_at", "digest_issues", ["created_at"])
    op.create_table(
        "digest_mails",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("issue_id", sa.Integer(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["issue_id"], ["digest_issues.id"], name=op.f("fk_digest_mails_issue_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_digest_mails")),
    )
    op.create_index(
        "ix_digest_mails_open",
        "digest_mails",
        ["due_at"],
        postgresql_where=sa.text("state IN ('pending', 'sending')"),
    )
    op.create_index("ix_digest_mails_issue_id", "digest_mails", ["issue_id"])


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("collection_ids", postgresql.ARRAY(sa.Integer()), nullable=True),
        sa.Column("secret_encrypted", sa.LargeBinary(), nullable=False),
        sa.Column("previous_secret_encrypted", sa.LargeBinary(), nullable=True),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pause_reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
        sa.UniqueConstraint("name", name=op.f("uq_webhooks_name")),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("webhook_id", sa.Integer(), nullable=False),
        sa.Column("collection_id", sa.Integer(), nullable=True),
        sa.Column("license_pool_id", sa.Integer(), nullable=True),
        sa.Column("message_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_failed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("response", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhooks.id"],
            name=op.f("fk_webhook_deliveries_webhook_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collections.id"],
            name=op.f("fk_webhook_deliveries_collection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["license_pool_id"],
            ["license_pools.id"],
            name=op.f("fk_webhook_deliveries_license_pool_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(
        "ix_webhook_deliveries_pending",
        "webhook_deliveries",
        ["webhook_id", "collection_id", "id"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index("ix_webhook_deliveries_webhook_id_id", "webhook_deliveries", ["webhook_id", "id"])
    op.create_index(
        "ix_webhook_deliveries_webhook_id_state_id", "webhook_deliveries", ["webhook_id", "state", "id"]
    )
    op.create_index("ix_webhook_deliveries_created_at", "webhook_deliveries", ["created_at"])
