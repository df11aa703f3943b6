"""Some weeks of purchase imports from an unreliable vendor, with workers that are killed, in one process.

The tasks are called one after another, with a real database and a real broker, at the time of a simulated
clock. So a seed determines everything that happens. In the end vendor and workers are reliable for one daily
import, and the stored purchases are compared with the vendor's.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from random import Random
from typing import Any, TypeVar

import pytest
import time_machine
from sqlalchemy import select

from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.db.models import Collection, Identifier, LicensePool, PurchaseRecord, Run
from accession.imports.windows import Width
from tests.chaos.invariants import InvariantViolation
from tests.chaos.unreliable_broker import UnreliableBroker
from tests.chaos.unreliable_vendor import Purchase, Shares, UnreliableVendor
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day
from tests.fixtures.stored import checkpoint_confirmed, titles_with_metadata
from tests.fixtures.workers import RunStarter

FIRST_DAY = day(2014, 1, 1)
DAY = timedelta(days=1)
# The daily import finds purchases that the vendor lists up to so late.
RECENT = timedelta(days=31)
_MAX_DELIVERIES = 5000

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Scenario:
    """The size of a simulation: days before the first import, and the number of daily imports after it."""

    days: int
    daily_imports: int


SHORT = Scenario(days=70, daily_imports=1)
FULL = Scenario(days=220, daily_imports=3)


@dataclass(frozen=True)
class StoredPurchase:
    """A purchase record in the database. With `month_only`, its day is the first of its month."""

    item_id: str
    day: date
    month_only: bool


class Simulation:
    """A collection, its vendor and the imports of its purchases."""

    def __init__(
        self,
        seed: int,
        width: Width,
        scenario: Scenario,
        broker: Broker,
        collection: Collection,
        clock: time_machine.Traveller,
    ) -> None:
        self._random = random = Random(f"{seed} {width}")
        self._width = width
        self._scenario = scenario
        self._collection = collection
        self._now = FIRST_DAY + timedelta(days=scenario.days, hours=4)
        self._run_starter = RunStarter(broker)
        self._confirmed: datetime | None = None
        self.report: list[str] = []
        self.broker = UnreliableBroker(
            broker,
            random,
            clock,
            kill=random.choice((0, 0.01, 0.05)),
            repeat=random.choice((0, 0.01, 0.05)),
            loss=random.choice((0, 0, 0.01)),
        )
        self.vendor = UnreliableVendor(
            seed=f"{seed} {width}",
            clock=clock,
            shares=Shares(
                blank=random.choice((0.02, 0.1, 0.2, 0.3)),
                burst=random.choice((0, 0.003, 0.02)),
                blank_when_empty=random.choice((1, 1, 0.5)),
                shift=random.choice((0, 0.02, 0.05)),
                addition=random.choice((0, 0.003, 0.01)),
                kill=random.choice((0, 0.01, 0.05)),
            ),
        )
        self.settings = {
            "purchase_window": width.value,
            "retry_backoff_seconds": 60,
            "vendor_max_concurrency": random.choice((1, 2, 4)),
        }

    def run(self) -> None:
        """Import with faults, then without, and compare.

        Raises:
            InvariantViolation: the last run did not confirm everything, or a purchase differs.
        """
        self._sell_before_first_import()
        self._import()
        for _ in range(self._scenario.daily_imports):
            self._sell_until_next_import()
            self._import()
        self._sell_until_next_import()
        self.vendor.recover()
        self.broker.recover()
        run = self._import()
        if run.state != "succeeded" or not self._is_confirmed_until(self._now):
            raise InvariantViolation(f"the last import is {run.state}, confirmed until {self._confirmed}")
        self.check_catalogue()

    def _sell_before_first_import(self) -> None:
        """Sell titles on some days, with pages of every size and gaps; a few titles are sold again."""
        random = self._random
        sizes = random.choice(((1, 1, 2, 3), (1, 2, 5, 20), (1, 3, 12, 49, 50, 51, 120)))
        sold: list[str] = []
        moment = FIRST_DAY + random.randrange(60) * DAY
        while moment < self._now - DAY and len(sold) < self._scenario.days:
            again = random.sample(sold, 1) if sold and random.random() < 1 / 10 else []
            for item_id in [None] * random.choice(sizes) + again:
                sold.append(self.vendor.sell(moment + random.random() * DAY, item_id=item_id))
            moment += random.choice((1, 1, 2, 3, 5, 12, 40)) * DAY

    def _sell_until_next_import(self) -> None:
        """Move on to the next import; titles are sold meanwhile, some of which are listed days later."""
        random = self._random
        before = self._now
        self._now = max(before + random.choice((1, 1, 2, 5, 9)) * DAY, utc_now())
        for _ in range(random.choice((0, 1, 2, 5))):
            moment = before + random.random() * (self._now - before)
            self.vendor.sell(moment, listed_from=moment)
        for _ in range(random.choice((0, 0, 1, 3))):
            moment = self._now - random.random() * 20 * DAY
            self.vendor.sell(moment, listed_from=moment + random.random() * 9 * DAY)

    def _import(self) -> Run:
        """Run an import to its end, and check after each delivery what is confirmed."""
        self.broker.move_clock(self._now)
        self.vendor.list_due_purchases()
        recent = [purchase for purchase in self.vendor.listed if purchase.moment >= self._now - RECENT]
        task_id = self._run_starter.start(self._collection)
        for number, _ in enumerate(self.broker.deliveries()):
            self._check_confirmed()
            if number > _MAX_DELIVERIES:
                raise InvariantViolation("the import does not end")
        self.broker.broker.deliver_all("apply")
        run = self._run_starter.find(task_id)
        assert run is not None
        self.report.append(f"{self._now:%Y-%m-%d} {run.state} after {run.pages} pages. {run.error or ''}")
        if run.state == "succeeded" and self._is_confirmed_until(self._now):
            for purchase in recent:
                purchase.is_late = False
        return run

    def _is_confirmed_until(self, moment: datetime) -> bool:
        return self._confirmed is not None and self._confirmed >= moment

    def _check_confirmed(self) -> None:
        """Check that everything before `confirmed` is stored, except what was listed later."""
        confirmed = checkpoint_confirmed(self._collection.id)
        if confirmed == self._confirmed or confirmed is None:
            return
        self._confirmed = confirmed
        stored = _stored_purchases()
        due = [each for each in self.vendor.listed if each.moment < confirmed and not each.is_late]
        if missing := [purchase for purchase in due if not stored & self._forms(purchase)]:
            raise InvariantViolation(f"confirmed until {confirmed}, but these are not stored: {missing}")

    def check_catalogue(self) -> None:
        """Check that the stored purchases are the vendor's, and that the titles have metadata.

        Purchases that were listed too late may be missing, and withdrawn ones may be stored.
        """
        stored, vendor = _stored_purchases(), self.vendor
        due = [each for each in vendor.listed if not each.is_late or each.moment >= self._now - RECENT]
        possible = {form for each in (*vendor.listed, *vendor.withdrawn) for form in self._forms(each)}
        missing = [purchase for purchase in due if not stored & self._forms(purchase)]
        if missing or stored - possible:
            raise InvariantViolation(f"missing: {missing}; in excess: {stored - possible}")
        if without := {purchase.item_id for purchase in due} - titles_with_metadata():
            raise InvariantViolation(f"titles without metadata: {sorted(without)}")

    def _forms(self, purchase: Purchase) -> set[StoredPurchase]:
        """Return the forms in which a purchase may be stored."""
        purchased_on = purchase.moment.date()
        forms = {StoredPurchase(purchase.item_id, purchased_on, month_only=False)}
        if self._width is Width.MONTH:
            forms.add(StoredPurchase(purchase.item_id, purchased_on.replace(day=1), month_only=True))
        return forms


def _stored_purchases() -> set[StoredPurchase]:
    query = (
        select(Identifier.identifier, PurchaseRecord.purchased_on, PurchaseRecord.month_only)
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
    )
    with transaction() as session:
        return {StoredPurchase(*row) for row in session.execute(query)}


class _SequentialExecutor:
    """Calls a function when it is submitted, so that the order of prefetched requests is always the same."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> "_SequentialExecutor":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        future: Future[_Result] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None: ...


def simulate(
    seed: int, width: Width, scenario: Scenario, broker: Broker, collection: Collection
) -> Simulation:
    """Simulate imports into an empty database.

    Raises:
        InvariantViolation: a purchase is missing or stored under another day, or was missing when its time
            was called confirmed; with a report.
    """
    with (
        time_machine.travel(FIRST_DAY, tick=False) as clock,
        pytest.MonkeyPatch.context() as patch,
    ):
        simulation = Simulation(seed, width, scenario, broker, collection, clock)
        for name, value in simulation.settings.items():
            patch.setattr(get_settings(), name, value)
        patch.setattr("accession.imports.prefetch.ThreadPoolExecutor", _SequentialExecutor)
        with simulation.vendor.client() as http:
            patch.setattr("accession.bibliotheca.client.http_client", lambda: http)
            try:
                simulation.run()
            except InvariantViolation as error:
                report = "\n".join([f"seed {seed}, {width}: {error}", *simulation.report])
                raise InvariantViolation(report) from error
    return simulation
