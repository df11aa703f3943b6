"""What an operator sees: the course of runs, purchases over time, changes of titles, notes, search."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from accession.core.errors import UserError

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_EXTENSIONS = ("pg_trgm", "unaccent")
_EXHAUSTED = "ix_license_pools_exhausted"
_BY_STATE = "ix_runs_state_id"
_BY_DAY = "ix_purchase_records_collection_id_purchased_on"
_BY_TITLE = "ix_purchase_records_collection_id_license_pool_id"


def upgrade() -> None:
    """Make the change."""
    _keep_the_course_of_runs()
    _find_purchases_by_their_collection()
    _keep_the_changes_of_titles()
    op.add_column("rejected_records", sa.Column("note", sa.Text(), nullable=True))
    _find_titles_by_words()


def downgrade() -> None:
    """Undo it. The extensions stay: somebody else may use them by now."""
    op.drop_index(_EXHAUSTED, "license_pools")
    for name in ("search_trigrams", "search_words", "language", "format"):
        op.drop_index(f"ix_editions_{name}", "editions")
    op.drop_column("editions", "search_words")
    op.drop_column("editions", "search_text")
    op.execute("DROP FUNCTION accession_fold(text)")
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


def _find_titles_by_words() -> None:
    for name in _EXTENSIONS:
        _make_extension(name)
    _make_fold()
    op.add_column("editions", sa.Column("search_text", sa.Text(), nullable=True))
    op.execute(_FILL)
    words = sa.Computed("to_tsvector('simple'::regconfig, accession_fold(search_text))", persisted=True)
    op.add_column("editions", sa.Column("search_words", postgresql.TSVECTOR(), words, nullable=True))
    op.create_index("ix_editions_format", "editions", ["format"])
    op.create_index("ix_editions_language", "editions", ["language"])
    op.create_index("ix_editions_search_words", "editions", ["search_words"], postgresql_using="gin")
    op.create_index(
        "ix_editions_search_trigrams",
        "editions",
        [sa.text("accession_fold(search_text) gin_trgm_ops")],
        postgresql_using="gin",
    )
    op.create_index(
        _EXHAUSTED, "license_pools", ["collection_id", "id"], postgresql_where=sa.text("status = 'exhausted'")
    )


def _make_extension(name: str) -> None:
    try:
        op.execute(f"CREATE EXTENSION IF NOT EXISTS {name}")
    except sa.exc.DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        raise UserError(
            f"The database cannot have the extension {name} ({reason}): install PostgreSQL's contrib modules "
            f"on its server, and have its administrator run CREATE EXTENSION {name} in this database."
        ) from error


def _make_fold() -> None:
    """What words are compared as: `Élan-vital` is `elan vital`.

    The signs are those with which full text search makes an address, a tag or a number of several words. The
    body is parsed here and now, and finds the extensions whatever the search path of a dump or a restore is.
    It is as immutable as the rules of unaccent, which at most a new PostgreSQL changes.
    """
    op.execute(
        "CREATE FUNCTION accession_fold(said text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE"
        " RETURN translate(lower(unaccent('unaccent', said)), '&+-./<>@', '        ')"
    )


_FILL = """
UPDATE editions SET search_text = left(regexp_replace(normalize(concat_ws(
    ' ',
    title,
    subtitle,
    (
        SELECT string_agg(display_name, ' ' ORDER BY position)
        FROM contributions JOIN contributors ON contributors.id = contributor_id
        WHERE edition_id = editions.id
    ),
    publisher,
    (
        SELECT string_agg(identifier, ' ' ORDER BY position)
        FROM identifier_equivalents AS same JOIN identifiers ON identifiers.id = equivalent_id
        WHERE same.identifier_id = editions.identifier_id AND same.data_source = editions.data_source
    ),
    (SELECT identifier FROM identifiers WHERE identifiers.id = editions.identifier_id)
), NFKC), '\\s+', ' ', 'g'), 4000)
WHERE content_hash IS NOT NULL
"""
