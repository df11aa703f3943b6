"""Imports whose processes are killed at random, compared to an import without faults.

A baseline import of a simulated library gives a fingerprint of the catalogue. Then `accession up` imports the
same library in its own home while processes are killed, according to a plan drawn from a seed. With an odd
seed the vendor is unreliable as well: it sends empty bodies, lists purchases late, and adds and withdraws
records between two pages. Then it recovers, one more import follows, and the purchases are compared with it.
`python -m tests.chaos.crashes --runs 100 [--seed N]` does this a hundred times. It stops with exit code 1 at
the first import that violates an invariant; `--seed N --runs 1` repeats the faults of that import.
"""

import argparse
import logging
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from typing import TextIO

import structlog
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.core.settings import Settings, use_settings
from accession.core.workflow import Workflow
from accession.db import schema
from accession.db.engine import engine
from accession.db.models import ACTIVE_STATES, ApplyOutbox, Run
from accession.local.home import remove_home_data
from accession.local.servers import EmbeddedServers
from accession.sandbox import faults as vendor_faults
from tests.chaos.baseline import COLLECTION, add_library, baseline_import, simulated_library
from tests.chaos.invariants import (
    InvariantViolation,
    check_checkpoints,
    check_locks,
    check_purchases,
    check_runs,
)
from tests.fixtures.fingerprint import Fingerprint, difference, digest, fingerprint
from tests.fixtures.homes import database_session
from tests.fixtures.installation import Fault, Installation, new_installation
from tests.fixtures.running_sandbox import RunningSandbox

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Scenario:
    """The size of an import and of its plan of faults.

    `pages` is about the number of steps of its three workflows; faults are spread over them. Work must be
    resumed `resume_seconds` after a fault, and the import must end after `end_seconds`.
    """

    titles: int
    days: int
    pages: int
    max_faults: int
    resume_seconds: float
    end_seconds: float


# A failed page is requested again at once, or work could not resume in time.
_QUICK_RETRIES = {"ACCESSION_RETRY_BACKOFF_SECONDS": "0.1"}

VENDOR_FAULTS = {
    vendor_faults.Fault.BLANK: 0.1,
    vendor_faults.Fault.SHIFT_PAGE: 0.05,
    vendor_faults.Fault.LATE: 0.3,
}

FULL = Scenario(titles=1500, days=120, pages=200, max_faults=4, resume_seconds=30, end_seconds=300)


@dataclass(frozen=True)
class PlannedFault:
    """A fault that is injected `delay` seconds after the runs have committed `pages` pages."""

    pages: int
    delay: float
    fault: Fault


def plan(seed: int, scenario: Scenario) -> tuple[PlannedFault, ...]:
    """Return the faults of this seed, in their order."""
    random = Random(f"crashes {seed}")
    faults = [random.choice(list(Fault)) for _ in range(random.randint(1, scenario.max_faults))]
    pages = sorted(random.randrange(scenario.pages) for _ in faults)
    return tuple(
        PlannedFault(n, random.uniform(0, 0.3), fault) for n, fault in zip(pages, faults, strict=True)
    )


@dataclass
class Report:
    """Events of one import with their times, for debugging a violation."""

    seed: int
    start: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)
    slowest_resumption: float = 0.0

    def add(self, event: str) -> None:
        self.lines.append(f"{time.monotonic() - self.start:7.2f} s  {event}")


@dataclass(frozen=True)
class Progress:
    """The state of an import according to its database."""

    pages: int
    active_runs: int
    outbox_rows: int

    @property
    def is_idle(self) -> bool:
        return not self.active_runs and not self.outbox_rows


# One statement, because it is executed all the time.
_PROGRESS = select(
    select(func.coalesce(func.sum(Run.pages), 0)).scalar_subquery(),
    select(func.count()).where(Run.state.in_(ACTIVE_STATES)).scalar_subquery(),
    select(func.count(ApplyOutbox.id)).scalar_subquery(),
)


class Import:
    """One import, from an empty home to its end."""

    def __init__(
        self, installation: Installation, sandbox: RunningSandbox, scenario: Scenario, report: Report
    ) -> None:
        self._installation = installation
        self._sandbox = sandbox
        self._scenario = scenario
        self.report = report

    def start(self) -> None:
        """Add the collection, and queue its purchase and event imports."""
        with database_session(self._installation.home) as session:
            add_library(session, self._sandbox)
            session.commit()
        # Purchases last: they have the most pages, and faults are injected only after the commands.
        for workflow in (Workflow.EVENTS, Workflow.PURCHASES):
            self._command("import", workflow.value, "--import-all")

    def run_with_faults(self, faults: Sequence[PlannedFault], random: Random) -> None:
        """Inject the faults while the workflows run; the circulation sweep is started last.

        Faults that are planned for later than the last page are injected after it.
        """
        pending = list(faults)
        is_swept = False
        while True:
            progress = self._progress()
            if pending and (progress.pages >= pending[0].pages or (progress.is_idle and is_swept)):
                self._inject(pending.pop(0), random)
            elif progress.is_idle and is_swept:
                return
            elif progress.is_idle:
                self.report.add("circulation sweep started")
                self._command("import", "circulation", "--import-all")
                is_swept = True
            elif time.monotonic() - self.report.start > self._scenario.end_seconds:
                raise InvariantViolation(f"not ended after {self._scenario.end_seconds:.0f} s: {progress}")
            time.sleep(_POLL_SECONDS)

    def _inject(self, planned: PlannedFault, random: Random) -> None:
        time.sleep(planned.delay)
        before = self._progress()
        self.report.add(f"{planned.fault}, after {before.pages} pages")
        self._installation.inject(planned.fault, random)
        restarted_at = time.monotonic()
        self.report.add("all processes are running again")
        while not (progress := self._progress()).is_idle and progress.pages <= before.pages:
            if time.monotonic() - restarted_at > self._scenario.resume_seconds:
                raise InvariantViolation(
                    f"no work was resumed in {self._scenario.resume_seconds:.0f} s: {progress}"
                )
            time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - restarted_at
        self.report.slowest_resumption = max(self.report.slowest_resumption, seconds)
        self.report.add(f"work resumed after {seconds:.1f} s")
        # Empty bodies move the checkpoint over records that are not confirmed.
        if not self._sandbox.sandbox.faults.shares:
            with self._installation.session() as session:
                check_checkpoints(session, find_collection(session, COLLECTION), self._sandbox)

    def check_end(self, expected: Fingerprint) -> None:
        """Check all invariants, and that the catalogue equals that of the baseline import."""
        with self._installation.session() as session:
            check_runs(session, self._sandbox)
            collection = find_collection(session, COLLECTION)
            if differences := difference(expected, fingerprint(session)):
                raise InvariantViolation("the catalogue differs:\n" + "\n".join(differences[:40]))
            check_checkpoints(session, collection, self._sandbox)
        self._check_locks()

    def import_from_recovered_vendor(self) -> None:
        """Import once without faults, and check that the purchases are the vendor's."""
        self._sandbox.sandbox.faults = vendor_faults.Faults()
        self._command("import", "purchases", "--import-all")
        self.run_with_faults([], Random())
        with self._installation.session() as session:
            check_purchases(session, self._sandbox)
        self._check_locks()

    def _check_locks(self) -> None:
        redis_url = self._installation.read_server_info().urls.redis_url
        check_locks(redis_url, deadline_seconds=self._scenario.resume_seconds)

    def _progress(self) -> Progress:
        """Return the progress, waiting for the database if it is unavailable."""
        deadline = time.monotonic() + self._scenario.resume_seconds
        while True:
            try:
                with self._installation.session() as session:
                    return Progress(*session.execute(_PROGRESS).one())
            except OperationalError:
                if time.monotonic() > deadline:
                    raise InvariantViolation("the database is still unavailable") from None
                time.sleep(_POLL_SECONDS)

    def _command(self, *command: str) -> None:
        """Run a command; repeat it if a server was unavailable, as a user does."""
        deadline = time.monotonic() + self._scenario.resume_seconds
        while (result := self._installation.command(*command)).returncode:
            self.report.add(f"`accession {' '.join(command[:2])}` failed: {result.stderr.strip()}")
            if time.monotonic() > deadline:
                raise InvariantViolation(f"`accession {' '.join(command)}` failed: {result.stderr}")


def run_import(
    seed: int, sandbox: RunningSandbox, expected: Fingerprint, scenario: Scenario = FULL
) -> Report:
    """Import the library with the faults of this seed, and check it.

    Raises:
        InvariantViolation: the import differs from the baseline, or broke an invariant; with a report.
    """
    with _running_import(seed, sandbox, scenario) as work:
        work.check_end(expected)
    return work.report


def run_unreliable_import(seed: int, scenario: Scenario = FULL) -> Report:
    """Import a library of an unreliable vendor with the faults of this seed, and check its purchases.

    Raises:
        InvariantViolation: the purchases differ from the vendor's; with a report.
    """
    with simulated_library(scenario.titles, scenario.days) as sandbox:
        sandbox.sandbox.faults = vendor_faults.Faults(VENDOR_FAULTS, seed)
        with _running_import(seed, sandbox, scenario, **_QUICK_RETRIES) as work:
            work.import_from_recovered_vendor()
    return work.report


@contextmanager
def _running_import(
    seed: int, sandbox: RunningSandbox, scenario: Scenario, **variables: str
) -> Iterator[Import]:
    """Import the library with the faults of this seed, and yield the import to be checked."""
    report = Report(seed)
    with new_installation(**variables) as installation:
        report.add("all processes are running")
        work = Import(installation, sandbox, scenario, report)
        try:
            work.start()
            work.run_with_faults(plan(seed, scenario), Random(f"targets {seed}"))
            report.add("all workflows have ended")
            yield work
        except AssertionError as error:
            logs = installation.copy_logs()
            text = "\n".join([str(error), "", *report.lines, "", f"The logs are in {logs}."])
            raise InvariantViolation(f"seed {seed}: {text}") from error


@contextmanager
def baseline_servers() -> Iterator[Session]:
    """Run servers for the baseline import, and open a session on their database."""
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
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.crashes", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="number of imports")
    parser.add_argument("--seed", type=int, help="seed of the first import; the others follow")
    options = parser.parse_args(arguments)
    first_seed = SystemRandom().randrange(2**32) if options.seed is None else options.seed
    # Exit normally on SIGTERM, so that all servers are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Errors of an import are in the logs of its installation.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    slowest = 0.0
    with simulated_library(FULL.titles, FULL.days) as sandbox:
        with baseline_servers() as session:
            expected = baseline_import(session, sandbox)
        out.write(f"baseline import: fingerprint {digest(expected)}\n")
        for seed in range(first_seed, first_seed + options.runs):
            try:
                is_reliable = seed % 2 == 0
                report = run_import(seed, sandbox, expected) if is_reliable else run_unreliable_import(seed)
            except InvariantViolation as error:
                out.write(f"FAILED: {error}\nRepeat: python -m tests.chaos.crashes --runs 1 --seed {seed}\n")
                return 1
            slowest = max(slowest, report.slowest_resumption)
            faults = ", ".join(planned.fault for planned in plan(seed, FULL))
            seconds = time.monotonic() - report.start
            equal_to = "the baseline" if is_reliable else "the unreliable vendor"
            out.write(f"seed {seed}: equal to {equal_to} after {seconds:.0f} s, with faults: {faults}\n")
            out.flush()
    out.write(f"{options.runs} imports, all equal; work was resumed within {slowest:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout))
