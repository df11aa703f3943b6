"""Temporary installations of Accession: start one, add collections, and run workflows to their end.

Modules of `accession.tasks` configure Celery when they are imported, so they are imported within functions
that run after an installation has started.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import SecretStr

from accession.core.settings import ENV_PREFIX, use_settings
from accession.core.workflow import Workflow
from accession.sandbox.signatures import SandboxAccount
from benchmarks.simulated_vendors import RunningVendors, VendorSpec

_POLL_SECONDS = 0.05
_PING_SECONDS, _MAX_PINGS = 0.5, 200


@contextmanager
def temporary_home(**settings: object) -> Iterator[Path]:
    """Create an empty home and configure this process, and those that it starts, with only these settings.

    The home is deleted when the context ends.
    """
    from accession.local.home import remove_home_data

    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="accession-bench-"))
    for name, value in {"home": home, "web_port": 0, **settings}.items():
        os.environ[f"{ENV_PREFIX}{name.upper()}"] = str(value)
    use_settings(None)
    try:
        yield home
    finally:
        remove_home_data(home)
        shutil.rmtree(home)


@contextmanager
def installation(**settings: object) -> Iterator[Path]:
    """Run `accession up` with these settings, connect this process to it, and yield its home."""
    from accession.cli.connect import resolve_servers
    from accession.local.control import start_in_background, stop_running

    with temporary_home(**settings) as home:
        try:
            start_in_background([sys.executable, "-m", "accession", "up"], home)
            resolve_servers()
            wait_for_workers(1)
            yield home
        finally:
            stop_running(home, 60)


@contextmanager
def database_and_broker(*, durable: bool = True, **settings: object) -> Iterator[Path]:
    """Run only the servers of an installation, with an empty catalogue, and yield its home.

    This process and those that it starts are connected to the servers. With `durable=False` PostgreSQL does
    not wait for the disk.
    """
    from accession.db import schema
    from accession.db.engine import engine
    from accession.local.servers import EmbeddedServers

    with temporary_home(**settings) as home, EmbeddedServers(home, durable=durable) as urls:
        os.environ[f"{ENV_PREFIX}DATABASE_URL"] = urls.database_url
        os.environ[f"{ENV_PREFIX}REDIS_URL"] = urls.redis_url
        use_settings(None)
        # A measurement may start several servers, one after another.
        engine.cache_clear()
        schema.upgrade(engine())
        try:
            yield home
        finally:
            engine().dispose()


def wait_for_workers(number: int) -> None:
    """Wait until `number` workers respond, so that their start is not measured.

    Raises:
        SystemExit: they do not respond within about two minutes.
    """
    from accession.tasks.app import app

    for _ in range(_MAX_PINGS):
        if len(app.control.ping(timeout=_PING_SECONDS, limit=number)) >= number:
            return
    raise SystemExit("The workers did not start: see the logs in the home of the installation.")


def add_library(base_url: str, purchased_since: datetime, name: str = "Bench") -> int:
    """Add a collection whose checkpoint for purchases is at `purchased_since`, and return its id.

    The checkpoint saves the requests for the years before.
    """
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
        get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish = purchased_since
        return int(collection.id)


def add_libraries(specs: Sequence[VendorSpec], vendors: RunningVendors) -> list[int]:
    """Add a collection for each vendor, and return their ids."""
    return [
        add_library(base_url, spec.since, f"Library {number}")
        for number, (base_url, spec) in enumerate(zip(vendors.base_urls, specs, strict=True))
    ]


@dataclass(frozen=True)
class RunCost:
    """Seconds from the start of runs until everything is applied, and vendor requests by endpoint."""

    seconds: float
    requests: Counter[str]


def run_workflow(
    workflow: Workflow, collection_ids: Sequence[int], vendors: RunningVendors, **arguments: object
) -> RunCost:
    """Run a workflow for all collections concurrently, and wait until its changes are applied.

    `arguments` are those of the first step.

    Raises:
        SystemExit: a run failed.
    """
    from accession.tasks.workflow_task import start_runs
    from accession.tasks.workflows import STEP_TASKS

    requests_before, start = vendors.count_requests(), time.monotonic()
    task_ids = start_runs(STEP_TASKS[workflow], collection_ids, **arguments)
    while not _are_done(task_ids.values()):
        time.sleep(_POLL_SECONDS)
    return RunCost(time.monotonic() - start, vendors.count_requests() - requests_before)


def _are_done(task_ids: Iterable[str]) -> bool:
    from sqlalchemy import select

    from accession.db.engine import transaction
    from accession.db.models import ACTIVE_STATES, ApplyOutbox, Run, RunState

    # One unfinished run is enough to know; reading all of them would cost more, the more there are.
    unfinished = select(Run.state, Run.error).where(
        Run.task_id.in_(list(task_ids)), Run.state != RunState.SUCCEEDED
    )
    with transaction() as session:
        run = session.execute(unfinished.order_by(Run.id.desc()).limit(1)).one_or_none()
        has_pending_changes = session.scalar(select(ApplyOutbox.id).limit(1)) is not None
    if run is not None and run.state not in ACTIVE_STATES:
        raise SystemExit(f"A run ended in state {run.state}: {run.error}")
    return run is None and not has_pending_changes


def catalogue_fingerprint() -> str:
    """Return a hash that is equal for catalogues with equal titles, metadata and copies."""
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
        return _hash_of(session.execute(query).all())


def purchase_days_fingerprint() -> str:
    """Return a hash that is equal for catalogues with equal purchase days of each title."""
    from sqlalchemy import select

    from accession.db.engine import transaction
    from accession.db.models import Identifier, LicensePool, PurchaseRecord

    query = (
        select(Identifier.identifier, PurchaseRecord.purchased_on, PurchaseRecord.listed)
        .select_from(PurchaseRecord)
        .join(LicensePool, PurchaseRecord.license_pool_id == LicensePool.id)
        .join(LicensePool.identifier)
        .order_by(Identifier.identifier, PurchaseRecord.purchased_on)
    )
    with transaction() as session:
        return _hash_of(session.execute(query).all())


def _hash_of(rows: object) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
