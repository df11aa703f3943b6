"""Imports whose parts are killed at random: whatever befalls them, they end as if nothing had.

A reference import of a sandbox library by plain function calls gives a fingerprint. Then the same library is
imported by `accession up` in a home of its own while parts of it are killed, according to a plan drawn from
a seed. `python -m tests.chaos.crashes --runs 100 [--seed N]` does so a hundred times; it ends at the first
import that breaks a promise, with exit code 1, and `--seed N --runs 1` has the same blows fall again.
"""

import argparse
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random, SystemRandom
from typing import TextIO

import structlog
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.accounts.collections import add_collection, find_collection
from accession.catalog.apply import apply_outbox
from accession.core.clock import utc_now, whole_second
from accession.core.settings import Settings, use_settings
from accession.core.workflow import Workflow
from accession.db import schema
from accession.db.engine import engine
from accession.db.models import (
    ACTIVE_STATES,
    ApplyOutbox,
    CirculationEvent,
    Collection,
    Identifier,
    LicensePool,
    PurchaseRecord,
    RejectedRecord,
    Run,
    RunState,
)
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.events import OVERLAP, BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor import api_for
from accession.imports.windows import Place
from accession.local.postgres import remove_home_data
from accession.local.servers import EmbeddedServers, announcement
from accession.runs.ledger import timestamp
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.server import RunningSandbox, Sandbox, running_sandbox
from tests.fixtures.fingerprint import Fingerprint, difference, digest, fingerprint
from tests.fixtures.installation import Blow, Installation, new_installation

TITLES = 1500
DAYS = 120
EVENTS_AN_HOUR = 600
NAME = "Alder Library"

PAGES = 200
"""About as many as the three workflows take."""
MOST_BLOWS = 4
RESUMES_WITHIN_SECONDS = 30.0
ENDS_WITHIN_SECONDS = 300.0
_LOOK_SECONDS = 0.02


class BrokenPromise(AssertionError):
    """What must always hold did not."""


# The library, and its import in peace


@contextmanager
def library(titles: int = TITLES, days: int = DAYS) -> Iterator[RunningSandbox]:
    """A vendor that has sold titles for months and told of an hour's events; now it stands still."""
    now = whole_second(utc_now())
    # The latest minutes are not imported yet, and what is yet to come is different for each import.
    closed = now - timedelta(minutes=10)
    opened = closed - timedelta(hours=1)
    sold = build_catalogue(titles, opened - timedelta(days=days), opened, seed=4)
    lending = Activity(sold, EVENTS_AN_HOUR, opened, seed=4)
    lending.change_rate(0, closed)
    with running_sandbox(Sandbox(sold, activity=lending)) as running:
        yield running


def opening(sandbox: RunningSandbox) -> datetime:
    """Before the library sold its first title, and before the first event that is told."""
    return min(purchase.purchased_at for purchase in sandbox.catalogue.purchases)


def begin_at(session: Session, collection: Collection, sandbox: RunningSandbox) -> None:
    """Have the workflows begin where the library does, and not in 2014 or ten minutes ago."""
    first = opening(sandbox)
    timestamp(session, collection, Workflow.PURCHASES).finish = first
    told = sandbox.sandbox.activity.between(first, utc_now())
    timestamp(session, collection, Workflow.EVENTS).finish = told[0].moment


def import_in_peace(session: Session, sandbox: RunningSandbox) -> Collection:
    """A collection that was imported in one process, step after step, while nothing befell it."""
    account = sandbox.account
    collection = add_collection(
        session,
        name=NAME,
        library_id=account.library_id,
        account_id=account.account_id,
        account_key=SecretStr(account.account_key),
        base_url=sandbox.base_url,
    )
    begin_at(session, collection, sandbox)
    api = api_for(collection)
    now = whole_second(utc_now())

    purchases = BibliothecaPurchaseRecordImporter(session, collection, api)
    place = Place(purchases.get_start())
    while place.current_day < now:
        page = purchases.import_page(place, now)
        apply_outbox(session, page.outbox_ids)
        place = page.next

    events = BibliothecaEventImporter(session, collection, api)
    start, cutoff = events.get_start(now - OVERLAP), now - OVERLAP
    while start < cutoff:
        told = events.import_time_slice(start, cutoff)
        apply_outbox(session, told.outbox_ids)
        start = told.slice_end

    sweep = BibliothecaCirculationUpdater(session, collection, api)
    after: int | None = 0
    while after is not None:
        batch = sweep.update_batch(after)
        apply_outbox(session, batch.outbox_ids)
        after = batch.next_offset

    session.commit()
    return collection


# What befalls an import


@dataclass(frozen=True)
class Strike:
    """A blow that falls when the runs have committed so many pages, and so many seconds later."""

    pages: int
    seconds: float
    blow: Blow


def plan(seed: int) -> tuple[Strike, ...]:
    """The blows of this seed, one to four."""
    dice = Random(f"crashes {seed}")
    blows = [dice.choice(list(Blow)) for _ in range(dice.randint(1, MOST_BLOWS))]
    moments = sorted(dice.randrange(PAGES) for _ in blows)
    return tuple(
        Strike(moment, dice.uniform(0, 0.3), blow) for moment, blow in zip(moments, blows, strict=True)
    )


@dataclass
class Story:
    """What happened in one import, for whoever has to find out why it broke."""

    seed: int
    began: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    slowest_resumption: float = 0.0

    def tell(self, what: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:7.2f} s  {what}")


@dataclass(frozen=True)
class Seen:
    """What the ledger says of an import at work."""

    pages: int
    at_work: int
    left_to_apply: int

    @property
    def over(self) -> bool:
        return not self.at_work and not self.left_to_apply


class Import:
    """One import, from an empty home to its end."""

    def __init__(self, installation: Installation, sandbox: RunningSandbox, story: Story) -> None:
        self._installation = installation
        self._sandbox = sandbox
        self._story = story

    def begin(self) -> None:
        """Afterwards the collection is there, and its purchases and events are on their way."""
        account = self._sandbox.account
        self._insist(
            *("collections", "add", NAME, "--library-id", account.library_id),
            *("--account-id", account.account_id, "--base-url", self._sandbox.base_url),
        )
        with self._installation.session() as session:
            begin_at(session, find_collection(session, NAME), self._sandbox)
        for workflow in (Workflow.PURCHASES, Workflow.EVENTS):
            self._insist("import", workflow.value, "--import-all")

    def go_through(self, strikes: Sequence[Strike], dice: Random) -> None:
        """Let the blows fall and the workflows end, the sweep last."""
        left = list(strikes)
        swept = False
        while True:
            seen = self._seen()
            if left and (seen.pages >= left[0].pages or (seen.over and swept)):
                self._suffer(left.pop(0), dice)
            elif seen.over and not swept:
                self._story.tell("the sweep begins")
                self._insist("import", "circulation", "--import-all")
                swept = True
            elif seen.over and swept:
                return
            elif time.monotonic() - self._story.began > ENDS_WITHIN_SECONDS:
                raise BrokenPromise(f"after {ENDS_WITHIN_SECONDS:.0f} s it has not ended: {seen}")
            time.sleep(_LOOK_SECONDS)

    def _suffer(self, strike: Strike, dice: Random) -> None:
        time.sleep(strike.seconds)
        before = self._seen()
        self._story.tell(f"{strike.blow}, after {before.pages} pages")
        self._installation.strike(strike.blow, dice)
        back = time.monotonic()
        self._story.tell("all parts are back")
        while not (seen := self._seen()).over and seen.pages <= before.pages:
            if time.monotonic() - back > RESUMES_WITHIN_SECONDS:
                raise BrokenPromise(f"after {RESUMES_WITHIN_SECONDS:.0f} s no work was resumed: {seen}")
            time.sleep(_LOOK_SECONDS)
        took = time.monotonic() - back
        self._story.slowest_resumption = max(self._story.slowest_resumption, took)
        self._story.tell(f"work goes on, {took:.1f} s later")
        with self._installation.session() as session:
            check_checkpoints(session, find_collection(session, NAME), self._sandbox)

    def check_end(self, expected: Fingerprint) -> None:
        """Raise `BrokenPromise` unless all is as after an import that nothing befell."""
        with self._installation.session() as session:
            check_runs(session, self._sandbox)
            collection = find_collection(session, NAME)
            if told := difference(expected, fingerprint(session)):
                raise BrokenPromise("the catalogue differs:\n" + "\n".join(told[:40]))
            check_checkpoints(session, collection, self._sandbox)
        said = announcement(self._installation.home)
        assert said is not None
        check_locks(said.urls.redis_url)

    def _seen(self) -> Seen:
        """Once the database answers."""

        def look() -> Seen:
            with self._installation.session() as session:
                return Seen(
                    session.scalar(select(func.sum(Run.pages))) or 0,
                    session.scalar(select(func.count()).where(Run.state.in_(ACTIVE_STATES))) or 0,
                    session.scalar(select(func.count(ApplyOutbox.id))) or 0,
                )

        return _once_it_answers(look)

    def _insist(self, *command: str) -> None:
        """Give a command as a person does: when a server was away, once more."""
        deadline = time.monotonic() + RESUMES_WITHIN_SECONDS
        while (answer := self._installation.command(*command)).returncode:
            self._story.tell(f"`accession {' '.join(command[:2])}` says: {answer.stderr.strip()}")
            if time.monotonic() > deadline:
                raise BrokenPromise(f"`accession {' '.join(command)}` does not work: {answer.stderr}")


def _once_it_answers(look: Callable[[], Seen]) -> Seen:
    deadline = time.monotonic() + RESUMES_WITHIN_SECONDS
    while True:
        try:
            return look()
        except OperationalError:
            if time.monotonic() > deadline:
                raise BrokenPromise("the database does not come back") from None
            time.sleep(_LOOK_SECONDS)


# What must hold


def check_checkpoints(session: Session, collection: Collection, sandbox: RunningSandbox) -> None:
    """Raise `BrokenPromise` when a checkpoint has passed a record that is neither stored nor rejected."""
    bought = timestamp(session, collection, Workflow.PURCHASES).finish
    told = timestamp(session, collection, Workflow.EVENTS).finish
    assert bought is not None
    assert told is not None
    if max(bought, told) > utc_now():
        raise BrokenPromise(f"a checkpoint lies in the future: {bought}, {told}")
    passed = [p for p in sandbox.catalogue.purchases if p.purchased_at < bought]
    stored = select(Identifier.identifier).join(LicensePool.identifier)
    stored = stored.join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
    missing = {p.item_id for p in passed if p.flaw is None} - set(session.scalars(stored))
    rejected = session.scalar(select(func.count(RejectedRecord.id))) or 0
    if missing or rejected < sum(p.flaw is not None for p in passed):
        raise BrokenPromise(f"the checkpoint of purchases, {bought}, has passed {sorted(missing)}")
    events = sandbox.sandbox.activity.between(opening(sandbox), told)
    lost = {event.event_id for event in events} - set(session.scalars(select(CirculationEvent.event_id)))
    if lost:
        raise BrokenPromise(f"the checkpoint of events, {told}, has passed {sorted(lost)}")


def check_runs(session: Session, sandbox: RunningSandbox) -> None:
    """Raise `BrokenPromise` unless each run has ended in a true state and accounts for all it met."""
    runs = session.scalars(select(Run)).all()
    for workflow in Workflow:
        ended = [run for run in runs if run.workflow == workflow]
        if {run.state for run in ended} != {RunState.SUCCEEDED} or any(run.error for run in ended):
            shown = [(run.workflow, run.state, run.error) for run in ended]
            raise BrokenPromise(f"the runs have not all succeeded: {shown}")
    bought = [run for run in runs if run.workflow == Workflow.PURCHASES]
    fetched = sum(run.records_fetched for run in bought)
    rejected = sum(run.records_rejected for run in bought)
    wanted = len(sandbox.catalogue), sandbox.catalogue.unusable
    if (fetched, rejected) != wanted:
        raise BrokenPromise(f"purchase records fetched and rejected: {(fetched, rejected)}, not {wanted}")


def check_locks(redis_url: str, within_seconds: float = RESUMES_WITHIN_SECONDS) -> None:
    """Raise `BrokenPromise` when a chain that has ended leaves its lock.

    Whoever dies between the last commit and the release leaves it to the message, which comes back.
    """
    deadline = time.monotonic() + within_seconds
    with Redis.from_url(redis_url) as broker:
        while left := sorted(name.decode() for name in broker.scan_iter("*Workflow:*")):
            if time.monotonic() > deadline:
                raise BrokenPromise(f"locks are left: {left}")
            time.sleep(_LOOK_SECONDS)


def run(seed: int, sandbox: RunningSandbox, expected: Fingerprint) -> Story:
    """One import, and what the plan of this seed has befall it; raises `BrokenPromise` with its story."""
    story = Story(seed)
    key = sandbox.account.account_key
    with new_installation(ACCESSION_ACCOUNT_KEY=key) as installation:
        story.tell("all parts run")
        work = Import(installation, sandbox, story)
        try:
            work.begin()
            work.go_through(plan(seed), Random(f"strikes {seed}"))
            story.tell("all workflows have ended")
            work.check_end(expected)
        except AssertionError as broken:
            logs = installation.keep_logs()
            told = "\n".join([str(broken), "", *story.lines, "", f"The logs are kept in {logs}."])
            raise BrokenPromise(f"seed {seed}: {told}") from broken
    return story


@contextmanager
def own_servers() -> Iterator[Session]:
    """A session on a server of this process's own, for the reference."""
    home = Path(tempfile.mkdtemp(prefix="accession-chaos-"))
    with EmbeddedServers(home, durable=False) as urls:
        use_settings(Settings(home=home, database_url=SecretStr(urls.database_url)))
        schema.upgrade(engine())
        with Session(engine()) as session:
            yield session
        engine().dispose()
    remove_home_data(home)
    shutil.rmtree(home)


def main(arguments: Sequence[str], out: TextIO) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.crashes", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="How many imports.")
    parser.add_argument("--seed", type=int, help="Of the first of them; the next ones follow.")
    chosen = parser.parse_args(arguments)
    first = SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
    # Nothing is to be left running that only this process knows of.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # What goes wrong in an import stands in its installation's logs.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    slowest = 0.0
    with library() as sandbox:
        with own_servers() as session:
            import_in_peace(session, sandbox)
            expected = fingerprint(session)
        out.write(f"the reference has fingerprint {digest(expected)}\n")
        for seed in range(first, first + chosen.runs):
            try:
                story = run(seed, sandbox, expected)
            except BrokenPromise as broken:
                out.write(f"BROKEN: {broken}\nAgain: python -m tests.chaos.crashes --runs 1 --seed {seed}\n")
                return 1
            slowest = max(slowest, story.slowest_resumption)
            blows = ", ".join(strike.blow for strike in plan(seed))
            seconds = time.monotonic() - story.began
            out.write(f"seed {seed}: the same in {seconds:.0f} s, though {blows}\n")
            out.flush()
    out.write(f"{chosen.runs} imports, all the same; work was resumed within {slowest:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout))
