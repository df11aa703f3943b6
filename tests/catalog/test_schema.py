"""Migrations: the database is what the models say, on every way there and back."""

import os
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, func, inspect, select, text
from sqlalchemy.orm import Session

from accession.catalog import schema
from accession.catalog.apply import apply_outbox, put_in_outbox
from accession.catalog.circulation import record_events
from accession.catalog.counts import Counts
from accession.catalog.ledger import Workflow, note_swept, open_run, timestamp
from accession.catalog.models import Base, Edition, LicensePool
from accession.errors import UserError
from tests.making import (
    NOON,
    PATIENCE,
    event_data,
    make_collection,
    make_pool,
    title_data,
    wait_for_blocked,
)

TAKING_TURNS = 20140101


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def put_something_everywhere(engine: Engine) -> None:
    with Session(engine) as session:
        collection = make_collection(session, "Alder Library")
        pool = make_pool(session, collection, "abc")
        apply_outbox(session, put_in_outbox(session, [(pool, title_data("abc"))]))
        put_in_outbox(session, [(pool, title_data("abc", title="Later"))])
        record_events(session, collection, {"abc": pool}, [event_data("1", "CHECKOUT", "abc", at=NOON)])
        note_swept(session, collection, after_id=0, last_id=None, told=[pool.identifier_id], at=NOON)
        timestamp(session, collection, Workflow.PURCHASES)
        open_run(session, collection.id, Workflow.PURCHASES, "task", {"offset": 1})
        session.commit()


def test_an_empty_database_has_no_schema_and_is_not_newer(scratch: Engine) -> None:
    state = schema.schema_state(scratch)

    assert (state.found, state.known, state.current) == (None, True, False)
    schema.refuse_newer(state)


def test_migrations_make_exactly_what_the_models_say(scratch: Engine) -> None:
    before = schema.upgrade(scratch)

    assert before.found is None
    assert schema.schema_state(scratch).current
    with scratch.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_an_upgrade_of_a_current_database_changes_nothing(scratch: Engine) -> None:
    schema.upgrade(scratch)
    put_something_everywhere(scratch)

    before = schema.upgrade(scratch)

    assert before.current
    with Session(scratch) as session:
        assert session.scalar(select(func.count()).select_from(Edition)) == 1


def test_a_full_database_can_go_back_to_nothing_and_forth_again(scratch: Engine) -> None:
    schema.upgrade(scratch)
    put_something_everywhere(scratch)

    schema.downgrade(scratch, "base")
    assert tables(scratch) == {"alembic_version"}
    assert schema.schema_state(scratch).found is None

    schema.upgrade(scratch)
    assert tables(scratch) == {"alembic_version", *Base.metadata.tables}
    put_something_everywhere(scratch)


def test_counts_from_before_there_were_events_are_the_last_snapshot(scratch: Engine) -> None:
    schema.upgrade(scratch)
    put_something_everywhere(scratch)
    schema.downgrade(scratch, "0001")
    with scratch.begin() as connection:
        connection.execute(
            text(
                "UPDATE license_pools SET licenses_owned = 5, licenses_available = 2,"
                " licenses_reserved = 1, patrons_in_hold_queue = 3"
            )
        )

    schema.upgrade(scratch)

    with Session(scratch) as session:
        pool = session.scalars(select(LicensePool)).one()
        assert pool.counts == pool.snapshot == Counts(5, 2, 1, 3)


def test_two_programs_that_upgrade_at_once_take_turns(scratch: Engine) -> None:
    program = (
        "from accession.catalog.schema import upgrade\n"
        "from accession.database import make_engine\n"
        "import os\n"
        "upgrade(make_engine(os.environ['SCRATCH']))"
    )
    environment = os.environ | {"SCRATCH": scratch.url.render_as_string(hide_password=False)}
    with scratch.connect() as connection:
        # Holding their lock makes sure that both have found an empty database before either migrates.
        connection.execute(text(f"SELECT pg_advisory_lock({TAKING_TURNS})"))
        programs = [
            subprocess.Popen(
                [sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        try:
            wait_for_blocked(connection, 2)
            connection.execute(text(f"SELECT pg_advisory_unlock({TAKING_TURNS})"))
            said = [program.communicate(timeout=PATIENCE)[1] for program in programs]
        finally:
            for left in programs:
                left.kill()

    assert [(program.returncode, text) for program, text in zip(programs, said, strict=True)] == [(0, "")] * 2
    assert schema.schema_state(scratch).current


def test_a_database_newer_than_the_program_is_refused_and_left_alone(scratch: Engine) -> None:
    schema.upgrade(scratch)
    with scratch.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    assert not schema.schema_state(scratch).known
    with pytest.raises(UserError, match=r"has schema 9999, which this version .* does not know: install"):
        schema.upgrade(scratch)
    assert schema.schema_state(scratch).found == "9999"


def test_a_server_that_is_too_old_is_refused_before_anything_is_made(
    scratch: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "OLDEST_POSTGRESQL", 99)

    with pytest.raises(UserError, match="Accession needs 99 or newer"):
        schema.upgrade(scratch)
    assert tables(scratch) == set()
