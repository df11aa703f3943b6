"""Migrations: the database is what the models say, on every way there and back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, func, inspect, select, text
from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db import schema
from accession.db.engine import make_engine
from accession.db.models import ACTIVE_STATES, Base, Collection, CopyCounts, Edition, LicensePool, RunTotals
from accession.runs.ledger import RunCounters, open_run, queue_runs, sum_run_counters
from tests.fixtures.factories import (
    NOON,
    TIMEOUT_SECONDS,
    make_collection,
    populate_all_tables,
    table_rows,
    scratch_database,
    wait_for_blocked,
)

TAKING_TURNS = 20140101


def tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def test_an_empty_database_has_no_schema_and_is_not_newer(scratch: Engine) -> None:
    state = schema.schema_state(scratch)

    assert (state.found, state.known, state.current) == (None, True, False)
    schema.require_known_schema(state)


def test_migrations_make_exactly_what_the_models_say(scratch: Engine) -> None:
    before = schema.upgrade(scratch)

    assert before.found is None
    assert schema.schema_state(scratch).current
    with scratch.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def spelled_out(engine: Engine) -> dict[str, list[Any]]:
    """Every constraint, index and column as PostgreSQL itself writes them, conditions included."""
    statements = {
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid != 0",
        "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default"
        " FROM information_schema.columns WHERE table_schema = 'public'",
    }
    with engine.connect() as connection:
        return {
            what: sorted(
                map(str, (row for row in connection.execute(text(query)) if "alembic" not in row[0]))
            )
            for what, query in statements.items()
        }


def test_conditions_of_constraints_and_indexes_are_those_of_the_models_too(scratch: Engine) -> None:
    schema.upgrade(scratch)
    scratch.dispose()
    # Extensions and functions are of the migrations alone.
    with scratch_database(str(scratch.url.database)) as other:
        Base.metadata.drop_all(other)
        Base.metadata.create_all(other)
        of_models = spelled_out(other)

    of_migrations = spelled_out(scratch)

    assert of_migrations == of_models
    assert any("ck_runs_records_kept" in line for line in of_migrations["constraints"])
    (active,) = (line for line in of_migrations["indexes"] if "ix_runs_active" in line)
    assert all(f"'{state}'::text" in active for state in ACTIVE_STATES)


def test_an_upgrade_of_a_current_database_changes_nothing(scratch: Engine) -> None:
    schema.upgrade(scratch)
    populate_all_tables(scratch)

    before = schema.upgrade(scratch)

    assert before.current
    with Session(scratch) as session:
        assert session.scalar(select(func.count()).select_from(Edition)) == 1


def test_a_full_database_can_go_back_to_nothing_and_forth_again(scratch: Engine) -> None:
    schema.upgrade(scratch)
    populate_all_tables(scratch)

    schema.downgrade(scratch, "base")
    assert tables(scratch) == {"alembic_version"}
    assert schema.schema_state(scratch).found is None

    schema.upgrade(scratch)
    assert tables(scratch) == {"alembic_version", *Base.metadata.tables}
    populate_all_tables(scratch)


def test_counts_from_before_there_were_events_are_the_last_snapshot(scratch: Engine) -> None:
    schema.upgrade(scratch)
    populate_all_tables(scratch)
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
        assert pool.counts == pool.snapshot == CopyCounts(5, 2, 1, 3)


RUNS = (
    "INSERT INTO runs (collection_id, workflow, task_id, state, cursor, pages, records_fetched,"
    " records_rejected, titles_new, titles_changed, repairs, started_at, updated_at)"
    " SELECT id, :workflow, :task_id, :state, '{\"offset\": 51}', 3, :fetched, :rejected, 7, 5, 1,"
    " '2024-05-01', '2024-05-02' FROM collections"
)
REJECTED = (
    "INSERT INTO rejected_records (collection_id, purchased_on, reason, raw_xml, content_hash, created_at)"
    " SELECT id, '2024-05-01', 'It has no title identifier (001).', '<record/>', :hash, '2024-05-02'"
    " FROM collections"
)


def without(rows: list[dict[str, Any]], *columns: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in columns} for row in rows]


def everything_of(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    return {table: table_rows(engine, table) for table in tables(engine) - {"alembic_version"}}


def test_runs_and_rejected_records_from_before_each_record_was_accounted_for_are_kept(
    scratch: Engine,
) -> None:
    schema.upgrade(scratch)
    schema.downgrade(scratch, "0002")
    with Session(scratch) as session:
        make_collection(session, "Alder Library")
    with scratch.begin() as connection:
        columns = ("workflow", "state", "task_id", "fetched", "rejected")
        runs_before = [
            ("purchases", "succeeded", "task-1", 60, 3),
            ("purchases", "failed", "task-2", 5, 5),
            ("events", "running", "task-3", 94, 0),
            ("circulation", "retrying", "task-4", 0, 0),
        ]
        connection.execute(text(RUNS), [dict(zip(columns, run, strict=True)) for run in runs_before])
        connection.execute(text(REJECTED), [{"hash": "one"}, {"hash": "two"}])
    runs, rejected = table_rows(scratch, "runs"), table_rows(scratch, "rejected_records")

    schema.upgrade(scratch)
    schema.downgrade(scratch, "0005")

    upgraded = table_rows(scratch, "runs")
    assert [run["records_stored"] for run in upgraded] == [57, 0, 94, 0]
    assert without(upgraded, "records_stored") == runs
    kept = table_rows(scratch, "rejected_records")
    assert [record["workflow"] for record in kept] == ["purchases", "purchases"]
    assert without(kept, "workflow", "month_only") == rejected

    schema.downgrade(scratch, "0002")

    assert (table_rows(scratch, "runs"), table_rows(scratch, "rejected_records")) == (runs, rejected)


def test_a_downgrade_loses_queued_runs_and_rejected_events_and_nothing_else(scratch: Engine) -> None:
    schema.upgrade(scratch)
    populate_all_tables(scratch)
    with Session(scratch) as session:
        collection = session.scalars(select(Collection)).one()
        open_run(session, collection.id, Workflow.EVENTS, "begun", {"start": None})
        queue_runs(session, Workflow.CIRCULATION, {collection.id: "queued"}, {})
        rejection = RejectedRecordData("Its moment cannot be read.", "<CloudLibraryEvent/>", "another hash")
        store_rejected_records(session, collection, PurchaseDate(NOON.date()), [rejection], workflow=Workflow.EVENTS)
        session.commit()
    schema.downgrade(scratch, "0003")
    everything = everything_of(scratch)

    schema.downgrade(scratch, "0002")
    left = everything_of(scratch)
    schema.upgrade(scratch)
    schema.downgrade(scratch, "0003")
    again = everything_of(scratch)

    assert all(everything.values())
    kept = {
        "runs": [run for run in everything["runs"] if run["state"] != "queued"],
        "rejected_records": [r for r in everything["rejected_records"] if r["workflow"] == "purchases"],
    }
    assert (len(kept["runs"]), len(kept["rejected_records"])) == (2, 1)
    assert again == everything | kept
    assert left == everything | {
        "runs": without(kept["runs"], "records_stored"),
        "rejected_records": without(kept["rejected_records"], "workflow"),
    }


def test_without_the_months_a_purchase_of_one_was_on_its_first(scratch: Engine) -> None:
    schema.upgrade(scratch)
    populate_all_tables(scratch)
    with scratch.begin() as connection:
        connection.execute(text("UPDATE purchase_records SET purchased_on = '2024-05-01', month_only = true"))
    schema.downgrade(scratch, "0005")
    everything = everything_of(scratch)

    schema.downgrade(scratch, "0003")
    left = everything_of(scratch)
    schema.upgrade(scratch)
    schema.downgrade(scratch, "0005")
    again = everything_of(scratch)

    assert all(everything.values())
    dated = {
        name: without(everything[name], "month_only") for name in ("purchase_records", "rejected_records")
    }
    newer = ("looked_up_titles",)
    assert left == {name: rows for name, rows in everything.items() if name not in newer} | dated
    purchases = [row | {"month_only": False} for row in everything["purchase_records"]]
    assert again == everything | {"purchase_records": purchases} | {name: [] for name in newer}


def test_purchases_from_before_they_knew_their_collection_are_found_by_it(scratch: Engine) -> None:
    schema.upgrade(scratch)
    populate_all_tables(scratch)
    purchases = table_rows(scratch, "purchase_records")
    schema.downgrade(scratch, "0005")

    schema.upgrade(scratch)

    assert table_rows(scratch, "purchase_records") == purchases


def test_the_totals_begin_with_what_ended_runs_have_counted(scratch: Engine) -> None:
    schema.upgrade(scratch)
    schema.downgrade(scratch, "0003")
    with Session(scratch) as session:
        make_collection(session, "Alder Library")
    with scratch.begin() as connection:
        of_a_run = RUNS.replace("records_rejected", "records_stored, records_rejected").replace(
            ":rejected", ":stored, :rejected"
        )
        runs = [
            ("purchases", "succeeded", 60, 3),
            ("purchases", "failed", 5, 5),
            ("purchases", "running", 7, 0),
            ("events", "interrupted", 94, 0),
        ]
        for number, (workflow, state, fetched, rejected) in enumerate(runs):
            row = {"workflow": workflow, "state": state, "fetched": fetched, "rejected": rejected}
            stored = {"task_id": f"task-{number}", "stored": fetched - rejected}
            connection.execute(text(of_a_run), row | stored)

    schema.upgrade(scratch)

    with Session(scratch) as session:
        ended = {row.workflow: row for row in session.scalars(select(RunTotals))}
        assert {name: (row.pages, row.records_fetched) for name, row in ended.items()} == {
            "purchases": (6, 65),
            "events": (3, 94),
        }
        totals = sum_run_counters(session)
    assert totals[Workflow.PURCHASES] == RunCounters(
        records_fetched=72,
        records_stored=64,
        records_rejected=8,
        titles_new=21,
        titles_changed=15,
        repairs=3,
        pages=9,
    )
    assert totals[Workflow.CIRCULATION] == RunCounters(pages=0)


def test_titles_from_before_there_was_a_search_are_found_by_the_same_text(scratch: Engine) -> None:
    schema.upgrade(scratch)
    populate_all_tables(scratch)
    with scratch.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO editions (data_source, identifier_id, created_at, updated_at)"
                " SELECT 'Another', id, '2024-05-01', '2024-05-01' FROM identifiers LIMIT 1"
            )
        )
    editions = table_rows(scratch, "editions")
    assert [edition["search_text"] for edition in editions] == [
        "Title abc Stanisław Lem Rita Reader Wydawnictwo 9788308068298 abc",
        None,
    ]
    schema.downgrade(scratch, "0005")

    schema.upgrade(scratch)

    assert table_rows(scratch, "editions") == editions


@pytest.fixture
def tenant(scratch: Engine) -> Iterator[Engine]:
    """The scratch database as a user reaches it who may make tables and nothing more."""
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


def test_extensions_that_cannot_be_had_are_said_and_nothing_is_made(scratch: Engine, tenant: Engine) -> None:
    with pytest.raises(
        UserError,
        match=r"^The database cannot have the extension pg_trgm \(permission denied.*\): install .*\.$",
    ):
        schema.upgrade(tenant)

    assert tables(scratch) == set()


def test_extensions_that_an_administrator_has_made_will_do(scratch: Engine, tenant: Engine) -> None:
    with scratch.begin() as connection:
        for name in ("pg_trgm", "unaccent"):
            connection.execute(text(f"CREATE EXTENSION {name}"))

    schema.upgrade(tenant)

    populate_all_tables(tenant)


def test_two_programs_that_upgrade_at_once_take_turns(scratch: Engine) -> None:
    program = (
        "from accession.db.schema import upgrade\n"
        "from accession.db.engine import make_engine\n"
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
            said = [program.communicate(timeout=TIMEOUT_SECONDS)[1] for program in programs]
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
