"""Some weeks of daily imports from an unreliable vendor, with workers that are killed, in one process.

The tasks are called one after another, with a real database and a real broker, at the time of a simulated
clock. So a seed determines everything that happens. The purchase import, the event import and the circulation
sweep run at the same time. In the end vendor and workers are reliable for one daily import, and the stored
purchases, events and copy counts are compared with the vendor's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import pytest
import time_machine

from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection, Run, RunState
from accession.imports.windows import Width
from tests.chaos.circulation_checks import EventChecks, check_copies
from tests.chaos.invariants import InvariantViolation
from tests.chaos.purchase_checks import RECENT, PurchaseChecks
from tests.chaos.unreliable_broker import UnreliableBroker
from tests.chaos.unreliable_vendor import MAX_EVENT_DELAY, Shares, UnreliableVendor
from tests.fixtures.broker import Broker, Message
from tests.fixtures.factories import day
from tests.fixtures.stored import checkpoint_counter, checkpoint_finish, set_checkpoint
from tests.fixtures.workers import RunStarter

FIRST_DAY = day(2014, 1, 1)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
_EVENT_TYPES = ("PURCHASE", "REMOVED", "CHECKOUT", "CHECKIN", "HOLD", "RESERVED", "RENEWED")
_MAX_DELIVERIES = 5000


@dataclass(frozen=True)
class Scenario:
    """The size of a simulation.

    Attributes:
        days: days before the first import.
        daily_imports: number of imports with faults after the first.
        pauses: possible numbers of days between two imports.
    """

    days: int
    daily_imports: int
    pauses: Sequence[int]


SHORT = Scenario(days=70, daily_imports=1, pauses=(1, 1, 2, 3))
FULL = Scenario(days=220, daily_imports=3, pauses=(1, 1, 2, 5, 9))


class Simulation:
    """A collection, its vendor and the daily imports."""

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
        self._scenario = scenario
        self._collection = collection
        self._now = FIRST_DAY + timedelta(days=scenario.days, hours=4)
        self._run_starter = RunStarter(broker)
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
                outage=random.choice((0, 0, 0.002)),
                blank_when_empty=random.choice((1, 1, 0.5)),
                shift=random.choice((0, 0.02, 0.05)),
                addition=random.choice((0, 0.003, 0.01)),
                kill=random.choice((0, 0.01, 0.05)),
            ),
        )
        self._purchases = PurchaseChecks(collection, self.vendor, width)
        self.events = EventChecks(collection, self.vendor)
        self.settings = {
            "purchase_window": width.value,
            "retry_backoff_seconds": 60,
            "vendor_max_concurrency": random.choice((1, 2, 4)),
        }

    def run(self) -> None:
        """Import with faults, then without, and compare.

        Raises:
            InvariantViolation: the last runs did not complete or confirm everything, or the catalogue
                differs.
        """
        self._sell_before_first_import()
        self._circulate_before_first_import()
        self._import()
        for _ in range(self._scenario.daily_imports):
            self._move_to_next_import()
            self._import()
        self._move_to_next_import()
        self.vendor.recover()
        self.broker.recover()
        if checkpoint_counter(self._collection.id):
            # This import ends the sweep that failed; the next one sweeps all titles again.
            self._import()
            self._move_to_next_import()
        if {run.state for run in self._import()} != {RunState.SUCCEEDED}:
            raise InvariantViolation("a run of the last import failed")
        self._check_synced()
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

    def _circulate_before_first_import(self) -> None:
        """Let the first import of events begin two days before it."""
        start = self._now - 2 * DAY
        set_checkpoint(self._collection.id, start, Workflow.EVENTS)
        self._circulate(start)

    def _move_to_next_import(self) -> None:
        before, ended = self._now, utc_now()
        self._now = max(before + self._random.choice(self._scenario.pauses) * DAY, ended)
        self._sell(before)
        self._circulate(ended)

    def _sell(self, since: datetime) -> None:
        """Sell titles until the next import, some of which are listed days later."""
        random = self._random
        for _ in range(random.choice((0, 1, 2, 5))):
            moment = since + random.random() * (self._now - since)
            self.vendor.sell(moment, listed_from=moment)
        for _ in range(random.choice((0, 0, 1, 3))):
            moment = self._now - random.random() * 20 * DAY
            self.vendor.sell(moment, listed_from=moment + random.random() * 9 * DAY)

    def _circulate(self, since: datetime) -> None:
        """Lend titles until the next import, and change copy counts.

        There may be days without events, an hour with more than the vendor returns at once, and events that
        are published late.
        """
        random = self._random
        titles = sorted(self.vendor.copies)
        for item_id in random.sample(titles, len(titles) // 4):
            owned = random.randrange(5)
            self.vendor.set_copies(item_id, (owned, random.randint(0, owned), random.randrange(3)))
        recent = max(since, self._now - random.choice((1, 2)) * DAY)
        moments = _random_moments(random, recent, self._now, random.choice((0, 1, 3, 12)))
        if random.random() < 1 / 3:
            rush = recent + random.random() * (self._now - HOUR - recent)
            moments += _random_moments(random, rush, rush + random.choice((10 * MINUTE, HOUR)), 140)
        moments += _random_moments(random, self._now - 15 * MINUTE, self._now, random.choice((0, 0, 1, 4)))
        for moment in moments:
            delay = random.choice((0, 0, 1, 1, 2)) * random.random() * MAX_EVENT_DELAY
            self.vendor.add_circulation(moment, random.choice(_EVENT_TYPES), random.choice(titles), delay)

    def _import(self) -> Sequence[Run]:
        """Run the three workflows to their end; check after each delivery what is confirmed."""
        self.broker.move_clock(self._now)
        self.vendor.list_due_records()
        recent = [purchase for purchase in self.vendor.listed if purchase.moment >= self._now - RECENT]
        task_ids = [self._run_starter.start(self._collection, workflow) for workflow in SCHEDULED_WORKFLOWS]
        for number, message in enumerate(self.broker.deliveries()):
            self._check_after(message)
            if number > _MAX_DELIVERIES:
                raise InvariantViolation("the import does not end")
            if self._random.random() < 1 / 10:
                self.broker.broker.deliver_all("apply")
        self.broker.broker.deliver_all("apply")
        runs = [run for task_id in task_ids if (run := self._run_starter.find(task_id)) is not None]
        for run in runs:
            self.report.append(
                f"{self._now:%Y-%m-%d} {run.workflow} {run.state} after {run.pages} pages. {run.error or ''}"
            )
        purchase_run = next(run for run in runs if run.workflow == Workflow.PURCHASES)
        if purchase_run.state == RunState.SUCCEEDED and self._purchases.is_confirmed_until(self._now):
            for purchase in recent:
                purchase.is_late = False
        return runs

    def _check_after(self, message: Message) -> None:
        from accession.tasks.workflows import STEP_TASKS

        if message.task == STEP_TASKS[Workflow.PURCHASES].name:
            self._purchases.check_confirmed()
        elif message.task == STEP_TASKS[Workflow.EVENTS].name:
            self.events.check_checkpoint()

    def _check_synced(self) -> None:
        finish = checkpoint_finish(self._collection.id, Workflow.EVENTS)
        if finish is None or finish < self._now - MAX_EVENT_DELAY:
            raise InvariantViolation(f"the last import of events ended at {finish}")
        if not self._purchases.is_confirmed_until(self._now):
            raise InvariantViolation(f"the purchases are confirmed until {self._purchases.confirmed}")

    def check_catalogue(self) -> None:
        """Check that purchases, events and copy counts are the vendor's.

        Raises:
            InvariantViolation: they differ.
        """
        self._purchases.check_all(self._now)
        self.events.check_checkpoint()
        check_copies(self.vendor)


def _random_moments(random: Random, start: datetime, end: datetime, number: int) -> list[datetime]:
    return [start + random.random() * (end - start) for _ in range(number)]


class _SequentialThread:
    """Runs its function when it is started, so that the order of prefetched requests is always the same."""

    def __init__(self, target: Callable[..., object], args: tuple[Any, ...], **_: Any) -> None:
        self._function = partial(target, *args)

    def start(self) -> None:
        self._function()


def simulate(
    seed: int, width: Width, scenario: Scenario, broker: Broker, collection: Collection
) -> Simulation:
    """Simulate imports into an empty database.

    Raises:
        InvariantViolation: a purchase, an event or a count differs from the vendor's, or a record was missing
            when its time was called confirmed; with a report.
    """
    with (
        time_machine.travel(FIRST_DAY, tick=False) as clock,
        pytest.MonkeyPatch.context() as patch,
    ):
        simulation = Simulation(seed, width, scenario, broker, collection, clock)
        for name, value in simulation.settings.items():
            patch.setattr(get_settings(), name, value)
        patch.setattr("accession.imports.prefetch.Thread", _SequentialThread)
        # A response that is not cached yet never will be: its worker was killed.
        patch.setattr("accession.tasks.prefetch_cache.PATIENCE_SECONDS", 0)
        patch.setattr("accession.bibliotheca.client.vendor_transport", simulation.vendor.transport)
        try:
            simulation.run()
        except InvariantViolation as error:
            report = "\n".join([f"seed {seed}, {width}: {error}", *simulation.report])
            raise InvariantViolation(report) from error
    return simulation
