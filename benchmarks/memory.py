"""Measure whether memory grows with the number of titles or with the steps of a run.

Libraries of several sizes are imported, each into a new installation, from a vendor without latency. The
titles were purchased within a year. One more library has as many titles as the first, but purchased since
2014, so that its run has thousands of steps with few or no titles. Prints the peak memory of worker, Valkey
and PostgreSQL in MiB, the worker's memory over time and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.memory [TITLES ...] [--long-run-days DAYS]
"""

import argparse
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from accession.core.workflow import Workflow
from benchmarks.installation import add_library, installation, run_workflow
from benchmarks.processes import child_process_ids, memory_mib, process_id, run_in_subprocesses
from benchmarks.report import print_json, print_table
from benchmarks.simulated_vendors import VendorSpec, running_vendors

TITLES = (2_000, 10_000)
DAYS = 365
LONG_RUN_DAYS = (datetime.now(UTC) - datetime(2014, 1, 1, tzinfo=UTC)).days
_SAMPLE_SECONDS = 1.0
_MAX_POINTS = 10


@dataclass(frozen=True)
class Point:
    """Memory of the worker after a number of steps: its parent process and its largest child, in MiB."""

    steps: int
    parent: int
    child: int


@dataclass(frozen=True)
class Memory:
    """Peak memory during one import, in MiB; of several processes of a kind, that of the largest.

    Attributes:
        postgres_backend: Includes the part of the 128 MiB of shared buffers that the backend has touched.
        backend_private: Memory at the end without shared buffers.
        curve: Memory of the worker over time.
    """

    titles: int
    days: int
    steps: int
    seconds: float
    worker_parent: int
    worker_child: int
    valkey: int
    postgres_backend: int
    backend_private: int
    curve: tuple[Point, ...]


def measure(spec: VendorSpec) -> Memory:
    """Measure one import into a new installation."""
    with running_vendors([spec]) as vendors, installation() as home:
        collection_id = add_library(vendors.base_urls[0], spec.since)
        worker = process_id(home, "worker")
        with sampling(worker) as points:
            cost = run_workflow(Workflow.PURCHASES, [collection_id], vendors)
        return Memory(
            titles=spec.titles,
            days=spec.days,
            steps=count_steps(),
            seconds=round(cost.seconds, 1),
            worker_parent=memory_mib(worker, "VmHWM"),
            worker_child=max(memory_mib(child, "VmHWM") for child in child_process_ids(worker)),
            valkey=memory_mib(process_id(home, "valkey"), "VmHWM"),
            postgres_backend=max(memory_mib(backend, "VmHWM") for backend in backend_process_ids()),
            backend_private=max(memory_mib(backend, "RssAnon") for backend in backend_process_ids()),
            curve=tuple(points[:: len(points) // _MAX_POINTS + 1]),
        )


@contextmanager
def sampling(worker: int) -> Iterator[list[Point]]:
    """Sample the memory of the worker once a second until the context ends."""
    points: list[Point] = []
    is_over = threading.Event()

    def sample() -> None:
        while not is_over.wait(_SAMPLE_SECONDS):
            # A worker that has just started has no children yet.
            child = max((memory_mib(child, "VmRSS") for child in child_process_ids(worker)), default=0)
            points.append(Point(count_steps(), memory_mib(worker, "VmRSS"), child))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield points
    finally:
        is_over.set()
        thread.join()


def count_steps() -> int:
    """Return the number of steps of all runs so far."""
    from sqlalchemy import func, select

    from accession.db.engine import transaction
    from accession.db.models import Run

    with transaction() as session:
        return session.scalar(select(func.sum(Run.pages))) or 0


def backend_process_ids() -> list[int]:
    """Return the ids of PostgreSQL's processes that serve connections."""
    from sqlalchemy import text

    from accession.db.engine import transaction

    with transaction() as session:
        return list(
            session.scalars(text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"))
        )


def measure_all(titles: Sequence[int], long_run_days: int) -> list[Memory]:
    """Measure an import of each size, and one of the first size spread over `long_run_days`."""
    specs = [*(VendorSpec(number, DAYS) for number in titles), VendorSpec(titles[0], long_run_days)]
    return run_in_subprocesses(measure, specs)


def main() -> None:
    """Measure once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "titles",
        type=int,
        nargs="*",
        default=list(TITLES),
        help="Sizes of the libraries. Default: 2000 10000.",
    )
    parser.add_argument(
        "--long-run-days",
        type=int,
        default=LONG_RUN_DAYS,
        help="Days in which the titles of the last library were purchased. Default: all since 2014.",
    )
    options = parser.parse_args()
    figures = measure_all(options.titles, options.long_run_days)
    print_table(figures)
    for memory in figures:
        print(f"\n{memory.titles:,} titles in {memory.days:,} days\n   steps  parent   child")
        for point in memory.curve:
            print(f"{point.steps:>8,}{point.parent:>8}{point.child:>8}")
    print_json(figures)


if __name__ == "__main__":
    main()
