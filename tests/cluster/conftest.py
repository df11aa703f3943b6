"""Fixtures of the tests on several machines, and the table of the times that they measure."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from accession.db.engine import engine
from accession.local.servers import ServerUrls
from benchmarks.report import fill_tables
from tests.chaos.baseline import baseline_import, simulated_library
from tests.fixtures.fingerprint import Fingerprint
from tests.fixtures.network import missing_requirement
from tests.fixtures.running_sandbox import RunningSandbox
from tests.fixtures.servers import delete_all_rows

TITLES, DAYS = 300, 40
# So that an import takes half a minute.
LATENCY_MS = 250

TABLE_VARIABLE = "RECOVERY_TABLE"
"""Environment variable with the path of the page that shows the times, as `make cluster` sets it."""


@dataclass(frozen=True)
class RecoveryTime:
    """A fault, and the seconds from it until the runs made their next step."""

    fault: str
    seconds: int


@dataclass
class RecoveryTimes:
    """The times measured so far."""

    rows: list[RecoveryTime] = field(default_factory=list)

    def add(self, fault: str, seconds: float) -> None:
        self.rows.append(RecoveryTime(fault, round(seconds)))


_TIMES = pytest.StashKey[RecoveryTimes]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the times."""
    times = config.stash.get(_TIMES, None)
    if times is None:
        return
    terminalreporter.section("seconds until every run continued")
    for row in times.rows:
        terminalreporter.line(f"{row.seconds:5}  {row.fault}")


@pytest.fixture(scope="session", autouse=True)
def _cluster_is_possible() -> None:
    if missing := missing_requirement():
        pytest.skip(f"THE LOSS OF MACHINES IS NOT TESTED HERE: this machine lacks {missing}")


@pytest.fixture(scope="session")
def recovery_times(_cluster_is_possible: None, request: pytest.FixtureRequest) -> Iterator[RecoveryTimes]:
    """The times, written to the page that the environment names if all tests passed."""
    times = request.config.stash[_TIMES] = RecoveryTimes()
    yield times
    path = os.environ.get(TABLE_VARIABLE)
    if path and times.rows and not request.session.testsfailed:
        page = Path(path)
        rows = [asdict(row) for row in times.rows]
        page.write_text(fill_tables(page.read_text(), {"recovery": rows}))


@pytest.fixture(scope="session")
def vendor(_cluster_is_possible: None) -> Iterator[RunningSandbox]:
    """A vendor whose library has stopped changing."""
    with simulated_library(TITLES, DAYS) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def expected(servers: ServerUrls, vendor: RunningSandbox) -> Fingerprint:
    """The fingerprint of an undisturbed import, after which the vendor takes time for its responses."""
    delete_all_rows()
    with Session(engine()) as session:
        expected = baseline_import(session, vendor)
    vendor.sandbox.latency_ms = LATENCY_MS
    return expected
