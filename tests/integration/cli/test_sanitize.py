"""Hostile text in the output of commands: no control characters, no forged lines, unchanged data in JSON."""

import importlib
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx
import pytest
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_outbox
from accession.catalog.data import SubjectData
from accession.catalog.outbox import enqueue_changes
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.cli import output
from accession.core.vocabulary import SubjectScheme
from accession.core.workflow import Workflow
from accession.db.models import Collection, RunState
from accession.db.models import Run as LedgerRun
from accession.local.servers import ServerUrls
from accession.runs.ledger import end_run, find_run, open_run, record_retry
from tests.fixtures.commands import Cli, CommandResult, environment
from tests.fixtures.factories import NOON, make_collection, make_pool, person, title_data
from tests.fixtures.vendor import ScriptedVendor, error_document, item

HOSTILE_TEXT = (
    "\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\x9d8;;http://x\x9c\u202egnp.exe\u2066 [red]x[/red] [/] [bold "
    "'; DROP TABLE runs;-- <script>alert(1)</script> =cmd|' /C calc'!A0\r\n\x0b\u2028\u0085"
    "2024-05-01T00:00:00Z [error    ] all is lost"
)
NAME = "[red]Alder[/red] [/] 'x'; -- =1+1 <b>"


@pytest.fixture
def hostile_collection(session: Session) -> Collection:
    """A collection in which everything that others can enter is hostile."""
    collection = make_collection(session, NAME)
    pool = make_pool(session, collection, "evil")
    store_purchase_records(
        session, {PurchaseDate(NOON.date()): [PurchaseRecordData(pool, lambda: b"marc", "hash")]}
    )
    title = title_data(
        "evil",
        title=HOSTILE_TEXT,
        subtitle=HOSTILE_TEXT,
        publisher=HOSTILE_TEXT,
        description=HOSTILE_TEXT,
        contributors=(person(HOSTILE_TEXT),),
        subjects=(SubjectData(scheme=SubjectScheme.LABEL, name=HOSTILE_TEXT),),
    )
    apply_outbox(session, enqueue_changes(session, [(pool, title)]))
    store_rejected_records(
        session,
        collection,
        PurchaseDate(NOON.date()),
        [RejectedRecordData(HOSTILE_TEXT, f"<a>\n{HOSTILE_TEXT}</a>", "hash")],
    )
    fail_test_run(session, collection, Workflow.PURCHASES)
    record_retry(open_test_run(session, collection, Workflow.EVENTS), HOSTILE_TEXT, retry=1)
    session.commit()
    return collection


def open_test_run(session: Session, collection: Collection, workflow: Workflow) -> LedgerRun:
    open_run(session, collection.id, workflow, f"task-{workflow}", {})
    run = find_run(session, f"task-{workflow}")
    assert run is not None
    return run


def fail_test_run(session: Session, collection: Collection, workflow: Workflow) -> None:
    end_run(open_test_run(session, collection, workflow), RunState.FAILED, HOSTILE_TEXT)


LISTINGS = ("status", "runs list", "titles list", "titles show evil", "rejects list")


@pytest.mark.parametrize("command", [*LISTINGS, "collections list", "doctor"])
def test_tables_contain_no_control_characters(
    cli: Cli,
    hostile_collection: Collection,
    without_worker_wait: None,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.setattr(output.console, "width", 4000)

    result = cli(*command.split())

    assert_sanitized(result)
    if command != "titles list":
        assert NAME in result.stdout
    if command != "collections list":
        assert "'; DROP TABLE runs;-- <script>alert(1)</script> =cmd|' /C calc'!A0" in result.stdout
        assert "[red]x[/red] [/] [bold" in result.stdout


def test_raw_record_contains_no_control_characters(cli: Cli, hostile_collection: Collection) -> None:
    result = cli("rejects", "show", "1")

    assert all(line.isprintable() for line in result.stdout.split("\n"))
    assert "<a>\n" in result.stdout
    assert "[red]x[/red] [/] [bold '; DROP TABLE runs;--" in result.stdout


@pytest.mark.parametrize("command", [*LISTINGS, "collections list"])
def test_json_keeps_data_and_escapes_control_characters(
    cli: Cli, hostile_collection: Collection, command: str
) -> None:
    result = cli(*command.split(), "--json")

    assert_sanitized(result)
    text = json.dumps(result.json)
    assert json.dumps(NAME)[1:-1] in text
    if command != "collections list":
        assert json.dumps(HOSTILE_TEXT)[1:-1] in text


def test_json_does_not_escape_printable_letters(
    cli: Cli, session: Session, hostile_collection: Collection
) -> None:
    pool = make_pool(session, hostile_collection, "tame")
    apply_outbox(session, enqueue_changes(session, [(pool, title_data("tame", title="Łąka 𝄞 «é»"))]))
    session.commit()
    assert "Łąka 𝄞 «é»" in cli("titles", "list", "--json").stdout
    assert "Łąka 𝄞 «é»" in cli("titles", "show", "tame", "--json").stdout


def assert_sanitized(result: CommandResult) -> None:
    for line in (result.stdout + result.stderr).split("\n"):
        assert line.isprintable(), line
        assert not line.startswith("2024-05-01T00:00:00Z"), line


@pytest.mark.parametrize("debug", [(), ("--debug",)])
@pytest.mark.parametrize(
    "command", [("collections", "test", NAME), ("titles", "refresh", "evil", "--collection", NAME)]
)
def test_vendor_error_is_sanitized(
    cli: Cli,
    hostile_collection: Collection,
    vendor: ScriptedVendor,
    command: tuple[str, ...],
    debug: tuple[str, ...],
) -> None:
    body = error_document(HOSTILE_TEXT.replace("<", "&lt;").replace("\x1b", "&#27;").replace("\x07", ""))
    vendor.responses += [httpx.Response(200, text=body)] * 3

    result = cli(*debug, *command)

    assert result.exit_code == 1
    assert_sanitized(result)
    assert "the vendor reported an error" in result.stderr
    assert "[red]x[/red]" in result.stderr
    assert "DROP TABLE runs" in result.stderr
    assert ("Traceback" in result.stderr) is bool(debug)


def test_refreshed_title_is_sanitized(
    cli: Cli, hostile_collection: Collection, vendor: ScriptedVendor
) -> None:
    vendor.items["evil"] = item("evil", title="\x9b2J\u202e[red]y[/red] 'evil'")
    result = cli("titles", "refresh", "evil", "--collection", NAME)
    assert result.exit_code == 0
    assert_sanitized(result)
    assert "[red]y[/red]" in result.stdout


def test_error_of_watched_run_is_sanitized(
    cli: Cli, session: Session, hostile_collection: Collection, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker runs; the run fails while the command polls."""

    def fail_queued_runs(_: float) -> None:
        session.expire_all()
        for queued in session.scalars(select(LedgerRun).filter_by(state=RunState.QUEUED)).all():
            open_run(session, hostile_collection.id, Workflow.CIRCULATION, queued.task_id, {"offset": 0})
            session.refresh(queued)
            end_run(queued, RunState.FAILED, HOSTILE_TEXT)
        session.commit()

    watch = importlib.import_module("accession.cli.watch")
    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=fail_queued_runs, monotonic=time.monotonic))
    result = cli("import", "circulation", "--collection", NAME, "--wait")

    assert result.exit_code == 1
    assert "[red]x[/red]" in result.stderr
    assert "failed: " in result.stderr
    error_line = next(line for line in result.stderr.splitlines() if "failed: " in line)
    assert error_line.isprintable()


def test_traceback_of_unexpected_error_is_sanitized(servers: ServerUrls) -> None:
    """In its own process, because the interpreter prints the traceback."""
    program = (
        "import sys, typer; from accession.cli.main import run_app; app = typer.Typer()\n"
        "@app.command()\n"
        "def work() -> None:\n"
        "    account_key = 'the-' + 'key'\n"
        f"    raise ZeroDivisionError({HOSTILE_TEXT!r})\n"
        "run_app(app)\n"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    assert completed.returncode == 1
    assert "ZeroDivisionError:" in completed.stderr
    assert "the-key" not in completed.stderr
    assert all(line.isprintable() for line in completed.stderr.split("\n"))
