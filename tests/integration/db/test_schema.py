"""Schema and migrations: upgrades, their result, and databases that cannot be upgraded."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, func, inspect, select, text
from sqlalchemy.orm import Session

from accession.core.errors import UserError
from accession.db import schema
from accession.db.engine import make_engine
from accession.db.models import ACTIVE_STATES, Base, Edition
from tests.fixtures.factories import (
    TIMEOUT_SECONDS,
    populate_all_tables,
    scratch_database,
    wait_for_blocked,
)

MIGRATION_LOCK_KEY = 20140101


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_empty_database_has_no_revision(scratch: Engine) -> None:
    state = schema.schema_state(scratch)

    assert (state.revision, state.is_known, state.is_current) == (None, True, False)
    schema.require_known_schema(state)


def test_migration_files_are_named_after_their_revision() -> None:
    scripts = list(ScriptDirectory(str(schema.MIGRATIONS)).walk_revisions())

    assert all(Path(script.path).name.startswith(f"{script.revision}_") for script in scripts)
    assert scripts[0].revision == max(script.revision for script in scripts)


def test_migrations_create_the_tables_of_the_models(scratch: Engine) -> None:
    before = schema.upgrade(scratch)

    assert before.revision is None
    assert schema.schema_state(scratch).is_current
    with scratch.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def describe_schema(engine: Engine) -> dict[str, list[str]]:
    """Return PostgreSQL's own definition of every constraint, index and column."""
    statements = {
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid != 0",
        "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_schema = 'public'",
    }
    with engine.connect() as connection:
        return {
            kind: sorted(
                map(str, (row for row in connection.execute(text(query)) if "alembic" not in row[0]))
            )
            for kind, query in statements.items()
        }


def test_migrations_equal_models_in_every_condition(scratch: Engine) -> None:
    schema.upgrade(scratch)
    scratch.dispose()
    # A copy, because only the migrations create the extensions and functions.
    with scratch_database(str(scratch.url.database)) as other:
        Base.metadata.drop_all(other)
        Base.metadata.create_all(other)
        from_models = describe_schema(other)

    from_migrations = describe_schema(scratch)

    assert from_migrations == from_models
    assert any("ck_runs_records_accounted_for" in line for line in from_migrations["constraints"])
    (active,) = (line for line in from_migrations["indexes"] if "ix_runs_active" in line)
    assert all(f"'{state}'::text" in active for state in ACTIVE_STATES)


def test_upgrade_of_current_database_changes_nothing(scratch: Engine) -> None:
    schema.upgrade(scratch)
    populate_all_tables(scratch)

    before = schema.upgrade(scratch)

    assert before.is_current
    with Session(scratch) as session:
        assert session.scalar(select(func.count()).select_from(Edition)) == 1


@pytest.fixture
def tenant(scratch: Engine) -> Iterator[Engine]:
    """The scratch database for a user who can only create tables."""
    name = f"tenant_{uuid4().hex}"
    with scratch.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD '{name}'"))
        connection.execute(text(f"GRANT ALL ON SCHEMA public TO {name}"))
    url = scratch.url.set(username=name, password=name)
    tenant = make_engine(url.render_as_string(hide_password=False))
    yield tenant
    tenant.dispose()
    with scratch.begin() as connection:
        connection.execute(text(f"DROP OWNED BY {name}"))
        connection.execute(text(f"DROP ROLE {name}"))


def test_missing_extension_right_is_reported_before_changes(scratch: Engine, tenant: Engine) -> None:
    with pytest.raises(
        UserError,
        match=r"^The database extension pg_trgm cannot be created \(permission denied.*\): install .*\.$",
    ):
        schema.upgrade(tenant)

    assert tables(scratch) == set()


def test_upgrade_uses_existing_extensions(scratch: Engine, tenant: Engine) -> None:
    with scratch.begin() as connection:
        for name in ("pg_trgm", "unaccent"):
            connection.execute(text(f"CREATE EXTENSION {name}"))

    schema.upgrade(tenant)

    populate_all_tables(tenant)


UPGRADE_IN_TWO_PROCESSES = """
import os, sys
from accession.db.engine import make_engine
from accession.db.schema import upgrade

child = os.fork()
upgrade(make_engine(os.environ["SCRATCH"]))
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_concurrent_upgrades_wait_for_each_other(scratch: Engine) -> None:
    environment = os.environ | {"SCRATCH": scratch.url.render_as_string(hide_password=False)}
    with (
        scratch.connect() as connection,
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE_IN_TWO_PROCESSES],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            # Both processes have seen an empty database when they wait for this lock.
            connection.execute(text(f"SELECT pg_advisory_lock({MIGRATION_LOCK_KEY})"))
            wait_for_blocked(connection, 2)
            connection.execute(text(f"SELECT pg_advisory_unlock({MIGRATION_LOCK_KEY})"))
            errors = process.communicate(timeout=TIMEOUT_SECONDS)[1]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    assert (process.returncode, errors) == (0, "")
    assert schema.schema_state(scratch).is_current


def test_newer_database_is_refused_unchanged(scratch: Engine) -> None:
    schema.upgrade(scratch)
    with scratch.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    assert not schema.schema_state(scratch).is_known
    with pytest.raises(UserError, match=r"has schema 9999, which this version .* does not know: install"):
        schema.upgrade(scratch)
    assert schema.schema_state(scratch).revision == "9999"


def test_old_postgresql_is_refused_before_changes(scratch: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MIN_POSTGRESQL_VERSION", 99)

    with pytest.raises(UserError, match="Accession needs 99 or newer"):
        schema.upgrade(scratch)
    assert tables(scratch) == set()
