"""What measurements play on: vendors in a process of their own, an installation with the settings that are to
be measured, libraries in it, workflows from start to end, and a look at the processes.

What imports `accession.tasks` does so only within an installation: Celery wants a broker to be configured.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import psutil
from pydantic import SecretStr

from accession.core.clock import utc_now
from accession.core.settings import ENV_PREFIX
from accession.core.workflow import Workflow
from accession.sandbox.catalogue import Catalogue, Purchase, build_catalogue
from accession.sandbox.server import Sandbox, SandboxAccount, running_sandbox

SPAWN = multiprocessing.get_context("spawn")
_UNTIL = datetime(2024, 5, 1, tzinfo=UTC)
_LOOK_SECONDS = 0.05
_PING_SECONDS, _PATIENCE = 0.5, 200

_Told = TypeVar("_Told")
_Setup = TypeVar("_Setup")


def one_by_one(measure: Callable[[_Setup], _Told], setups: Sequence[_Setup]) -> list[_Told]:
    """What `measure` tells of each setup, each in a process that has seen no other."""
    with ProcessPoolExecutor(1, mp_context=SPAWN, max_tasks_per_child=1) as executor:
        return list(executor.map(measure, setups))


@dataclass(frozen=True)
class Sold:
    """What a vendor has sold within so many days until the beginning of today (UTC), the same on whichever
    day it is asked, and how long each of its answers takes. Another seed makes other titles."""

    titles: int
    days: int
    latency_ms: int = 0
    seed: int = 0

    @property
    def since(self) -> datetime:
        """The first moment of the first day."""
        return days_ago(self.days)

    def purchases(self) -> Iterable[Purchase]:
        """In clumps, as libraries buy."""
        sold = build_catalogue(self.titles, _UNTIL - timedelta(days=self.days), _UNTIL, seed=self.seed)
        return moved(sold.purchases, days_ago(0) - _UNTIL)


def moved(purchases: Iterable[Purchase], by: timedelta) -> Iterator[Purchase]:
    """The same purchases so much later."""
    return (replace(purchase, purchased_at=purchase.purchased_at + by) for purchase in purchases)


def days_ago(days: int) -> datetime:
    """The midnight (UTC) so many days before today's."""
    return utc_now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)


@dataclass(frozen=True)
class Vendors:
    """Sandbox vendors that answer, in the process `pid`."""

    base_urls: tuple[str, ...]
    pid: int

    def statistics(self) -> list[dict[str, Any]]:
        """What each has sold and been asked."""
        return [httpx.get(f"{url}/sandbox/statistics", trust_env=False).json() for url in self.base_urls]

    def requests(self) -> Counter[str]:
        """What all of them have been asked, by endpoint."""
        return sum((Counter(told["requests"]) for told in self.statistics()), Counter[str]())

    def usable_titles(self) -> int:
        """How many titles an import can take from them."""
        return sum(told["usable_titles"] for told in self.statistics())


@contextmanager
def vendors(sold: Sequence[Sold]) -> Iterator[Vendors]:
    """A vendor for each, all of them in one process that does nothing else, until the context ends."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(sold, theirs))
    process.start()
    theirs.close()
    try:
        yield Vendors(ours.recv(), process.pid or 0)
    finally:
        # To stop them in good order, one after another, takes a while.
        process.terminate()
        process.join()
        ours.close()


def _serve(sold: Sequence[Sold], pipe: Connection) -> None:
    with ExitStack() as stack:
        sandboxes = [Sandbox(Catalogue(each.purchases()), latency_ms=each.latency_ms) for each in sold]
        running = [stack.enter_context(running_sandbox(sandbox)) for sandbox in sandboxes]
        pipe.send(tuple(each.base_url for each in running))
        # Until the measurement ends, however it does.
        with suppress(EOFError):
            pipe.recv()


@contextmanager
def new_home(**settings: object) -> Iterator[Path]:
    """An empty home, which is this process's and those it starts, with these settings and no other."""
    from accession.local.postgres import remove_home_data

    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="accession-bench-"))
    for name, value in {"home": home, "web_port": 0, **settings}.items():
        os.environ[f"{ENV_PREFIX}{name.upper()}"] = str(value)
    try:
        yield home
    finally:
        remove_home_data(home)
        shutil.rmtree(home)


@contextmanager
def installation(**settings: object) -> Iterator[Path]:
    """Everything of `accession up` with these settings, its worker at work, and this process attached to it;
    yields its home."""
    from accession.cli.connect import resolve_servers
    from accession.local.supervisor import start_in_background, stop_running

    with new_home(**settings) as home:
        try:
            start_in_background([sys.executable, "-m", "accession", "up"], home)
            resolve_servers()
            await_workers(1)
            yield home
        finally:
            stop_running(home, 60)


def await_workers(number: int) -> None:
    """Afterwards so many workers take messages: their start is no part of a measurement.

    Raises SystemExit when they do not within a minute or two.
    """
    from accession.tasks.app import app

    for _ in range(_PATIENCE):
        if len(app.control.ping(timeout=_PING_SECONDS, limit=number)) >= number:
            return
    raise SystemExit("The workers of the measurement have not begun.")


@contextmanager
def servers(**settings: object) -> Iterator[Path]:
    """The servers of an installation alone, with an empty catalogue, and this process and those it starts
    attached to them; yields the home."""
    from accession.db import schema
    from accession.db.engine import engine
    from accession.local.servers import EmbeddedServers

    with new_home(**settings) as home, EmbeddedServers(home) as urls:
        os.environ["ACCESSION_DATABASE_URL"] = urls.database_url
        os.environ["ACCESSION_REDIS_URL"] = urls.redis_url
        schema.upgrade(engine())
        try:
            yield home
        finally:
            engine().dispose()


def add_library(base_url: str, began: datetime, name: str = "Bench") -> int:
    """A collection whose purchases begin at `began`, so that the years before are not walked; its id."""
    from accession.accounts.account import Account
    from accession.accounts.collections import add_collection
    from accession.db.engine import transaction
    from accession.runs.ledger import get_or_create_checkpoint

    account = SandboxAccount()
    with transaction() as session:
        collection = add_collection(
            session,
            Account(
                collection=name,
                library_id=account.library_id,
                account_id=account.account_id,
                account_key=SecretStr(account.account_key),
                base_url=base_url,
            ),
        )
        get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish = began
        return int(collection.id)


def add_libraries(sold: Sequence[Sold], asked: Vendors) -> list[int]:
    """A collection for each vendor; their ids."""
    return [
        add_library(base_url, each.since, f"Library {number}")
        for number, (base_url, each) in enumerate(zip(asked.base_urls, sold, strict=True))
    ]


@dataclass(frozen=True)
class Took:
    """What some runs took, from their start until all is applied: seconds, and requests by endpoint."""

    seconds: float
    requests: Counter[str]


def run(workflow: Workflow, collection_ids: Sequence[int], asked: Vendors) -> Took:
    """Run a workflow of the collections, all started at once, to its end; it asks these vendors.

    Raises SystemExit when a run fails.
    """
    from accession.tasks.workflow_task import start_runs
    from accession.tasks.workflows import STEP_TASKS

    before, started = asked.requests(), time.monotonic()
    task_ids = start_runs(STEP_TASKS[workflow], collection_ids)
    while not _are_done(task_ids.values()):
        time.sleep(_LOOK_SECONDS)
    return Took(time.monotonic() - started, asked.requests() - before)


def _are_done(task_ids: Iterable[str]) -> bool:
    from sqlalchemy import select

    from accession.db.engine import transaction
    from accession.db.models import ACTIVE_STATES, ApplyOutbox, Run, RunState

    # One that has not succeeded tells enough: to look at all of them costs more, the more there are.
    unfinished = select(Run.state, Run.error).where(
        Run.task_id.in_(list(task_ids)), Run.state != RunState.SUCCEEDED
    )
    with transaction() as session:
        run = session.execute(unfinished.order_by(Run.id.desc()).limit(1)).one_or_none()
        waiting = session.scalar(select(ApplyOutbox.id).limit(1)) is not None
    if run is not None and run.state not in ACTIVE_STATES:
        raise SystemExit(f"A run is {run.state}: {run.error}")
    return not waiting and run is None


def catalogue_fingerprint() -> str:
    """The same for catalogues that hold the same titles, described and counted alike."""
    from sqlalchemy import select

    from accession.db.engine import transaction
    from accession.db.models import Edition, Identifier, LicensePool

    query = (
        select(
            Identifier.identifier,
            Edition.content_hash,
            LicensePool.licenses_owned,
            LicensePool.licenses_available,
        )
        .join(LicensePool.identifier)
        .outerjoin(Edition, Edition.identifier_id == Identifier.id)
        .order_by(Identifier.identifier)
    )
    with transaction() as session:
        return hashlib.sha256(repr(session.execute(query).all()).encode()).hexdigest()[:16]


def part(home: Path, name: str) -> int:
    """The process of a part of the installation that runs."""
    from accession.local.supervisor import process_statuses

    return next(part.pid for part in process_statuses(home) if part.name == name and part.pid is not None)


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident(pid: int, which: Literal["VmHWM", "VmRSS", "RssAnon"]) -> int:
    """A process's resident memory in MiB: at its highest (`VmHWM`), now (`VmRSS`), or now and no file's or
    other process's (`RssAnon`)."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(which))
    return int(line.split()[1]) // 1024


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process and its descendants have used, those that have ended among them."""
    process, used = psutil.Process(pid), 0.0
    for each in (process, *process.children(recursive=True)):
        # One that ends just now is counted with its parent the next time.
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


def show(rows: Sequence[Any]) -> None:
    """Print a table of dataclasses with a column for each field that is no tuple."""
    lines = [
        {name: value for name, value in asdict(row).items() if not isinstance(value, tuple | list)}
        for row in rows
    ]
    heads = {name: name.replace("_", " ") for name in lines[0]}
    cells = [{name: _shown(value) for name, value in line.items()} for line in lines]
    widths = {name: max(len(head), *(len(cell[name]) for cell in cells)) for name, head in heads.items()}
    for cell in (heads, *cells):
        print("  ".join(f"{text:>{widths[name]}}" for name, text in cell.items()))


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case int() | float():
            return f"{value:,}"
    return str(value)


def print_json(rows: Sequence[Any]) -> None:
    """Print dataclasses as the last line."""
    print(json.dumps([asdict(row) for row in rows]))
