"""Measure how the speed of imports scales with the number of worker processes.

Twenty libraries are imported concurrently, from vendors whose latency is 100 ms, by 1 to 8 worker processes.
Vendors and measurement run on the same machine, so the CPU time of the vendors is shown too. Prints a table
and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.scale
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from accession.core.workflow import Workflow
from benchmarks.installation import add_libraries, installation, run_workflow
from benchmarks.processes import cpu_seconds, process_id, run_in_subprocesses
from benchmarks.report import print_json, print_table
from benchmarks.simulated_vendors import RunningVendors, VendorSpec, running_vendors

LIBRARIES, TITLES, DAYS, LATENCY_MS = 20, 20, 20, 100
WORKER_PROCESSES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Figures:
    """Duration of the imports, and shares of the CPU time of all processors in percent.

    `speedup` is relative to one worker process.
    """

    worker_processes: int
    libraries: int
    titles: int
    seconds: float
    titles_per_second: float
    worker_percent: int
    servers_percent: int
    vendors_percent: int
    speedup: float = 1.0


def measure(worker_processes: int) -> Figures:
    """Measure one import of all libraries."""
    specs = [VendorSpec(TITLES, DAYS, LATENCY_MS, seed=number) for number in range(LIBRARIES)]
    with running_vendors(specs) as vendors, installation(worker_concurrency=worker_processes) as home:
        collection_ids = add_libraries(specs, vendors)
        with measuring_cpu(home, vendors) as cpu:
            cost = run_workflow(Workflow.PURCHASES, collection_ids, vendors)
        titles = vendors.count_usable_titles()
    percent_per_second = 100 / (cost.seconds * (os.cpu_count() or 1))
    return Figures(
        worker_processes=worker_processes,
        libraries=LIBRARIES,
        titles=titles,
        seconds=round(cost.seconds, 1),
        titles_per_second=round(titles / cost.seconds, 1),
        worker_percent=round(cpu["worker"] * percent_per_second),
        servers_percent=round((cpu["postgres"] + cpu["valkey"]) * percent_per_second),
        vendors_percent=round(cpu["vendors"] * percent_per_second),
    )


@contextmanager
def measuring_cpu(home: Path, vendors: RunningVendors) -> Iterator[dict[str, float]]:
    """Yield a mapping that holds, after the context has ended, the CPU seconds used within it by process."""
    pids = {name: process_id(home, name) for name in ("worker", "postgres", "valkey")}
    pids["vendors"] = vendors.pid
    used = {name: -cpu_seconds(pid) for name, pid in pids.items()}
    yield used
    for name, pid in pids.items():
        used[name] += cpu_seconds(pid)


def measure_all() -> list[Figures]:
    """Measure each number of worker processes."""
    results = run_in_subprocesses(measure, WORKER_PROCESSES)
    one_process = results[0].seconds
    return [replace(figures, speedup=round(one_process / figures.seconds, 2)) for figures in results]


def main() -> None:
    """Measure once and print the figures."""
    figures = measure_all()
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
