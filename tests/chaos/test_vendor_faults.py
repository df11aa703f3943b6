"""Imports from a faulty vendor: equal to an import without faults, or failed with the right error."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import pytest
from pydantic import SecretStr
from redis import Redis

from accession.accounts.account import Account
from accession.accounts.collections import add_collection
from accession.core.clock import utc_now
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Run
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.local.servers import ServerUrls
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import Catalogue, build_catalogue
from accession.sandbox.faults import RESPONSE_FAULTS, Fault, Faults
from accession.sandbox.vendor import Sandbox
from tests.chaos.invariants import check_purchases
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day
from tests.fixtures.fingerprint import Fingerprint, fingerprint
from tests.fixtures.running_sandbox import RunningSandbox, running_sandbox
from tests.fixtures.servers import delete_all_rows
from tests.fixtures.stored import (
    all_runs,
    checkpoint_counter,
    checkpoint_finish,
    copy_counts,
    set_checkpoint,
)
from tests.fixtures.workers import RunStarter, empty_servers, running_worker, travel_to

# Celery stores results with a call that redis-py deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

NOW = day(2024, 5, 1, 9)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
ACTIVITY_END = NOW - timedelta(minutes=10)
# A seed with which every kind of fault occurs.
SEED = 519
# Enough runs, a minute apart, for any test of this module.
_MAX_RUNS = 50


# The vendor


@dataclass(frozen=True)
class Library:
    """The purchases of a library since `start`, and its events since `activity_start`."""

    catalogue: Catalogue
    activity: Activity
    start: datetime
    activity_start: datetime

    @cached_property
    def withdrawn_titles(self) -> list[str]:
        """Titles that the vendor withdraws without an event."""
        titles = [p for p in self.catalogue.purchases if not p.flaw and self.activity.copy_state(p).copies]
        return [purchase.item_id for purchase in titles[::9]]


def make_library(titles: int, *, days: int, hours: float, events_per_hour: int) -> Library:
    start, activity_start = NOW.replace(hour=0) - timedelta(days=days), ACTIVITY_END - timedelta(hours=hours)
    catalogue = build_catalogue(titles, start, activity_start, seed=3)
    activity = Activity(catalogue, events_per_hour, activity_start, seed=3)
    activity.change_rate(0, ACTIVITY_END)
    return Library(catalogue, activity, start, activity_start)


@contextmanager
def running_vendor(
    library: Library, faults: Faults | None = None, clock: Callable[[], datetime] = utc_now
) -> Iterator[RunningSandbox]:
    """Run a simulated vendor of the library, whose Retry-After is zero."""
    sandbox = Sandbox(
        library.catalogue, faults=faults, activity=library.activity, retry_after_seconds=0, clock=clock
    )
    with running_sandbox(sandbox) as running:
        yield running


def new_collection(vendor: RunningSandbox, library: Library, *, account_key: str | None = None) -> Collection:
    """Empty the database, and add a collection of which nothing is imported."""
    delete_all_rows()
    with transaction() as session:
        session.expire_on_commit = False
        collection = add_collection(
            session,
            Account(
                collection="Alder Library",
                library_id=vendor.account.library_id,
                account_id=vendor.account.account_id,
                account_key=SecretStr(account_key or vendor.account.account_key),
                base_url=vendor.base_url,
            ),
        )
    set_checkpoint(collection.id, library.start)
    set_checkpoint(collection.id, library.activity_start, Workflow.EVENTS)
    return collection


@contextmanager
def vendor_timeout(seconds: float) -> Iterator[None]:
    """Set the timeout of vendor requests until the context ends."""
    before = get_settings()
    use_settings(before.model_copy(update={"vendor_timeout_seconds": seconds}))
    try:
        yield
    finally:
        use_settings(before)


# The imports


@pytest.fixture(scope="module")
def run_starter(servers: ServerUrls) -> Iterator[RunStarter]:
    """A worker of this process, whose clock starts at nine in the morning."""
    from accession.tasks.app import app

    empty_servers(servers)
    with Redis.from_url(servers.redis_url) as client, travel_to(NOW), running_worker(app):
        broker = Broker(client, app)
        yield RunStarter(broker)
        broker.clear()


def run_all_workflows(
    run_starter: RunStarter,
    vendor: RunningSandbox,
    library: Library,
    collection: Collection,
    *,
    max_runs: int = 1,
) -> None:
    """Run each workflow until it succeeds, the purchases until they are confirmed.

    Titles are withdrawn before the circulation sweep.
    """
    for workflow in SCHEDULED_WORKFLOWS:
        if workflow is Workflow.CIRCULATION:
            for item_id in library.withdrawn_titles:
                vendor.sandbox.remove(item_id)
        run_until_success(run_starter, library, collection, workflow, max_runs)


def run_until_success(
    run_starter: RunStarter, library: Library, collection: Collection, workflow: Workflow, max_runs: int
) -> None:
    for _ in range(max_runs):
        run = run_starter.run_to_end(collection, workflow)
        if run.state == "succeeded":
            finish = checkpoint_finish(collection.id, workflow)
            assert finish is not None
            assert finish >= NOW - timedelta(minutes=5)
            if workflow is not Workflow.PURCHASES or confirmed_until(collection) == finish:
                return
        else:
            assert (run.error or "").startswith('Collection "Alder Library": the ')
        assert_run_ended_cleanly(run_starter, library, collection)
    pytest.fail(f"no confirmed success in {max_runs} runs: {run.error}")


def assert_run_ended_cleanly(run_starter: RunStarter, library: Library, collection: Collection) -> None:
    """No lock, message or active run is left, and all confirmed purchases are stored."""
    assert_idle(run_starter)
    confirmed = confirmed_until(collection)
    purchased = {p.item_id for p in library.catalogue.purchases if p.purchased_at < confirmed and not p.flaw}
    assert purchased <= copy_counts().keys()


def assert_idle(run_starter: RunStarter) -> None:
    assert run_starter.broker.locks() == {}
    assert run_starter.broker.is_idle()
    assert {run.state for run in all_runs()} <= {"succeeded", "failed"}


def confirmed_until(collection: Collection) -> datetime:
    """Return the time up to which all purchases are known to be imported."""
    with transaction() as session:
        importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))
        return importer.get_start()


def run_every_minute(
    run_starter: RunStarter, collection: Collection, first_start: datetime
) -> Iterator[tuple[datetime, Run]]:
    """Start a purchase import every minute from `first_start` on, and yield the start and run of each."""
    for number in range(_MAX_RUNS):
        start = first_start + number * MINUTE
        with travel_to(start):
            run = run_starter.run_to_end(collection)
            assert_idle(run_starter)
        yield start, run
    pytest.fail(f"{_MAX_RUNS} runs were not enough: {run.error}")


def run_until_confirmed(run_starter: RunStarter, collection: Collection, first_start: datetime) -> None:
    """Start imports until all purchases are confirmed."""
    for start, run in run_every_minute(run_starter, collection, first_start):
        if run.state == "succeeded" and confirmed_until(collection) >= start:
            return


# The expected result


def current_fingerprint() -> Fingerprint:
    with transaction() as session:
        return fingerprint(session, is_sequential=True)


@dataclass(frozen=True)
class Reference:
    """A library, and the fingerprint of its import without faults."""

    library: Library
    fingerprint: Fingerprint


def import_reference(run_starter: RunStarter, library: Library) -> Reference:
    with running_vendor(library) as vendor:
        collection = new_collection(vendor, library)
        run_all_workflows(run_starter, vendor, library, collection)
        statistics = vendor.statistics()
        rows = current_fingerprint()
        assert copy_counts() == {
            title["id"]: (title["copies"], title["available"], title["holds"])
            if title["listed"]
            else (0, 0, 0)
            for title in vendor.sandbox.titles()
            if title["usable"]
        }
    assert len(rows["purchase records"]) == statistics["usable_titles"]
    assert len(rows["rejected records"]) == statistics["unusable_records"]
    assert len(rows["events"]) == sum(statistics["activity"]["events"].values())
    assert not rows["outbox"]
    return Reference(library, rows)


@pytest.fixture(scope="module")
def large(run_starter: RunStarter) -> Reference:
    return import_reference(run_starter, make_library(150, days=45, hours=1, events_per_hour=240))


@pytest.fixture(scope="module")
def small(run_starter: RunStarter) -> Reference:
    return import_reference(run_starter, make_library(14, days=3, hours=0.4, events_per_hour=100))


# Faults of some requests


def test_import_with_30_percent_faults_equals_reference(run_starter: RunStarter, large: Reference) -> None:
    faults = Faults(dict.fromkeys(RESPONSE_FAULTS, 0.3 / len(RESPONSE_FAULTS)), SEED)
    # On a busy machine correct responses can time out, too; that costs more runs.
    with running_vendor(large.library, faults) as vendor, vendor_timeout(0.25):
        collection = new_collection(vendor, large.library)
        run_all_workflows(run_starter, vendor, large.library, collection, max_runs=20)
        statistics = vendor.statistics()
    assert set(statistics["faults"]) == set(RESPONSE_FAULTS)
    assert sum(statistics["faults"].values()) > 0.25 * sum(statistics["requests"].values())
    assert current_fingerprint() == large.fingerprint
    assert run_starter.broker.locks() == {}


def test_import_with_30_percent_blank_bodies_equals_reference(
    run_starter: RunStarter, large: Reference
) -> None:
    with running_vendor(large.library, Faults({Fault.BLANK: 0.3}, SEED)) as vendor:
        collection = new_collection(vendor, large.library)
        run_all_workflows(run_starter, vendor, large.library, collection, max_runs=20)
        statistics = vendor.statistics()
    assert statistics["faults"]["blank"] > 0.2 * sum(statistics["requests"].values())
    assert current_fingerprint() == large.fingerprint


def test_purchases_behind_blank_bursts_are_all_imported(run_starter: RunStarter, large: Reference) -> None:
    shares = {Fault.BLANK: 0.1}
    with running_vendor(large.library, Faults(shares | {Fault.BLANK_BURST: 0.15}, SEED)) as vendor:
        collection = new_collection(vendor, large.library)
        for _ in run_every_minute(run_starter, collection, NOW):
            if vendor.statistics()["faults"].get("blank-burst", 0) > 2:
                break
        vendor.sandbox.faults = Faults(shares, SEED)
        run_until_confirmed(run_starter, collection, NOW + HOUR)
        assert vendor.statistics()["faults"]["blank"] > 20

        vendor.sandbox.faults = Faults()
        # Circulation counts must be later than those of the purchase import.
        with travel_to(NOW + 2 * HOUR):
            run_all_workflows(run_starter, vendor, large.library, collection)
    assert current_fingerprint() == large.fingerprint


# Faults of all requests

ERRORS = {
    Fault.BAD_GATEWAY: "the vendor responded with 502 Bad Gateway",
    Fault.UNAVAILABLE: "the vendor responded with 503 Service Unavailable",
    Fault.TOO_MANY: "the vendor responded with 429 Too Many Requests",
    Fault.ERROR_500: "the vendor responded with 500 Internal Server Error",
    Fault.ERROR_DOCUMENT: "the vendor reported an error: (Unknown|Authentication)",
    Fault.ERROR_DOCUMENT_500: "the vendor reported an error: (Unknown|Authentication)",
    Fault.HTML: "the vendor sent an HTML page",
    Fault.BLANK: "the vendor sent an empty response",
    Fault.TRUNCATED: "the vendor sent malformed or truncated XML",
    Fault.DROP: "the connection to the vendor failed: peer closed connection",
    Fault.LONG_LENGTH: "the connection to the vendor failed: peer closed connection",
    Fault.SHORT_LENGTH: "the vendor sent malformed or truncated XML|the connection to the vendor failed",
    Fault.GZIP_PLAIN: "the vendor sent a response whose gzip encoding is invalid",
    Fault.GZIP_CUT: "the vendor sent a truncated response: its gzip stream is incomplete",
    Fault.REDIRECT: "the vendor redirects to another URL",
    Fault.SILENT: "the vendor did not respond in time",
    # A busy machine may not even receive the first bytes in time.
    Fault.DRIP: "the vendor's response took longer than|the vendor did not respond in time",
    Fault.ENDLESS: "the vendor's response is larger than 20 MiB",
    Fault.OVERSIZED: "the vendor's response is larger than 20 MiB",
}

_TIMEOUT_FAULTS = (Fault.SILENT, Fault.DRIP)


def assert_failed_with(error: str | None, fault: Fault) -> None:
    assert re.match(rf'Collection "Alder Library": ({ERRORS[fault]})', error or ""), error


# Empty bodies fail a run only if purchases are known.
def assert_imports_all_without_faults(
    run_starter: RunStarter, vendor: RunningSandbox, reference: Reference, collection: Collection
) -> None:
    """Assert that the vendor's faults leave no trace once it has recovered."""
    vendor.sandbox.faults = Faults()
    run_all_workflows(run_starter, vendor, reference.library, collection)
    assert current_fingerprint() == reference.fingerprint


@pytest.mark.parametrize("fault", [fault for fault in RESPONSE_FAULTS if fault is not Fault.BLANK])
def test_permanent_fault_fails_run_and_next_run_completes(
    run_starter: RunStarter, small: Reference, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_vendor(small.library, Faults({fault: 1})) as vendor:
        collection = new_collection(vendor, small.library)
        with vendor_timeout(0.05 if fault in _TIMEOUT_FAULTS else 60), monkeypatch.context() as patch:
            patch.setattr("accession.bibliotheca.client.IMMEDIATE_RETRIES", 0)
            failed = run_starter.run_to_end(collection)
        assert failed.state == "failed"
        assert_failed_with(failed.error, fault)
        assert_run_ended_cleanly(run_starter, small.library, collection)

        assert_imports_all_without_faults(run_starter, vendor, small, collection)


def test_permanent_blank_bodies_leave_purchases_unconfirmed(
    run_starter: RunStarter, small: Reference
) -> None:
    with running_vendor(small.library, Faults({Fault.BLANK: 1})) as vendor:
        collection = new_collection(vendor, small.library)
        assert run_starter.run_to_end(collection).state == "succeeded"
        assert confirmed_until(collection) == small.library.start
        assert_run_ended_cleanly(run_starter, small.library, collection)

        assert_imports_all_without_faults(run_starter, vendor, small, collection)


def test_permanent_blank_bodies_fail_run_with_known_purchases(
    run_starter: RunStarter, small: Reference
) -> None:
    with running_vendor(small.library) as vendor:
        collection = new_collection(vendor, small.library)
        run_starter.run_to_end(collection)
        before, confirmed = copy_counts(), confirmed_until(collection)
        vendor.sandbox.faults = Faults({Fault.BLANK: 1})
        with travel_to(NOW + DAY):
            failed = run_starter.run_to_end(collection)
        assert failed.state == "failed"
        assert_failed_with(failed.error, Fault.BLANK)
        assert copy_counts() == before
        assert confirmed_until(collection) == confirmed
        assert_run_ended_cleanly(run_starter, small.library, collection)


@pytest.mark.parametrize("workflow", [Workflow.EVENTS, Workflow.CIRCULATION])
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.GZIP_CUT])
def test_permanent_fault_fails_events_and_circulation(
    run_starter: RunStarter, small: Reference, workflow: Workflow, fault: Fault
) -> None:
    with running_vendor(small.library) as vendor:
        collection = new_collection(vendor, small.library)
        run_starter.run_to_end(collection)
        before = copy_counts()
        vendor.sandbox.faults = Faults({fault: 1})
        failed = run_starter.run_to_end(collection, workflow)
        assert failed.state == "failed"
        assert_failed_with(failed.error, fault)
        assert copy_counts() == before
        assert checkpoint_finish(collection.id, Workflow.EVENTS) == small.library.activity_start
        assert not checkpoint_counter(collection.id)
        assert_run_ended_cleanly(run_starter, small.library, collection)

        assert_imports_all_without_faults(run_starter, vendor, small, collection)


# Purchases that are late, backdated, withdrawn or added while an import pages


def test_regular_imports_find_every_change_of_a_month(run_starter: RunStarter) -> None:
    # Two of the days have more than fifty purchases.
    catalogue = build_catalogue(180, NOW - 8 * DAY, NOW + 9 * DAY, seed=2)
    library = Library(catalogue, Activity(catalogue, 0, NOW), NOW - 8 * DAY, NOW)
    last_day = NOW + 14 * DAY
    shares = {Fault.BLANK: 0.2, Fault.BLANK_BURST: 0.01, Fault.LATE: 0.3}
    faults = Faults(shares | {Fault.SHIFT_PAGE: 0.1}, SEED)
    sandbox = Sandbox(catalogue, faults=faults, activity=library.activity, late_days=4)
    with running_sandbox(sandbox) as vendor:
        collection = new_collection(vendor, library)
        start = NOW
        while start < last_day:
            run_until_confirmed(run_starter, collection, start)
            sandbox.purchase(start - 8 * DAY)
            start += 2 * DAY
        sandbox.faults = Faults(shares, SEED)
        run_until_confirmed(run_starter, collection, start)
        with travel_to(start):
            statistics = vendor.statistics()
            with transaction() as session:
                check_purchases(session, vendor)
    assert statistics["late_records"] == 0
    assert statistics["withdrawn_records"] > 0
    assert statistics["faults"].keys() == {"blank", "blank-burst", "shift-page"}


# A wrong clock or account key


@pytest.mark.parametrize(
    ("minutes", "difference"),
    [(11, "11 minutes behind"), (-11, "11 minutes ahead of")],
    ids=["behind", "ahead"],
)
def test_wrong_clock_is_reported_as_such(
    run_starter: RunStarter, small: Reference, minutes: int, difference: str
) -> None:
    with running_vendor(small.library, clock=lambda: utc_now() + timedelta(minutes=minutes)) as vendor:
        run = run_starter.run_to_end(new_collection(vendor, small.library))
        assert vendor.statistics()["requests"]["rejected"] == 1, "the request is not retried"
    assert run.state == "failed"
    assert f"because this machine's clock is {difference} the vendor's; correct the clock" in (
        run.error or ""
    )
    assert run_starter.broker.locks() == {}


def test_wrong_key_is_reported_as_such(run_starter: RunStarter, small: Reference) -> None:
    with running_vendor(small.library) as vendor:
        run = run_starter.run_to_end(new_collection(vendor, small.library, account_key="another-key"))
        assert vendor.statistics()["requests"]["rejected"] == 1, "the request is not retried"
    assert run.state == "failed"
    assert "the vendor refused the credentials; check the account id and the account key (" in (
        run.error or ""
    )
    assert run_starter.broker.locks() == {}
