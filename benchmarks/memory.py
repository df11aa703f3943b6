"""The memory of worker, Valkey and PostgreSQL while libraries of several sizes are imported, each into a
fresh installation, from a vendor without latency: does it grow with the titles, or with the links of a chain?

    python -m benchmarks.memory [TITLES ...]

imports so many titles (2,000 and 10,000, unless told otherwise) bought within a year, and then as many as the
first of them bought since 2014, thousands of days with next to nothing in them. Prints a table, and as the
last line the same figures as JSON. All memory is in MiB.
"""

import argparse
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from accession.core.workflow import Workflow
from benchmarks.stage import (
    Sold,
    add_library,
    children,
    installation,
    one_by_one,
    part,
    print_json,
    resident,
    run,
    show,
    vendors,
)

TITLES = (2_000, 10_000)
A_YEAR = 365
LONG_WALK = (datetime.now(UTC) - datetime(2014, 1, 1, tzinfo=UTC)).days
_LOOK_SECONDS = 1.0
_POINTS = 10


@dataclass(frozen=True)
class Point:
    """The worker's memory after so many links of the chain; of the children, the largest."""

    links: int
    parent: int
    child: int


@dataclass(frozen=True)
class Memory:
    """The peaks of one import, and how the worker came to its own.

    Of children and backends it is the largest. `postgres_backend` counts what the backend has touched of the
    128 MiB of buffers that all share; `backend_private` is what it has for itself, at the end.
    """

    titles: int
    days: int
    links: int
    seconds: float
    worker_parent: int
    worker_child: int
    valkey: int
    postgres_backend: int
    backend_private: int
    curve: tuple[Point, ...]


def measure(sold: Sold) -> Memory:
    """One import into a fresh installation, in a process that has seen no other."""
    with vendors([sold]) as asked, installation() as home:
        collection_id = add_library(asked.base_urls[0], sold.since)
        worker = part(home, "worker")
        with watched(worker) as points:
            took = run(Workflow.PURCHASES, [collection_id], asked)
        return Memory(
            titles=sold.titles,
            days=sold.days,
            links=links(),
            seconds=round(took.seconds, 1),
            worker_parent=resident(worker, "VmHWM"),
            worker_child=max(resident(child, "VmHWM") for child in children(worker)),
            valkey=resident(part(home, "valkey"), "VmHWM"),
            postgres_backend=max(resident(backend, "VmHWM") for backend in backends()),
            backend_private=max(resident(backend, "RssAnon") for backend in backends()),
            curve=tuple(points[:: len(points) // _POINTS + 1]),
        )


@contextmanager
def watched(worker: int) -> Iterator[list[Point]]:
    """The worker's memory second by second, until the block ends."""
    points: list[Point] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            # A worker that has only just been started has no children yet.
            child = max((resident(child, "VmRSS") for child in children(worker)), default=0)
            points.append(Point(links(), resident(worker, "VmRSS"), child))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield points
    finally:
        over.set()
        thread.join()


def links() -> int:
    """How many links the chain has had."""
    from sqlalchemy import func, select

    from accession.db.engine import transaction
    from accession.db.models import Run

    with transaction() as session:
        return session.scalar(select(func.sum(Run.pages))) or 0


def backends() -> list[int]:
    """PostgreSQL's processes that serve worker, schedule and us."""
    from sqlalchemy import text

    from accession.db.engine import transaction

    with transaction() as session:
        return list(
            session.scalars(text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"))
        )


def measure_all(titles: Sequence[int], walk: int) -> list[Memory]:
    """Imports of so many titles within a year, and then of the first as many within `walk` days."""
    sold = [*(Sold(number, A_YEAR) for number in titles), Sold(titles[0], walk)]
    return one_by_one(measure, sold)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("titles", type=int, nargs="*", default=list(TITLES))
    parser.add_argument("--walk", type=int, default=LONG_WALK, help="Days of the long walk.")
    told = parser.parse_args()
    measured = measure_all(told.titles, told.walk)
    show(measured)
    for memory in measured:
        print(f"\n{memory.titles:,} titles in {memory.days:,} days\n   links  parent   child")
        for point in memory.curve:
            print(f"{point.links:>8,}{point.parent:>8}{point.child:>8}")
    print_json(measured)


if __name__ == "__main__":
    main()
