"""A vendor at its worst: the catalogue ends as if it had done nothing wrong, or the run says what it did and
the next one completes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select

from accession.accounts.collections import add_collection
from accession.core.clock import utc_now
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Identifier, LicensePool
from accession.local.servers import ServerUrls
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import Catalogue, build_catalogue
from accession.sandbox.faults import BREAKING, Fault, Faults
from accession.sandbox.server import RunningSandbox, Sandbox, running_sandbox
from tests.fixtures.factories import day
from tests.fixtures.fingerprint import Fingerprint, fingerprint
from tests.fixtures.servers import empty_database
from tests.fixtures.workers import (
    Broker,
    Chains,
    checkpoint,
    counter,
    forget_everything,
    running_worker,
    set_checkpoint,
    today_is,
)
from tests.fixtures.workers import runs as ledger

# Celery stores results with a call that redis-py would rather not see.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

NOW = day(2024, 5, 1, 9)
CLOSED = NOW - timedelta(minutes=10)
# With which every kind of fault strikes early.
SEED = 519
PATIENCE_SECONDS = 60


# What there is to import


@dataclass(frozen=True)
class Stock:
    """What a vendor has sold since some day, and what has happened to it since it opened."""

    catalogue: Catalogue
    activity: Activity
    since: datetime
    opened: datetime

    @cached_property
    def leaving(self) -> list[str]:
        """Titles that go without an event."""
        kept = [p for p in self.catalogue.purchases if not p.flaw and self.activity.stock(p).copies]
        return [purchase.item_id for purchase in kept[::9]]


def stock(titles: int, *, days: int, hours: float, events_an_hour: int) -> Stock:
    since, opened = NOW.replace(hour=0) - timedelta(days=days), CLOSED - timedelta(hours=hours)
    catalogue = build_catalogue(titles, since, opened, seed=3)
    activity = Activity(catalogue, events_an_hour, opened, seed=3)
    activity.change_rate(0, CLOSED)
    return Stock(catalogue, activity, since, opened)


@contextmanager
def vendor(
    stock: Stock, faults: Faults | None = None, clock: Callable[[], datetime] = utc_now
) -> Iterator[RunningSandbox]:
    """A vendor with that stock, who asks nobody to wait."""
    sandbox = Sandbox(
        stock.catalogue, faults=faults, activity=stock.activity, retry_after_seconds=0, clock=clock
    )
    with running_sandbox(sandbox) as running:
        yield running


def customer(vendor: RunningSandbox, stock: Stock, *, account_key: str | None = None) -> Collection:
    """The only collection there is, of which nothing is imported yet."""
    empty_database()
    with transaction() as session:
        session.expire_on_commit = False
        collection = add_collection(
            session,
            name="Alder Library",
            library_id=vendor.account.library_id,
            account_id=vendor.account.account_id,
            account_key=SecretStr(account_key or vendor.account.account_key),
            base_url=vendor.base_url,
        )
    set_checkpoint(collection.id, stock.since)
    set_checkpoint(collection.id, stock.opened, Workflow.EVENTS)
    return collection


@contextmanager
def impatience(timeout_seconds: float) -> Iterator[None]:
    """For a while the vendor may not be silent for longer."""
    before = get_settings()
    use_settings(before.model_copy(update={"vendor_timeout_seconds": timeout_seconds}))
    try:
        yield
    finally:
        use_settings(before)


# Who imports it


@pytest.fixture(scope="module")
def chains(servers: ServerUrls) -> Iterator[Chains]:
    """A worker of this process, at nine in the morning."""
    from accession.tasks.app import app

    forget_everything(app, servers)
    with Redis.from_url(servers.redis_url) as client, today_is(NOW), running_worker(app):
        broker = Broker(client, app)
        yield Chains(broker, PATIENCE_SECONDS)
        broker.clear()


def import_everything(
    chains: Chains, vendor: RunningSandbox, stock: Stock, collection: Collection, *, runs: int = 1
) -> None:
    """All three workflows, each complete after so many runs at most; before the last titles leave."""
    for workflow in Workflow:
        if workflow is Workflow.CIRCULATION:
            for item_id in stock.leaving:
                vendor.sandbox.remove(item_id)
        complete(chains, stock, collection, workflow, runs)


def complete(chains: Chains, stock: Stock, collection: Collection, workflow: Workflow, runs: int) -> None:
    for _ in range(runs):
        run = chains.imported(collection, workflow)
        if run.state == "succeeded":
            complete_up_to = checkpoint(collection.id, workflow)
            assert complete_up_to is not None
            assert complete_up_to >= NOW - timedelta(minutes=5)
            return
        assert (run.error or "").startswith('Collection "Alder Library": the ')
        assert_nothing_is_left_behind(chains, stock, collection)
    pytest.fail(f"not complete after {runs} runs: {run.error}")


# What came of it


def _fingerprint() -> Fingerprint:
    with transaction() as session:
        return fingerprint(session, in_order=True)


@dataclass(frozen=True)
class Reference:
    """A stock, and what comes of it when the vendor does nothing wrong."""

    stock: Stock
    fingerprint: Fingerprint


def reference(chains: Chains, stock: Stock) -> Reference:
    with vendor(stock) as running:
        collection = customer(running, stock)
        import_everything(chains, running, stock, collection)
        told = running.statistics()
        found = _fingerprint()
        assert _counts() == {
            title["id"]: (title["copies"], title["available"], title["holds"])
            if title["listed"]
            else (0, 0, 0)
            for title in running.sandbox.titles()
            if title["usable"]
        }
    assert len(found["purchase records"]) == told["usable_titles"]
    assert len(found["rejected records"]) == told["unusable_records"]
    assert len(found["events"]) == sum(told["activity"]["events"].values())
    assert not found["left to apply"]
    return Reference(stock, found)


def _counts() -> dict[str, tuple[int, int, int]]:
    """Owned, available and holds of each title."""
    columns = (LicensePool.licenses_owned, LicensePool.licenses_available, LicensePool.patrons_in_hold_queue)
    with transaction() as session:
        rows = session.execute(select(Identifier.identifier, *columns).join(LicensePool.identifier))
        return {name: (owned, available, holds) for name, owned, available, holds in rows}


@pytest.fixture(scope="module")
def large(chains: Chains) -> Reference:
    return reference(chains, stock(300, days=100, hours=1, events_an_hour=240))


@pytest.fixture(scope="module")
def small(chains: Chains) -> Reference:
    return reference(chains, stock(14, days=3, hours=0.4, events_an_hour=100))


# A vendor that fails now and then


def test_with_three_of_ten_answers_broken_in_every_way_the_import_ends_the_same(
    chains: Chains, large: Reference
) -> None:
    faults = Faults(dict.fromkeys(BREAKING, 0.3 / len(BREAKING)), SEED)
    with vendor(large.stock, faults) as running, impatience(0.25):
        collection = customer(running, large.stock)
        import_everything(chains, running, large.stock, collection, runs=3)
        told = running.statistics()
    assert set(told["faults"]) == set(BREAKING)
    assert sum(told["faults"].values()) > 0.25 * sum(told["requests"].values())
    assert _fingerprint() == large.fingerprint
    assert chains.broker.locks() == {}


# A vendor that stays down

WHAT_IT_DID = {
    Fault.BAD_GATEWAY: "the vendor answered 502 Bad Gateway",
    Fault.UNAVAILABLE: "the vendor answered 503 Service Unavailable",
    Fault.TOO_MANY: "the vendor answered 429 Too Many Requests",
    Fault.ERROR_500: "the vendor answered 500 Internal Server Error",
    Fault.ERROR_DOCUMENT: "the vendor reported an error of its own: (Unknown|Authentication)",
    Fault.ERROR_DOCUMENT_500: "the vendor reported an error of its own: (Unknown|Authentication)",
    Fault.HTML: "the vendor sent an HTML page",
    Fault.BLANK: "the vendor sent a blank answer where items were due",
    Fault.TRUNCATED: "the vendor sent malformed or truncated XML",
    Fault.DROP: "the connection to the vendor failed: peer closed connection",
    Fault.LONG_LENGTH: "the connection to the vendor failed: peer closed connection",
    Fault.SHORT_LENGTH: "the vendor sent malformed or truncated XML|the connection to the vendor failed",
    Fault.GZIP_PLAIN: "the vendor's answer is damaged: it is not the gzip that it says it is",
    Fault.GZIP_CUT: "the vendor's answer is damaged: its gzip ends early",
    Fault.REDIRECT: "the vendor redirects to another address",
    Fault.SILENT: "the vendor did not answer in time",
    Fault.DRIP: "the vendor's answer took longer than",
    Fault.ENDLESS: "the vendor's answer is larger than 20 MiB",
    Fault.OVERSIZED: "the vendor's answer is larger than 20 MiB",
}


_TAKING_THEIR_TIME = (Fault.SILENT, Fault.DRIP)


@pytest.mark.parametrize("fault", BREAKING)
def test_when_the_vendor_stays_down_the_run_says_how_and_the_next_one_completes(
    chains: Chains, small: Reference, fault: Fault
) -> None:
    with vendor(small.stock, Faults({fault: 1})) as running:
        collection = customer(running, small.stock)
        with impatience(0.05 if fault in _TAKING_THEIR_TIME else 60):
            failed = chains.imported(collection)
        assert failed.state == "failed"
        assert re.match(rf'Collection "Alder Library": ({WHAT_IT_DID[fault]})', failed.error or "")
        assert_nothing_is_left_behind(chains, small.stock, collection)

        running.sandbox.faults = Faults()
        import_everything(chains, running, small.stock, collection)
    assert _fingerprint() == small.fingerprint


@pytest.mark.parametrize("workflow", [Workflow.EVENTS, Workflow.CIRCULATION])
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.GZIP_CUT])
def test_so_it_is_for_the_other_workflows(
    chains: Chains, small: Reference, workflow: Workflow, fault: Fault
) -> None:
    with vendor(small.stock) as running:
        collection = customer(running, small.stock)
        chains.imported(collection)
        held = _counts()
        running.sandbox.faults = Faults({fault: 1})
        failed = chains.imported(collection, workflow)
        assert failed.state == "failed"
        assert re.match(rf'Collection "Alder Library": ({WHAT_IT_DID[fault]})', failed.error or "")
        assert _counts() == held
        assert checkpoint(collection.id, Workflow.EVENTS) == small.stock.opened
        assert not counter(collection.id)
        assert_nothing_is_left_behind(chains, small.stock, collection)

        running.sandbox.faults = Faults()
        import_everything(chains, running, small.stock, collection)
    assert _fingerprint() == small.fingerprint


def assert_nothing_is_left_behind(chains: Chains, stock: Stock, collection: Collection) -> None:
    """The lock is free, nothing will be tried again, and what is before the checkpoint is held."""
    assert chains.broker.locks() == {}
    assert chains.broker.is_idle()
    assert {run.state for run in ledger()} <= {"succeeded", "failed"}
    reached = checkpoint(collection.id)
    assert reached is not None
    sold = {p.item_id for p in stock.catalogue.purchases if p.purchased_at < reached and not p.flaw}
    assert sold <= _counts().keys()


# A clock, or a key, that is wrong


@pytest.mark.parametrize(("minutes", "said"), [(11, "11 minutes behind"), (-11, "11 minutes ahead of")])
def test_a_wrong_clock_is_told_from_a_wrong_key(
    chains: Chains, small: Reference, minutes: int, said: str
) -> None:
    with vendor(small.stock, clock=lambda: utc_now() + timedelta(minutes=minutes)) as running:
        run = chains.imported(customer(running, small.stock))
        assert running.statistics()["requests"]["refused"] == 1, "nothing is tried again"
    assert run.state == "failed"
    assert f"because this machine's clock is {said} the vendor's; set the clock right" in (run.error or "")
    assert chains.broker.locks() == {}


def test_a_wrong_key_is_told_from_a_wrong_clock(chains: Chains, small: Reference) -> None:
    with vendor(small.stock) as running:
        run = chains.imported(customer(running, small.stock, account_key="another-key"))
        assert running.statistics()["requests"]["refused"] == 1, "nothing is tried again"
    assert run.state == "failed"
    assert "the vendor refused the credentials; check the account id and the account key (" in (
        run.error or ""
    )
    assert chains.broker.locks() == {}
