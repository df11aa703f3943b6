"""Status, runs and titles: tables for people, and JSON whose fields are stable."""

import subprocess
import sys
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from accession.catalog.apply import apply_outbox, put_in_outbox
from accession.catalog.purchase_records import PurchaseDate, StoredRecord, store_purchase_records
from accession.cli.catalogue import TABLE_LIMIT
from accession.core.vocabulary import Format, IdentifierType, Medium
from accession.core.workflow import Workflow
from accession.db.models import Collection, LicensePool, Run, RunState
from accession.local.servers import ServerUrls
from accession.runs.ledger import Counters, end_run, find_run, note_retry, open_run, record_page, timestamp
from tests.fixtures import commands
from tests.fixtures.commands import PATIENCE_SECONDS, environment
from tests.fixtures.factories import NOON, SOURCE, day, make_collection, make_pool, title_data

STATUS_FIELDS = (
    "collection workflow state checkpoint cursor pages records_fetched records_stored records_rejected"
    " titles_new titles_changed applies_pending started_at finished_at error"
)
TITLE_FIELDS = (
    "identifier title subtitle authors narrators medium format language publisher published isbns subjects"
    " page_count description cover_url licenses_owned licenses_available licenses_reserved"
    " patrons_in_hold_queue status purchased_on updated_at"
)
RUN_FIELDS = (
    "id collection workflow state cursor pages records_fetched records_stored records_rejected titles_new"
    " titles_changed started_at updated_at finished_at error"
)


def make_run(session: Session, collection: Collection, task_id: str) -> Run:
    """A committed run that has done a page and goes on with the second."""
    open_run(session, collection.id, Workflow.PURCHASES, task_id, {"current_day": None, "offset": 1})
    run = find_run(session, task_id)
    assert run is not None
    cursor = {"current_day": "2024-05-01T00:00:00+00:00", "offset": 51, "reset_timestamp": False}
    record_page(run, Counters(2000, 1997, 3, 1990, 7), since=day(2024, 5, 1), next_cursor=cursor)
    timestamp(session, collection, Workflow.PURCHASES).finish = day(2024, 5, 1)
    session.commit()
    return run


def hold(session: Session, collection: Collection, identifier: str, **changes: Any) -> None:
    """The collection bought the title on 1 May 2024, and it is described."""
    pool = make_pool(session, collection, identifier)
    store_purchase_records(session, PurchaseDate(NOON.date()), [StoredRecord(pool, lambda: b"marc", "hash")])
    apply_outbox(session, put_in_outbox(session, [(pool, title_data(identifier, **changes))]))
    session.commit()


# Status


def test_status_before_the_first_run(run: commands.Run, collection: Collection) -> None:
    row, *_ = run("status", "--json").json
    assert list(row) == STATUS_FIELDS.split()
    assert (row["collection"], row["workflow"], row["state"]) == ("Alder Library", "purchases", "never")
    assert row["checkpoint"] is row["cursor"] is row["started_at"] is row["error"] is None
    assert (row["pages"], row["applies_pending"]) == (0, 0)
    table = run("status").out
    assert "never" in table
    assert "None" not in table


def test_status_of_a_run_at_work(run: commands.Run, session: Session, collection: Collection) -> None:
    make_run(session, collection, "task-1")
    put_in_outbox(session, [(make_pool(session, collection, "abc"), title_data("abc"))])
    session.commit()
    row, *_ = run("status", "--json").json
    assert row["state"] == "running"
    assert row["checkpoint"] == "2024-05-01T00:00:00Z"
    assert row["cursor"] == {"current_day": "2024-05-01T00:00:00+00:00", "offset": 51}
    assert (row["pages"], row["records_fetched"], row["records_rejected"]) == (1, 2000, 3)
    assert (row["titles_new"], row["titles_changed"], row["applies_pending"]) == (1990, 7, 1)
    assert row["started_at"].endswith("Z")
    assert row["finished_at"] is None
    header, line, *others = run("status").out.splitlines()
    assert header.split("  ")[0] == "Collection"
    assert "Complete up to" in header
    assert line.split() == (
        ["Alder", "Library", "purchases", "running", "2024-05-01", "00:00", "2,000", "3", "1,990", "1"]
    )
    assert [other.split()[2:4] for other in others] == [["events", "never"], ["circulation", "never"]]


def test_status_of_every_state(run: commands.Run, session: Session) -> None:
    for state in ("running", "retrying", "succeeded", "failed", "interrupted", "silent"):
        made = make_run(session, make_collection(session, state), state)
        if state == "retrying":
            note_retry(made, "The vendor is away.", retry=1)
        elif state == "silent":
            made.updated_at -= timedelta(hours=3)
        elif state != "running":
            end_run(made, RunState(state), "The key is wrong." if state == "failed" else None)
    session.commit()
    rows = [row for row in run("status", "--json").json if row["workflow"] == "purchases"]
    states = {row["collection"]: row["state"] for row in rows}
    assert states.pop("silent") == "interrupted"
    assert all(name == state for name, state in states.items())
    shown = run("status").out
    assert "failed, purchases: The key is wrong.\n" in shown
    assert "retrying, purchases: The vendor is away.\n" in shown


def test_status_without_collections_says_what_to_do_next(run: commands.Run, database: None) -> None:
    assert run("status").out == "No collections yet. Add one with: accession collections add NAME ...\n"
    assert run("status", "--json").out == "[]\n"


# Runs


def test_runs_are_listed_newest_first(run: commands.Run, session: Session, collection: Collection) -> None:
    end_run(make_run(session, collection, "first"), RunState.FAILED, "The vendor is \x1b[31mred.")
    end_run(make_run(session, make_collection(session, "Birch"), "second"), RunState.SUCCEEDED)
    session.commit()
    rows = run("runs", "list", "--json").json
    assert set(RUN_FIELDS.split()) <= set(rows[0])
    assert [(row["collection"], row["state"]) for row in rows] == [
        ("Birch", "succeeded"),
        ("Alder Library", "failed"),
    ]
    assert [row["cursor"] for row in rows] == [None, None]
    assert [row["collection"] for row in run("runs", "list", "--limit", "1", "--json").json] == ["Birch"]
    of_alder = run("runs", "list", "--collection", "Alder Library", "--json").json
    assert [row["id"] for row in of_alder] == [rows[1]["id"]]
    table = run("runs", "list").out
    assert f"Run {rows[1]['id']}: The vendor is  [31mred.\n" in table
    assert "\x1b" not in table


def test_no_runs_says_what_to_do_next(run: commands.Run, database: None) -> None:
    assert run("runs", "list").out == "No runs yet. Start one with: accession import purchases --import-all\n"
    assert run("runs", "list", "--limit", "0").code == 2


# Titles


def test_titles_as_json_have_every_field(run: commands.Run, session: Session, collection: Collection) -> None:
    hold(session, collection, "abc", page_count=212, subtitle="A novel", description="On an ocean.")
    (row,) = run("titles", "list", "--json").json
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
        "medium": "book",
        "format": "epub",
        "language": "pol",
        "publisher": "Wydawnictwo",
        "published": "1961",
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
    }


def test_a_title_without_metadata_is_listed(
    run: commands.Run, session: Session, collection: Collection
) -> None:
    make_pool(session, collection, "bare")
    (row,) = run("titles", "list", "--json").json
    assert (row["identifier"], row["title"], row["authors"], row["purchased_on"]) == ("bare", None, [], None)
    assert row["status"] == "unknown"
    assert "None" not in run("titles", "list").out
    assert run("titles", "show", "bare").code == 0


def test_the_table_of_titles_is_harmless_to_the_terminal(
    run: commands.Run, session: Session, collection: Collection
) -> None:
    hold(
        session, collection, "evil", title="Red \x1b[31malert\x07 [bold]\u202eevil\n", medium=Medium.AUDIOBOOK
    )
    hold(session, collection, "tame", format=Format.PDF)
    for shown in (run("titles", "list").out, run("titles", "show", "evil").out):
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
        assert "Red  [31malert  [bold] evil" in shown
    header, evil, _ = run("titles", "list").out.splitlines()
    assert header.split() == ["Id", "Title", "Authors", "Format", "Lang", "Owned", "Free", "Holds", "Bought"]
    assert evil.split()[-5:] == ["pol", "2", "1", "0", "2024-05-01"]


def test_a_long_table_is_cut_and_says_so(run: commands.Run, session: Session, collection: Collection) -> None:
    for number in range(TABLE_LIMIT + 1):
        make_pool(session, collection, f"t{number}")
    table = run("titles", "list").out.splitlines()
    assert len(table) == 1 + TABLE_LIMIT + 1
    assert table[-1] == "50 of 51 titles; more with --limit, all with --json."
    assert len(run("titles", "list", "--limit", "60").out.splitlines()) == 52
    assert len(run("titles", "list", "--json").json) == 51
    assert len(run("titles", "list", "--json", "--limit", "3").json) == 3


def test_titles_of_one_collection(run: commands.Run, session: Session, collection: Collection) -> None:
    make_pool(session, collection, "abc")
    make_pool(session, make_collection(session, "Birch"), "abc")
    assert len(run("titles", "list", "--json").json) == 2
    (row,) = run("titles", "list", "--collection", "Birch", "--json").json
    assert row["collection"] == "Birch"


def test_no_titles_says_what_to_do_next(run: commands.Run, database: None) -> None:
    assert run("titles", "list").out == (
        "No titles yet. Import some with: accession import purchases --import-all\n"
    )


def test_a_title_is_shown_in_each_collection_that_holds_it(
    run: commands.Run, session: Session, collection: Collection
) -> None:
    hold(session, collection, "abc", page_count=1234)
    hold(session, make_collection(session, "Birch"), "abc")
    shown = run("titles", "show", "abc").out
    for field in (
        "collection  Birch",
        "authors  Stanisław Lem",
        "isbns  9788308068298",
        "purchased on  2024-05-01",
    ):
        assert field in shown
    assert "None" not in shown
    rows = run("titles", "show", "abc", "--json").json
    assert [row["collection"] for row in rows] == ["Alder Library", "Birch"]
    (row,) = run("titles", "show", "abc", "--collection", "Birch", "--json").json
    assert row["collection"] == "Birch"


def test_an_unknown_title_is_said(run: commands.Run, session: Session, collection: Collection) -> None:
    sentence = 'No title found with id "abc": see `accession titles list`.'
    assert run("titles", "show", "abc").sentence == sentence


def test_every_listing_knows_its_collections(run: commands.Run, database: None) -> None:
    for listing in ("titles list", "titles show abc", "runs list", "rejects list"):
        answer = run(*listing.split(), "--collection", "Nowhere")
        assert answer.sentence == 'No collection found named "Nowhere".'


def test_a_listing_may_be_cut_short_by_its_reader(
    servers: ServerUrls, session: Session, collection: Collection
) -> None:
    ids = [f"t{number}" for number in range(400)]
    LicensePool.for_foreign_ids(session, SOURCE, IdentifierType.BIBLIOTHECA, ids, collection=collection)
    session.commit()
    urls = {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_REDIS_URL": servers.redis_url}
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m accession titles list --json | head -n 2"],
        env=environment(**urls),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""
