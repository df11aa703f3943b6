"""With a worker: imports that somebody waits for, to their ends."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.models import CirculationEvent, Collection, LicensePool, PurchaseRecord, RunState
from accession.db.models import Run as LedgerRun
from accession.local.servers import ServerUrls
from accession.sandbox.server import RunningSandbox
from tests.fixtures.commands import (
    PATIENCE_SECONDS,
    Answer,
    Run,
    complete_up_to,
    customer,
    environment,
    process,
    running_worker,
    serving,
)
from tests.fixtures.machine import eventually
from tests.fixtures.servers import empty_broker, empty_database


@pytest.fixture(scope="module")
def worker(servers: ServerUrls, tasks: None) -> Iterator[None]:
    # It would go on with whatever it finds.
    empty_database()
    with Redis.from_url(servers.redis_url) as client:
        empty_broker(client)
    with running_worker(servers, get_settings().home):
        yield


@pytest.fixture
def sandbox() -> Iterator[RunningSandbox]:
    with serving() as sandbox:
        yield sandbox


def titles(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(LicensePool)) or 0


def wait_for(run: Run, *more: str) -> Answer:
    return run("import", "purchases", "--collection", "Alder [/Library]", "--wait", *more)


def alder(session: Session, sandbox: RunningSandbox) -> Collection:
    """A customer whose name would be a mistake in a text with markup."""
    return customer(session, sandbox, "Alder [/Library]")


def test_the_doctor_is_content(
    run: Run, worker: None, collection: Collection, servers: ServerUrls, tmp_path: Path
) -> None:
    from accession.tasks.heartbeats import read_heartbeats

    urls = {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_REDIS_URL": servers.redis_url}
    with process("beat", env=environment(ACCESSION_HOME=str(tmp_path), **urls)):
        eventually(lambda: not read_heartbeats().beat_is_overdue, PATIENCE_SECONDS)
        answer = run("doctor")
    assert answer.code == 0, answer
    assert "ok   workers: 1 answering\n" in answer.out
    assert "ok   beat: it looked at its schedule " in answer.out
    assert "BAD" not in answer.out


def test_waiting_ends_with_every_title_imported_and_applied(
    run: Run, worker: None, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    alder(session, sandbox)
    answer = wait_for(run)
    assert answer.code == 0, answer
    assert "Alder [/Library]" in answer.err
    assert f"{datetime.now(UTC):%Y-%m-%d}" in answer.err
    assert "12 records" in answer.err
    assert "done" in answer.err
    assert titles(session) == 12
    row, *_ = run("status", "--json").json
    assert (row["state"], row["titles_new"], row["applies_pending"]) == ("succeeded", 12, 0)
    shown = {title["title"] for title in run("titles", "list", "--json").json}
    assert shown == {purchase.work.title for purchase in sandbox.catalogue.purchases}


def test_waiting_for_several_shows_each(
    run: Run, worker: None, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    alder(session, sandbox)
    customer(session, sandbox, "Birch")
    answer = run("import", "purchases", "--import-all", "--wait")
    assert answer.code == 0, answer
    assert "Alder [/Library]" in answer.err
    assert "Birch" in answer.err
    assert titles(session) == 24


def test_waiting_for_what_is_up_to_date_already(
    run: Run, worker: None, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    complete_up_to(session, alder(session, sandbox), utc_now().replace(year=utc_now().year + 1))
    session.commit()
    assert wait_for(run).code == 0
    assert titles(session) == 0


def test_waiting_for_a_failure_says_why(
    run: Run, worker: None, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    alder(session, sandbox)
    sandbox.sandbox.account = type(sandbox.account)(account_key="another")
    answer = wait_for(run)
    assert answer.code == 1
    reasons = [line for line in answer.err.splitlines() if line.startswith("Alder [/Library]: failed: ")]
    assert len(reasons) == 1
    assert "the vendor refused the credentials; check the account id and the account key" in reasons[0]
    assert "status 401" in reasons[0]
    row, *_ = run("status", "--json").json
    assert row["state"] == "failed"


def test_waiting_for_events_and_the_sweep_shows_what_each_reads(
    run: Run, worker: None, broker: Redis, session: Session
) -> None:
    with serving(activity=240) as sandbox:
        alder(session, sandbox)
        assert wait_for(run).code == 0
        said = {
            workflow: run("import", workflow, "--collection", "Alder [/Library]", "--wait")
            for workflow in ("events", "circulation")
        }
        now = {title["id"]: title for title in sandbox.sandbox.titles()}
    assert {answer.code for answer in said.values()} == {0}, said
    assert re.search(r"Alder \[/Library\].* \d+ events", said["events"].err)
    assert re.search(r"\d+ titles", said["circulation"].err)
    rows = {row["workflow"]: row for row in run("status", "--json").json}
    assert {row["state"] for row in rows.values()} == {"succeeded"}
    assert all(row["checkpoint"] for row in rows.values())
    events = list(session.scalars(select(CirculationEvent.event_id)))
    assert rows["events"]["records_fetched"] == len(events) > 0
    shown = {row["identifier"]: row for row in run("titles", "list", "--json").json}
    assert rows["circulation"]["records_fetched"] == len(shown)
    assert shown.keys() <= now.keys()


def test_titles_are_refreshed_at_once(
    run: Run, worker: None, broker: Redis, session: Session, sandbox: RunningSandbox
) -> None:
    alder(session, sandbox)
    assert wait_for(run).code == 0
    gone, stays = (purchase.item_id for purchase in sandbox.catalogue.purchases[:2])
    sandbox.sandbox.remove(gone)

    answer = run("titles", "refresh", stays, gone, "--collection", "Alder [/Library]")

    assert answer.code == 0, answer
    assert answer.out.splitlines()[-1] == f"Of 2 titles 1 changed; the vendor no longer has {gone}."
    assert [line.split()[0] for line in answer.out.splitlines()[1:-1]] == [gone, stays]
    again = run("titles", "refresh", gone, "--collection", "Alder [/Library]", "--json")
    (row,) = again.json
    assert (row["identifier"], row["licenses_owned"], row["status"]) == (gone, 0, "exhausted")
    assert {row["workflow"] for row in run("runs", "list", "--json").json} == {"purchases"}


def test_a_title_to_refresh_that_nobody_holds_is_said(
    run: Run, session: Session, sandbox: RunningSandbox
) -> None:
    alder(session, sandbox)
    assert run("titles", "refresh", "nothing", "--collection", "Alder [/Library]").sentence == (
        'Collection "Alder [/Library]" holds no title with id "nothing": see `accession titles list`.'
    )
    assert run("titles", "refresh", "x", "--collection", "Nobody").sentence == (
        'No collection found named "Nobody".'
    )


def test_waiting_joins_the_run_that_is_at_work_already_unless_that_is_not_what_was_asked_for(
    run: Run, worker: None, broker: Redis, session: Session
) -> None:
    with serving(latency_ms=300) as sandbox:
        alder(session, sandbox)
        assert run("import", "purchases", "--collection", "Alder [/Library]").code == 0
        eventually(lambda: run("status", "--json").json[0]["state"] == "running")
        refused = wait_for(run, "--force-reimport")
        answer = wait_for(run)
    assert refused.code == 1
    assert "another import is at work; start this one again when that has ended" in refused.err
    assert answer.code == 0, answer
    assert "Alder [/Library]: an import is at work already; watching that one.\n" in answer.err
    rows = session.scalars(select(LedgerRun)).all()
    assert [row.state for row in rows] == [RunState.SUCCEEDED]
    assert session.scalar(select(func.count()).select_from(PurchaseRecord)) == 12
