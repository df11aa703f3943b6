"""Text made to harm, wherever it is shown: it drives no terminal, begins no line, and is data in JSON."""

import json
import subprocess
import sys

import httpx
import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_outbox, put_in_outbox
from accession.catalog.data import SubjectData
from accession.catalog.purchase_records import PurchaseDate, StoredRecord, store_purchase_records
from accession.catalog.rejected_records import Rejection, keep_rejected
from accession.cli import output
from accession.core.vocabulary import SubjectScheme
from accession.core.workflow import Workflow
from accession.db.models import Collection, RunState
from accession.db.models import Run as LedgerRun
from accession.local.servers import ServerUrls
from accession.runs.ledger import end_run, find_run, note_retry, open_run
from tests.fixtures.commands import Answer, Run, environment
from tests.fixtures.factories import NOON, make_collection, make_pool, person, title_data
from tests.fixtures.vendor import Vendor, error_document, item

EVIL = (
    "\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\x9d8;;http://x\x9c\u202egnp.exe\u2066 [red]x[/red] [/] [bold "
    "'; DROP TABLE runs;-- <script>alert(1)</script> =cmd|' /C calc'!A0\r\n\x0b\u2028\u0085"
    "2024-05-01T00:00:00Z [error    ] all is lost"
)
NAME = "[red]Alder[/red] [/] 'x'; -- =1+1 <b>"


@pytest.fixture
def evil(session: Session) -> Collection:
    """A collection in which everything that can be said by others is hostile."""
    collection = make_collection(session, NAME)
    pool = make_pool(session, collection, "evil")
    store_purchase_records(session, PurchaseDate(NOON.date()), [StoredRecord(pool, lambda: b"marc", "hash")])
    title = title_data(
        "evil",
        title=EVIL,
        subtitle=EVIL,
        publisher=EVIL,
        description=EVIL,
        contributors=(person(EVIL),),
        subjects=(SubjectData(scheme=SubjectScheme.LABEL, name=EVIL),),
    )
    apply_outbox(session, put_in_outbox(session, [(pool, title)]))
    keep_rejected(
        session, collection, PurchaseDate(NOON.date()), [Rejection(EVIL, f"<a>\n{EVIL}</a>", "hash")]
    )
    failed(session, collection, Workflow.PURCHASES)
    note_retry(begun(session, collection, Workflow.EVENTS), EVIL, retry=1)
    session.commit()
    return collection


def begun(session: Session, collection: Collection, workflow: Workflow) -> LedgerRun:
    open_run(session, collection.id, workflow, f"task-{workflow}", {})
    run = find_run(session, f"task-{workflow}")
    assert run is not None
    return run


def failed(session: Session, collection: Collection, workflow: Workflow) -> None:
    end_run(begun(session, collection, workflow), RunState.FAILED, EVIL)


LISTINGS = ("status", "runs list", "titles list", "titles show evil", "rejects list")


@pytest.mark.parametrize("command", [*LISTINGS, "collections list", "doctor"])
def test_what_a_table_shows_drives_no_terminal_and_begins_no_line(
    run: Run, evil: Collection, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(output.console, "width", 4000)

    answer = run(*command.split())

    assert_harmless(answer)
    if command != "titles list":
        assert NAME in answer.out
    if command != "collections list":
        assert "'; DROP TABLE runs;-- <script>alert(1)</script> =cmd|' /C calc'!A0" in answer.out
        assert "[red]x[/red] [/] [bold" in answer.out


def test_a_rejected_record_is_shown_line_by_line_and_drives_no_terminal(run: Run, evil: Collection) -> None:
    answer = run("rejects", "show", "1")

    assert all(line.isprintable() for line in answer.out.split("\n"))
    assert "<a>\n" in answer.out
    assert "[red]x[/red] [/] [bold '; DROP TABLE runs;--" in answer.out


@pytest.mark.parametrize("command", [*LISTINGS, "collections list"])
def test_what_json_says_is_the_data_and_drives_no_terminal(run: Run, evil: Collection, command: str) -> None:
    answer = run(*command.split(), "--json")

    assert_harmless(answer)
    told = json.dumps(answer.json)
    assert json.dumps(NAME)[1:-1] in told
    if command != "collections list":
        assert json.dumps(EVIL)[1:-1] in told


def test_letters_that_can_be_printed_are_not_escaped(run: Run, session: Session, evil: Collection) -> None:
    pool = make_pool(session, evil, "tame")
    apply_outbox(session, put_in_outbox(session, [(pool, title_data("tame", title="Łąka 𝄞 «é»"))]))
    session.commit()
    assert "Łąka 𝄞 «é»" in run("titles", "list", "--json").out
    assert "Łąka 𝄞 «é»" in run("titles", "show", "tame", "--json").out


def assert_harmless(answer: Answer) -> None:
    for line in (answer.out + answer.err).split("\n"):
        assert line.isprintable(), line
        assert not line.startswith("2024-05-01T00:00:00Z"), line


# What the vendor answers a command


@pytest.mark.parametrize("debug", [(), ("--debug",)])
@pytest.mark.parametrize(
    "command", [("collections", "test", NAME), ("titles", "refresh", "evil", "--collection", NAME)]
)
def test_an_error_of_the_vendors_is_harmless(
    run: Run, evil: Collection, vendor: Vendor, command: tuple[str, ...], debug: tuple[str, ...]
) -> None:
    said = error_document(EVIL.replace("<", "&lt;").replace("\x1b", "&#27;").replace("\x07", ""))
    vendor.answers += [httpx.Response(200, text=said)] * 3

    answer = run(*debug, *command)

    assert answer.code == 1
    assert_harmless(answer)
    assert "the vendor reported an error of its own" in answer.err
    assert "[red]x[/red]" in answer.err
    assert "DROP TABLE runs" in answer.err
    assert ("Traceback" in answer.err) is bool(debug)


def test_a_title_that_is_refreshed_is_shown_harmless(run: Run, evil: Collection, vendor: Vendor) -> None:
    vendor.items["evil"] = item("evil", title="\x9b2J\u202e[red]y[/red] 'evil'")
    answer = run("titles", "refresh", "evil", "--collection", NAME)
    assert answer.code == 0
    assert_harmless(answer)
    assert "[red]y[/red]" in answer.out


def test_a_run_that_is_watched_to_its_bad_end_is_harmless(
    run: Run, session: Session, evil: Collection, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody works; the run is ended under the eyes of whoever waits."""

    def ends(_: float) -> None:
        session.expire_all()
        for waiting in session.scalars(select(LedgerRun).filter_by(state=RunState.QUEUED)).all():
            open_run(session, evil.id, Workflow.CIRCULATION, waiting.task_id, {"offset": 0})
            session.refresh(waiting)
            end_run(waiting, RunState.FAILED, EVIL)
        session.commit()

    monkeypatch.setattr("time.sleep", ends)
    answer = run("import", "circulation", "--collection", NAME, "--wait")

    assert answer.code == 1
    assert "[red]x[/red]" in answer.err
    assert "failed: " in answer.err
    sentence = next(line for line in answer.err.splitlines() if "failed: " in line)
    assert sentence.isprintable()


def test_a_bug_that_quotes_the_vendor_is_told_harmless(servers: ServerUrls) -> None:
    """As Python prints it, in a process of its own."""
    program = (
        "import sys, typer; from accession.cli.main import run_app; app = typer.Typer()\n"
        "@app.command()\n"
        "def work() -> None:\n"
        "    account_key = 'the-' + 'key'\n"
        f"    raise ZeroDivisionError({EVIL!r})\n"
        "run_app(app)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ZeroDivisionError:" in done.stderr
    assert "the-key" not in done.stderr
    assert all(line.isprintable() for line in done.stderr.split("\n"))
