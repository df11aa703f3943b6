"""Listings of `status`, `runs` and `titles`, as tables and as JSON."""

import re
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_outbox
from accession.catalog.outbox import enqueue_changes
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.cli.output import MAX_TITLE_LENGTH, console
from accession.cli.titles import TABLE_LIMIT
from accession.core.clock import utc_now
from accession.core.vocabulary import ContributorRole, Format, IdentifierType, Medium
from accession.core.workflow import Workflow
from accession.db.engine import engine
from accession.db.models import Collection, LicensePool, Run, RunState
from accession.local.servers import ServerUrls
from accession.runs.ledger import (
    RunCounters,
    end_run,
    find_run,
    get_or_create_checkpoint,
    open_run,
    record_retry,
    record_step,
)
from tests.fixtures.commands import COMMAND_TIMEOUT_SECONDS, Cli, environment, server_variables
from tests.fixtures.factories import (
    NOON,
    SOURCE,
    day,
    make_collection,
    make_pool,
    person,
    record_statements,
    title_data,
)
from tests.fixtures.purchases import WARNING, store_record_in_part
from tests.fixtures.statistics import refresh_statistics

STATUS_FIELDS = (
    "collection workflow state checkpoint unconfirmed_since cursor pages records_fetched records_stored"
    " records_rejected titles_new titles_changed pending_updates pause"
    " next_start started_at finished_at error"
)
TITLE_FIELDS = (
    "identifier title subtitle authors narrators editors translators illustrators other_contributors"
    " medium format language audience publisher published on_sale isbns subjects"
    " page_count description cover_url licenses_owned licenses_available licenses_reserved"
    " patrons_in_hold_queue status purchased_on warnings updated_at"
)
RUN_FIELDS = (
    "id collection workflow state cursor pages records_fetched records_stored records_rejected titles_new"
    " titles_changed started_at updated_at finished_at error worker"
)


def make_run(session: Session, collection: Collection, task_id: str) -> Run:
    """Store and commit a run that has completed one page."""
    open_run(session, collection.id, Workflow.PURCHASES, task_id, {"current_day": None, "offset": 1})
    run = find_run(session, task_id)
    assert run is not None
    cursor = {"current_day": "2024-05-01T00:00:00+00:00", "offset": 51, "reset_timestamp": False}
    record_step(run, RunCounters(2000, 1997, 3, 1990, 7), since=day(2024, 5, 1), next_cursor=cursor)
    get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish = day(2024, 5, 1)
    session.commit()
    return run


def add_purchased_title(session: Session, collection: Collection, identifier: str, **changes: Any) -> None:
    """Store a title with metadata that the collection purchased on 1 May 2024."""
    pool = make_pool(session, collection, identifier)
    store_purchase_records(
        session, {PurchaseDate(NOON.date()): [PurchaseRecordData(pool, lambda: b"marc", "hash")]}
    )
    apply_outbox(session, enqueue_changes(session, [(pool, title_data(identifier, **changes))]))
    session.commit()


# Status


def test_status_before_first_run(cli: Cli, collection: Collection) -> None:
    row, *_ = cli("status", "--json").json
    assert list(row) == STATUS_FIELDS.split()
    assert (row["collection"], row["workflow"], row["state"]) == ("Alder Library", "purchases", "never")
    assert row["checkpoint"] is row["cursor"] is row["started_at"] is row["error"] is None
    assert (row["pages"], row["pending_updates"]) == (0, 0)
    table = cli("status").stdout
    assert "never" in table
    assert "None" not in table


def test_status_of_running_run(cli: Cli, session: Session, collection: Collection) -> None:
    make_run(session, collection, "task-1")
    enqueue_changes(session, [(make_pool(session, collection, "abc"), title_data("abc"))])
    session.commit()
    row, *_ = cli("status", "--json").json
    assert row["state"] == "running"
    assert row["checkpoint"] == "2024-05-01T00:00:00Z"
    assert row["cursor"] == {"current_day": "2024-05-01T00:00:00+00:00", "offset": 51}
    assert (row["pages"], row["records_fetched"], row["records_rejected"]) == (1, 2000, 3)
    assert (row["titles_new"], row["titles_changed"], row["pending_updates"]) == (1990, 7, 1)
    assert row["started_at"].endswith("Z")
    assert row["finished_at"] is None
    header, line = cli("status").stdout.splitlines()
    headings = ("Collection", "Purchases", "Events", "Circulation", "Rejected", "Pending", "Next run")
    assert tuple(re.split("  +", header.strip())) == headings
    cells = re.split("  +", line.strip())
    assert cells[0] == "Alder Library"
    assert re.fullmatch(r"running \d+% 2024-05-01 00:00", cells[1])
    assert cells[2:6] == ["never", "never", "0", "1"]
    starts = [each["next_start"] for each in cli("status", "--json").json]
    assert cells[6] == f"{datetime.fromisoformat(min(starts)):%Y-%m-%d %H:%M}"


def test_status_names_the_time_that_is_unconfirmed(
    cli: Cli, session: Session, collection: Collection
) -> None:
    checkpoint = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    checkpoint.confirmed, checkpoint.finish = day(2014, 1, 1), day(2024, 5, 1)
    session.commit()
    row, *_ = cli("status", "--json").json
    assert row["checkpoint"] == row["unconfirmed_since"] == "2014-01-01T00:00:00Z"
    assert "unconfirmed since 2014-01-01" in cli("status").stdout

    checkpoint.confirmed = checkpoint.finish
    session.commit()
    row, *_ = cli("status", "--json").json
    assert (row["checkpoint"], row["unconfirmed_since"]) == ("2024-05-01T00:00:00Z", None)


def test_status_shows_every_state(cli: Cli, session: Session) -> None:
    for state in ("running", "retrying", "succeeded", "failed", "interrupted", "stalled"):
        run = make_run(session, make_collection(session, state), state)
        if state == "retrying":
            record_retry(run, "The vendor is unavailable.", retry=1)
        elif state == "stalled":
            run.updated_at -= timedelta(hours=3)
        elif state != "running":
            end_run(run, RunState(state), "The key is wrong." if state == "failed" else None)
    session.commit()
    rows = [row for row in cli("status", "--json").json if row["workflow"] == "purchases"]
    states = {row["collection"]: row["state"] for row in rows}
    assert states.pop("stalled") == "interrupted"
    assert all(name == state for name, state in states.items())
    output = cli("status").stdout
    assert "failed, purchases: The key is wrong.\n" in output
    assert "retrying, purchases: The vendor is unavailable.\n" in output


def test_status_without_collections_suggests_next_step(cli: Cli, database: None) -> None:
    assert cli("status").stdout == "No collections yet. Add one with: accession collections add NAME ...\n"
    assert cli("status", "--json").stdout == "[]\n"


# Runs


def test_runs_are_listed_newest_first(cli: Cli, session: Session, collection: Collection) -> None:
    end_run(make_run(session, collection, "first"), RunState.FAILED, "The vendor is \x1b[31mred.")
    end_run(make_run(session, make_collection(session, "Birch"), "second"), RunState.SUCCEEDED)
    session.commit()
    rows = cli("runs", "list", "--json").json
    assert set(RUN_FIELDS.split()) <= set(rows[0])
    assert [(row["collection"], row["state"]) for row in rows] == [
        ("Birch", "succeeded"),
        ("Alder Library", "failed"),
    ]
    assert [row["cursor"] for row in rows] == [None, None]
    assert [row["collection"] for row in cli("runs", "list", "--limit", "1", "--json").json] == ["Birch"]
    alder_rows = cli("runs", "list", "--collection", "Alder Library", "--json").json
    assert [row["id"] for row in alder_rows] == [rows[1]["id"]]
    assert cli("runs", "list", "--state", "queued").stdout == "No run matches.\n"
    table = cli("runs", "list").stdout
    assert f"Run {rows[1]['id']}: The vendor is  [31mred.\n" in table
    assert "\x1b" not in table


def test_narrow_list_prints_fields_one_after_another(
    cli: Cli, session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", 60)
    session.execute(text("SELECT setval('runs_id_seq', 1234)"))
    with time_machine.travel(NOON, tick=False):
        make_run(session, collection, "task")
    lines = cli("runs", "list").stdout.splitlines()
    assert lines[0].rstrip() == "Run: 1235"
    assert " ".join(map(str.strip, lines[1:])) == (
        "Collection: Alder Library; Workflow: purchases; State: interrupted; Started: 2024-05-01 12:00; "
        "Records: 2,000; Rejected: 3; New: 1,990; Changed: 7"
    )
    assert all(len(line) <= console.width for line in lines)


def test_narrower_list_wraps_headings_and_long_texts(
    cli: Cli, session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_purchased_title(session, collection, "abc", title="The Memoirs of a Space Traveller")
    monkeypatch.setattr(console, "width", 80)
    header, line, *_ = cli("titles", "list").stdout.splitlines()
    assert header.startswith("Id   Title      Authors        Format")
    assert line.startswith("abc  The        Stanisław Lem  epub")
    assert line.endswith("epub    pol       2          1      0  2024-05-01")


def test_empty_run_list_suggests_next_step(cli: Cli, database: None) -> None:
    assert (
        cli("runs", "list").stdout == "No runs yet. Start one with: accession import purchases --import-all\n"
    )
    assert cli("runs", "list", "--limit", "0").exit_code == 2


# Titles


def test_long_titles_and_authors_are_shortened(cli: Cli, session: Session, collection: Collection) -> None:
    authors = tuple(person(f"Author {number}") for number in range(50))
    add_purchased_title(session, collection, "abc", title="T" * 3000, contributors=authors)
    table = cli("titles", "list").stdout
    assert table.count("T") - table.count("Title") == MAX_TITLE_LENGTH - 1
    assert "Author 5" in table
    assert "Author 49" not in table


def test_titles_json_has_all_fields(cli: Cli, session: Session, collection: Collection) -> None:
    add_purchased_title(
        session, collection, "abc", page_count=212, subtitle="A novel", description="On an ocean."
    )
    (row,) = cli("titles", "list", "--json").json
    assert set(row) == {*TITLE_FIELDS.split(), "collection", "duration_ms"}
    updated = row.pop("updated_at")
    assert updated.endswith("Z")
    assert row == {
        "collection": "Alder Library",
        "identifier": "abc",
        "title": "Title abc",
        "subtitle": "A novel",
        "authors": ["Stanisław Lem"],
        "narrators": ["Rita Reader"],
        "editors": [],
        "translators": [],
        "illustrators": [],
        "other_contributors": [],
        "medium": "book",
        "format": "epub",
        "language": "pol",
        "audience": "general",
        "publisher": "Wydawnictwo",
        "published": "1961",
        "on_sale": None,
        "isbns": ["9788308068298"],
        "subjects": ["FICTION / Science Fiction"],
        "page_count": 212,
        "duration_ms": None,
        "description": "On an ocean.",
        "cover_url": "https://images.example/1",
        "licenses_owned": 2,
        "licenses_available": 1,
        "licenses_reserved": 0,
        "patrons_in_hold_queue": 0,
        "status": "active",
        "purchased_on": "2024-05-01",
        "warnings": [],
    }


def test_title_without_metadata_is_listed(cli: Cli, session: Session, collection: Collection) -> None:
    make_pool(session, collection, "bare")
    (row,) = cli("titles", "list", "--json").json
    assert (row["identifier"], row["title"], row["authors"], row["purchased_on"]) == ("bare", None, [], None)
    assert row["status"] == "unknown"
    assert "None" not in cli("titles", "list").stdout
    assert cli("titles", "show", "bare").exit_code == 0


def test_titles_table_is_sanitized(cli: Cli, session: Session, collection: Collection) -> None:
    add_purchased_title(
        session, collection, "evil", title="Red \x1b[31malert\x07 [bold]\u202eevil\n", medium=Medium.AUDIOBOOK
    )
    add_purchased_title(session, collection, "tame", format=Format.PDF)
    for output in (cli("titles", "list").stdout, cli("titles", "show", "evil").stdout):
        assert not {"\x1b", "\x07", "\u202e"} & set(output)
        assert "Red  [31malert  [bold] evil" in output
    header, evil, _ = cli("titles", "list", "--sort", "imported").stdout.splitlines()
    assert header.split() == [
        "Id",
        "Title",
        "Authors",
        "Format",
        "Lang",
        "Owned",
        "Available",
        "Holds",
        "Purchased",
    ]
    assert evil.split()[-5:] == ["pol", "2", "1", "0", "2024-05-01"]


def test_titles_table_is_limited_with_a_hint(cli: Cli, session: Session, collection: Collection) -> None:
    for number in range(TABLE_LIMIT + 1):
        make_pool(session, collection, f"t{number}")
    table = cli("titles", "list").stdout.splitlines()
    assert len(table) == 1 + TABLE_LIMIT + 1
    assert table[-1] == "50 of 51 titles; show more with --limit, all with --json."
    assert len(cli("titles", "list", "--limit", "60").stdout.splitlines()) == 52
    assert len(cli("titles", "list", "--json").json) == 51
    assert len(cli("titles", "list", "--json", "--limit", "3").json) == 3


def test_titles_can_be_filtered_by_collection(cli: Cli, session: Session, collection: Collection) -> None:
    make_pool(session, collection, "abc")
    make_pool(session, make_collection(session, "Birch"), "abc")
    assert len(cli("titles", "list", "--json").json) == 2
    (row,) = cli("titles", "list", "--collection", "Birch", "--json").json
    assert row["collection"] == "Birch"


def test_titles_are_filtered_and_sorted_by_options(
    cli: Cli, session: Session, collection: Collection
) -> None:
    add_purchased_title(session, collection, "b", title="The Beta", format=Format.PDF)
    add_purchased_title(session, collection, "a", title="Alpha", format=Format.PDF)
    add_purchased_title(session, collection, "c", title="Gamma", patrons_in_hold_queue=2)

    def listed(*options: str) -> list[str]:
        return [row["identifier"] for row in cli("titles", "list", "--json", *options).json]

    assert listed() == ["c", "a", "b"]
    assert listed("--sort", "title", "--format", "pdf") == ["a", "b"]
    assert listed("--sort", "-holds", "--limit", "1") == ["c"]
    assert listed("--text", "beta", "--audience", "general", "--language", "pol") == ["b"]
    assert listed("--purchased-from", "2024-05-02") == listed("--purchased-until", "2024-04-30") == []
    assert listed("--lacks", "cover") == listed("--also-in", collection.name, "--subject", "x") == []
    hint = cli("titles", "list", "--limit", "1", "--format", "pdf").stdout.splitlines()[-1]
    assert hint == "1 of 2 titles; show more with --limit, all with --json."
    assert "'price' is not a sort order: enter one of" in cli("titles", "list", "--sort", "price").error


@pytest.mark.parametrize("part", ["metadata", "cover", "format", "language", "subject", "purchase"])
def test_titles_without_a_part_are_listed(
    cli: Cli, session: Session, collection: Collection, part: str
) -> None:
    add_purchased_title(session, collection, "complete")
    make_pool(session, collection, "bare")
    refresh_statistics(session)
    assert [row["identifier"] for row in cli("titles", "list", "--json", "--lacks", part).json] == ["bare"]


def test_text_of_a_limited_list_is_matched_once(cli: Cli, session: Session, collection: Collection) -> None:
    for name in "ab":
        add_purchased_title(session, collection, name, title="Alpha")

    with record_statements(engine()) as statements:
        hint = cli("titles", "list", "--text", "alpha", "--limit", "1").stdout.splitlines()[-1]

    assert hint == "1 of 2 titles; show more with --limit, all with --json."
    assert len([each for each in statements if "to_tsquery" in each]) == 1


def test_titles_on_order_are_listed_with_their_date(
    cli: Cli, session: Session, collection: Collection
) -> None:
    add_purchased_title(session, collection, "sold")
    add_purchased_title(session, collection, "coming", on_sale="2999-01")
    (row,) = cli("titles", "list", "--availability", "on_order", "--json").json
    assert (row["identifier"], row["status"], row["on_sale"]) == ("coming", "on order", "2999-01")
    assert (row["licenses_owned"], row["licenses_available"]) == (2, 0)
    _, coming = cli("titles", "list", "--availability", "on_order").stdout.splitlines()
    assert coming.split()[-6:] == ["pol", "2", "from", "2999-01", "0", "2024-05-01"]
    available = cli("titles", "list", "--availability", "available", "--limit", "1").stdout.splitlines()
    assert [line.split()[0] for line in available] == ["Id", "sold"]
    assert cli("titles", "list", "--availability", "withdrawn").stdout == "No titles match.\n"


def test_unknown_availability_is_explained(cli: Cli, database: None) -> None:
    result = cli("titles", "list", "--availability", "lost")
    assert result.exit_code == 1
    assert 'There is no availability "lost": choose one of available, on_hold, on_order' in result.error


def test_titles_with_warnings_are_listed_and_shown(
    cli: Cli, session: Session, collection: Collection
) -> None:
    assert cli("titles", "list", "--with-warnings").stdout == "No titles match.\n"
    make_pool(session, collection, "good")
    store_record_in_part(session, collection, "part", NOON)
    (row,) = cli("titles", "list", "--with-warnings", "--json").json
    assert (row["identifier"], row["warnings"]) == ("part", [WARNING])
    assert f"warnings  {WARNING}" in cli("titles", "show", "part").stdout


def test_contributors_are_listed_and_shown_with_roles(
    cli: Cli, session: Session, collection: Collection
) -> None:
    people = (person("Doe, Jane", ContributorRole.EDITOR), person("Gaiman, Neil", ContributorRole.FOREWORD))
    add_purchased_title(session, collection, "abc", contributors=people)
    assert "Jane Doe (editor)" in cli("titles", "list").stdout
    shown = cli("titles", "show", "abc")
    assert "  editors  Jane Doe\n" in shown.stdout
    assert "other contributors  Neil Gaiman (writer of foreword)\n" in shown.stdout
    (row,) = cli("titles", "show", "abc", "--json").json
    assert row["other_contributors"] == [{"name": "Neil Gaiman", "role": "writer of foreword"}]


def test_empty_title_list_suggests_next_step(cli: Cli, database: None) -> None:
    assert cli("titles", "list").stdout == (
        "No titles yet. Import some with: accession import purchases --import-all\n"
    )


def test_title_is_shown_for_each_holding_collection(
    cli: Cli, session: Session, collection: Collection
) -> None:
    add_purchased_title(session, collection, "abc", page_count=1234)
    add_purchased_title(session, make_collection(session, "Birch"), "abc")
    output = cli("titles", "show", "abc").stdout
    for field in (
        "collection  Birch",
        "authors  Stanisław Lem",
        "isbns  9788308068298",
        "purchased on  2024-05-01",
    ):
        assert field in output
    assert "None" not in output
    rows = cli("titles", "show", "abc", "--json").json
    assert [row["collection"] for row in rows] == ["Alder Library", "Birch"]
    (row,) = cli("titles", "show", "abc", "--collection", "Birch", "--json").json
    assert row["collection"] == "Birch"


def test_unknown_title_is_reported(cli: Cli, session: Session, collection: Collection) -> None:
    error = 'No title found with id "abc": see `accession titles list`.'
    assert cli("titles", "show", "abc").error == error


def test_listings_report_unknown_collection(cli: Cli, database: None) -> None:
    for listing in ("titles list", "titles show abc", "runs list", "rejects list"):
        result = cli(*listing.split(), "--collection", "Nowhere")
        assert result.error == 'No collection found named "Nowhere".'


def test_closed_pipe_ends_listing_quietly(
    servers: ServerUrls, session: Session, collection: Collection
) -> None:
    ids = [f"t{number}" for number in range(400)]
    LicensePool.for_foreign_ids(session, SOURCE, IdentifierType.BIBLIOTHECA, ids, collection=collection)
    session.commit()
    completed = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m accession titles list --json | head -n 2"],
        env=environment(**server_variables(servers)),
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
    )
    assert len(completed.stdout.splitlines()) == 2
    assert completed.stderr == ""


def test_runs_per_day_are_listed(cli: Cli, session: Session, collection: Collection) -> None:
    with time_machine.travel(utc_now() - timedelta(days=40), tick=False):
        open_run(session, collection.id, Workflow.EVENTS, "task", {})
        run = find_run(session, "task")
        assert run is not None
        record_step(run, RunCounters(records_fetched=7, records_stored=7), since=None, next_cursor=None)
    session.commit()

    assert cli("runs", "days").stdout == "No runs have ended in these days.\n"
    (day,) = cli("runs", "days", "--days", "41", "--workflow", "events", "--json").json
    assert (day["succeeded"], day["failed"], day["records_fetched"]) == (1, 0, 7)
    assert "Succeeded" in cli("runs", "days", "--days", "41", "--collection", "Alder Library").stdout
