"""Does it help to have more worker processes? Twenty libraries, all imported at once, from vendors that take
100 ms for each answer, by 1 to 8 worker processes.

Prints a table, and as the last line the same figures as JSON. Run it with `python -m benchmarks.scale`. What
the processors did is told by the process: vendors and measurement run on the same machine.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from accession.core.workflow import Workflow
from benchmarks.stage import (
    Sold,
    Vendors,
    add_libraries,
    cpu_seconds,
    installation,
    one_by_one,
    part,
    print_json,
    run,
    show,
    vendors,
)

LIBRARIES, TITLES, DAYS, LATENCY_MS = 20, 20, 20, 100
WORKER_PROCESSES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Figures:
    """What it took; `times_as_fast` is against one worker process. The shares are of all processors' time, in
    percent."""

    worker_processes: int
    libraries: int
    titles: int
    seconds: float
    titles_per_second: float
    worker_percent: int
    servers_percent: int
    vendors_percent: int
    times_as_fast: float = 1.0


def measure(worker_processes: int) -> Figures:
    """One import of all libraries."""
    sold = [Sold(TITLES, DAYS, LATENCY_MS, seed=number) for number in range(LIBRARIES)]
    with vendors(sold) as asked, installation(worker_concurrency=worker_processes) as home:
        libraries = add_libraries(sold, asked)
        with used(home, asked) as cpu:
            took = run(Workflow.PURCHASES, libraries, asked)
        titles = asked.usable_titles()
    share = 100 / (took.seconds * (os.cpu_count() or 1))
    return Figures(
        worker_processes=worker_processes,
        libraries=LIBRARIES,
        titles=titles,
        seconds=round(took.seconds, 1),
        titles_per_second=round(titles / took.seconds, 1),
        worker_percent=round(cpu["worker"] * share),
        servers_percent=round((cpu["postgres"] + cpu["valkey"]) * share),
        vendors_percent=round(cpu["vendors"] * share),
    )


@contextmanager
def used(home: Path, asked: Vendors) -> Iterator[dict[str, float]]:
    """The CPU seconds that each part has used once the context has ended."""
    pids = {name: part(home, name) for name in ("worker", "postgres", "valkey")} | {"vendors": asked.pid}
    spent = {name: -cpu_seconds(pid) for name, pid in pids.items()}
    yield spent
    for name, pid in pids.items():
        spent[name] += cpu_seconds(pid)


def measure_all() -> list[Figures]:
    """Each number of worker processes."""
    measured = one_by_one(measure, WORKER_PROCESSES)
    slowest = measured[0].seconds
    return [replace(figures, times_as_fast=round(slowest / figures.seconds, 2)) for figures in measured]


def main() -> None:
    """Measure once and print."""
    measured = measure_all()
    show(measured)
    print_json(measured)


if __name__ == "__main__":
    main()
