"""Count what a step of an empty window costs: statements, commits, Redis commands and CPU time.

One real worker of one process imports a purchase and then, day by day, 400 days without any. The cost of its
steps is counted from outside: Redis commands by the server, including those within scripts, and the CPU time
of the worker with its child process. A task that does nothing but enqueue itself runs on the same worker. Its
CPU time is the yardstick, because milliseconds depend on the machine.

Without prefetching, each step requests its window itself. With prefetching, each step takes its window from
the cache and requests a later one.

Prints a table of costs per step, a table of Redis commands by name and, as the last line, the same figures
as JSON.

Usage: python -m benchmarks.steps
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from accession.core.workflow import Workflow
from benchmarks.installation import add_library, database_and_broker, run_workflow, wait_for_workers
from benchmarks.pages import RegularVendorSpec
from benchmarks.processes import SPAWN, cpu_seconds, run_in_subprocesses
from benchmarks.report import print_table
from benchmarks.simulated_vendors import RunningVendors, running_vendors

EMPTY_DAYS = 400
VENDOR = RegularVendorSpec(titles=1, days=EMPTY_DAYS)
YARDSTICK_TASK = "benchmarks.steps.yardstick"
POLL_SECONDS = 0.05
# Concurrent requests of a collection, by the name of the row.
KINDS: Mapping[str, int] = {"window requested by the step": 1, "windows prefetched": 4}


@dataclass(frozen=True)
class Figures:
    """Mean cost of a step.

    Attributes:
        cpu_ms: CPU time of the worker and its child process in milliseconds.
        cpu_ratio: The same, relative to a task that does nothing.
    """

    step: str
    steps: int
    statements: float
    commits: float
    redis_commands: float
    cpu_ms: float
    cpu_ratio: float


@dataclass(frozen=True)
class CommandFigures:
    """Mean number of times that a step sends a Redis command, by kind of step."""

    command: str
    nothing: float
    requested_by_the_step: float
    with_prefetching: float


@dataclass(frozen=True)
class _Cost:
    """Sums over a number of steps."""

    steps: int
    statements: int
    commits: int
    cpu_seconds: float
    commands: Counter[str]

    def __add__(self, other: "_Cost") -> "_Cost":
        return _Cost(
            self.steps + other.steps,
            self.statements + other.statements,
            self.commits + other.commits,
            self.cpu_seconds + other.cpu_seconds,
            self.commands + other.commands,
        )

    def __sub__(self, other: "_Cost") -> "_Cost":
        return _Cost(
            self.steps - other.steps,
            self.statements - other.statements,
            self.commits - other.commits,
            self.cpu_seconds - other.cpu_seconds,
            self.commands - other.commands,
        )

    def commands_per_step(self, name: str) -> float:
        return round(self.commands[name] / self.steps, 1)


@dataclass(frozen=True)
class _Counters:
    """Numbers that the processes of a worker add up in shared memory."""

    statements: Any
    commits: Any
    yardsticks: Any

    @classmethod
    def create(cls) -> "_Counters":
        return cls(*(SPAWN.Value("Q", 0, lock=False) for _ in fields(cls)))


def _add_one(counter: Any, *_: Any) -> None:
    counter.value += 1


def _count_commit(counter: Any, connection: Any) -> None:
    # A session that reads without a transaction commits nothing, but SQLAlchemy does not make a difference.
    if not connection.connection.dbapi_connection.autocommit:
        counter.value += 1


def run_worker(log_file: Path, counters: _Counters) -> None:
    """Run a worker of one process, which counts its statements and commits."""
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from sqlalchemy import Engine, event

    from accession.tasks.app import app

    event.listen(Engine, "before_cursor_execute", partial(_add_one, counters.statements))
    event.listen(Engine, "commit", partial(_count_commit, counters.commits))
    register_yardstick(counters)
    options = ["--concurrency=1", "--loglevel=warning", "--without-gossip", "--without-mingle"]
    app.worker_main(["worker", *options])


def register_yardstick(counters: _Counters) -> None:
    """Register the task that does nothing but enqueue itself."""
    from accession.tasks.app import app

    @app.task(bind=True, name=YARDSTICK_TASK, ignore_result=True)  # type: ignore[untyped-decorator]
    def yardstick(self: Any, remaining: int) -> None:
        if remaining:
            self.apply_async((remaining - 1,))
        counters.yardsticks.value += 1


@dataclass(frozen=True)
class _Worker:
    pid: int
    counters: _Counters

    def measure(self, steps: int, work: Callable[[], object]) -> _Cost:
        """Return the cost of the steps that `work` runs to their end."""
        before = self._read(steps=0)
        work()
        return self._read(steps) - before

    def _read(self, steps: int) -> _Cost:
        counters = self.counters
        return _Cost(
            steps,
            counters.statements.value,
            counters.commits.value,
            cpu_seconds(self.pid),
            _count_redis_commands(),
        )

    def run_yardstick(self, steps: int) -> None:
        """Run the task that does nothing, and wait until it has run `steps` times."""
        end = self.counters.yardsticks.value + steps
        from accession.tasks.app import app

        app.send_task(YARDSTICK_TASK, (steps - 1,))
        while self.counters.yardsticks.value < end:
            time.sleep(POLL_SECONDS)


def _count_redis_commands() -> Counter[str]:
    """Return how often the server has executed each command, including those within scripts."""
    from accession.tasks.broker import broker_client

    statistics: Any = broker_client().info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in statistics.items()})


@contextmanager
def _running_worker(home: Path) -> Iterator[_Worker]:
    counters = _Counters.create()
    process = SPAWN.Process(target=run_worker, args=(home / "worker.log", counters))
    process.start()
    try:
        wait_for_workers(1)
        yield _Worker(process.pid or 0, counters)
    finally:
        process.terminate()
        process.join()


def _import_empty_days(base_url: str, vendors: RunningVendors) -> None:
    """Import a purchase and the empty days after it, none of which is skipped: the budget allows no probe."""
    arguments = {"current_day": VENDOR.since.isoformat(), "budget": -EMPTY_DAYS}
    collection_id = add_library(base_url, VENDOR.since)
    run_workflow(Workflow.PURCHASES, [collection_id], vendors, **arguments)


def measure(concurrent_requests: int) -> tuple[_Cost, _Cost]:
    """Return the cost of the yardstick and of the import of the empty days, on the same worker."""
    with (
        running_vendors([VENDOR]) as vendors,
        database_and_broker(
            log_level="warning", vendor_max_concurrency=concurrent_requests, purchase_window="day"
        ) as home,
        _running_worker(home) as worker,
    ):
        # Connections are opened and modules imported before anything is counted.
        worker.run_yardstick(10)
        half = partial(worker.run_yardstick, EMPTY_DAYS // 2)
        before = worker.measure(EMPTY_DAYS // 2, half)
        cost = worker.measure(EMPTY_DAYS, partial(_import_empty_days, vendors.base_urls[0], vendors))
        # The machine may be busier now: the mean counts.
        return before + worker.measure(EMPTY_DAYS // 2, half), cost


def _figures(step: str, cost: _Cost, yardstick: _Cost) -> Figures:
    return Figures(
        step=step,
        steps=cost.steps,
        statements=round(cost.statements / cost.steps, 1),
        commits=round(cost.commits / cost.steps, 1),
        redis_commands=round(cost.commands.total() / cost.steps, 1),
        cpu_ms=round(1000 * cost.cpu_seconds / cost.steps, 1),
        cpu_ratio=round(cost.cpu_seconds / yardstick.cpu_seconds, 1),
    )


def _command_figures(costs: Sequence[_Cost]) -> list[CommandFigures]:
    names = sorted(set().union(*(cost.commands for cost in costs)))
    rows = [CommandFigures(name, *(cost.commands_per_step(name) for cost in costs)) for name in names]
    return [row for row in rows if row.nothing or row.requested_by_the_step or row.with_prefetching]


def main() -> None:
    """Measure once and print the figures."""
    results = run_in_subprocesses(measure, list(KINDS.values()))
    yardstick = results[0][0]
    figures = [
        _figures("a task that does nothing", yardstick, yardstick),
        *(_figures(kind, cost, own) for kind, (own, cost) in zip(KINDS, results, strict=True)),
    ]
    commands = _command_figures([yardstick, *(cost for _, cost in results)])
    print_table(figures)
    print()
    print_table(commands)
    print(
        json.dumps({"steps": [asdict(row) for row in figures], "commands": [asdict(row) for row in commands]})
    )


if __name__ == "__main__":
    main()
