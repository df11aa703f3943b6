"""Measure where the milliseconds of a page go, in real runs on real servers.

One worker of one process, whose calls are timed, processes the steps of a run; the vendor's latency is 0 or
100 ms. A second worker applies the changes concurrently. The time of a page is that from the start of its
step to the start of the next step. Each moment of it counts once, for the first category that applies:

- database: waiting for a statement or a commit
- sqlalchemy: executing a statement and reading its rows, and loading and writing objects
- marc: parsing and hashing purchase records, or writing MARC 21
- items: parsing and hashing metadata
- redis: waiting for locks, request slots and prefetched responses
- vendor: waiting for a response, including the work of the HTTP client
- celery: sending a message, or between two steps
- other: everything else, which is the Python code of the import

Prints a table of milliseconds and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.pages
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from accession.cli.commands import fast_imports
from accession.core.workflow import Workflow
from accession.sandbox.catalogue import Purchase
from benchmarks.installation import add_library, database_and_broker, run_workflow, wait_for_workers
from benchmarks.processes import SPAWN, run_in_subprocesses
from benchmarks.report import print_json, print_table
from benchmarks.simulated_vendors import VendorSpec, running_vendors

LATENCIES_MS = (0, 100)
# The first steps of a run are not prefetched yet, and the last ones have no successor to prefetch.
_SKIPPED_FIRST, _SKIPPED_LAST = 3, 2

VENDOR, MARC, ITEMS, DATABASE = "vendor", "marc", "items", "database"
SQLALCHEMY, REDIS, CELERY = "sqlalchemy", "redis", "celery"
_CATEGORIES = (DATABASE, SQLALCHEMY, MARC, ITEMS, REDIS, VENDOR, CELERY)

# Category, start and end of a call, in seconds of the monotonic clock.
Span: TypeAlias = tuple[str, float, float]


@dataclass(frozen=True)
class RegularVendorSpec(VendorSpec):
    """A vendor with `titles_per_day` usable purchases at midnight, every `interval_days` days."""

    titles_per_day: int = 1
    interval_days: int = 1

    def purchases(self) -> Iterable[Purchase]:
        """Return the purchases of the base class at regular times."""
        for number, purchase in enumerate(super().purchases()):
            day = timedelta(days=number // self.titles_per_day * self.interval_days)
            yield replace(purchase, purchased_at=self.since + day, flaw=None, is_listed=True)


@dataclass(frozen=True)
class PageKind:
    """A kind of pages: its name, the number of new records of a page, and a vendor that has such pages.

    The first record of a page that continues another is the last one of that page, and not new.
    """

    name: str
    records: int
    spec: RegularVendorSpec


def page_kinds(latency_ms: int) -> tuple[PageKind, ...]:
    """Return the kinds to measure, each in a library of its own."""
    return (
        PageKind(
            "an empty day",
            0,
            RegularVendorSpec(12, 84, latency_ms, seed=1, titles_per_day=1, interval_days=7),
        ),
        PageKind("20 new titles", 20, RegularVendorSpec(800, 40, latency_ms, seed=2, titles_per_day=20)),
        PageKind("50 new titles", 49, RegularVendorSpec(2_000, 2, latency_ms, seed=3, titles_per_day=2_000)),
    )


@dataclass(frozen=True)
class Figures:
    """Mean time of a page in milliseconds, by category, over a number of pages."""

    latency_ms: int
    page: str
    pages: int
    vendor: float
    marc: float
    items: float
    database: float
    sqlalchemy: float
    redis: float
    other: float
    celery: float
    total: float


@dataclass(frozen=True)
class TaskRecord:
    """One execution of a task: its size, its start and end, and its timed calls.

    The size is the number of records or titles, or -1 for a step that is not a page.
    """

    size: int
    start: float
    end: float
    spans: Sequence[Span]

    @property
    def seconds(self) -> float:
        """Duration of the execution."""
        return self.end - self.start

    def seconds_by_category(self) -> dict[str, float]:
        """Return the seconds of each category; of overlapping calls the first category counts."""
        seconds: dict[str, float] = defaultdict(float)
        moments = sorted({self.start, self.end, *(moment for _, *limits in self.spans for moment in limits)})
        for left, right in pairwise(moments):
            active = {category for category, start, end in self.spans if start <= left and right <= end}
            if first := next((category for category in _CATEGORIES if category in active), None):
                seconds[first] += right - left
        return seconds


@dataclass(frozen=True)
class PageTime:
    """Seconds of a page: by category within its task, of its task, and until the next task starts."""

    by_category: dict[str, float]
    in_task: float
    until_next: float


_spans: list[Span] = []


def time_calls(owner: Any, name: str, category: str) -> None:
    """Replace a function of a class or module by one that records the time of its calls."""
    function = getattr(owner, name)

    @wraps(function)
    def timed(*args: Any, **options: Any) -> Any:
        start = time.monotonic()
        try:
            return function(*args, **options)
        finally:
            _spans.append((category, start, time.monotonic()))

    setattr(owner, name, timed)


def time_all_calls() -> None:
    """Time all calls that belong to a category."""
    from celery import Task
    from redis import Redis
    from sqlalchemy.engine.default import DefaultDialect
    from sqlalchemy.orm import Session

    from accession.bibliotheca import client, marc
    from accession.catalog.data import ApplyData, BibliographicData

    time_calls(client.BibliothecaAPI, "_fetch", VENDOR)
    for owner, name, category in (
        (client, "parse_marc_page", MARC),
        (marc.MarcRecord, "content_hash", MARC),
        (marc.MarcRecord, "as_marc21", MARC),
        (client, "parse_items", ITEMS),
        (BibliographicData, "content_hash", ITEMS),
        (ApplyData, "model_validate_json", ITEMS),
    ):
        time_calls(owner, name, category)
    for name in ("execute", "scalars", "flush", "commit", "expire", "close"):
        time_calls(Session, name, SQLALCHEMY)
    for name in ("do_execute", "do_executemany", "do_commit", "do_rollback", "do_ping"):
        time_calls(DefaultDialect, name, DATABASE)
    time_calls(Redis, "execute_command", REDIS)
    time_calls(Task, "apply_async", CELERY)


def record_executions(task: Any, file: Path, size: Callable[[Sequence[Any]], int]) -> None:
    """Append a line of JSON to `file` for each execution of a task; `size` gets the task's arguments."""
    run = task.run

    @wraps(run)
    def recorded(*args: Any, **options: Any) -> Any:
        _spans.clear()
        start = time.monotonic()
        try:
            return run(*args, **options)
        finally:
            record = TaskRecord(size(args), start, time.monotonic(), _spans)
            with file.open("a") as lines:
                lines.write(json.dumps(vars(record)) + "\n")

    task.run = recorded


def run_worker(queue: str, file: Path) -> None:
    """Run a worker of one process for one queue, which records its tasks in `file`."""
    log = os.open(file.with_suffix(".log"), os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # As `accession worker` does, so that the garbage collector ignores what is imported.
    with fast_imports():
        from accession.imports.purchases import BibliothecaPurchaseRecordImporter
        from accession.tasks.app import app
        from accession.tasks.apply import bibliographic_apply
        from accession.tasks.broker import APPLY_QUEUE
        from accession.tasks.purchases import import_purchase_records_by_collection

        app.loader.import_default_modules()

    import_day = BibliothecaPurchaseRecordImporter.import_day
    page_sizes: list[int] = []

    def import_day_and_record_size(*args: Any, **options: Any) -> Any:
        page = import_day(*args, **options)
        page_sizes.append(-1 if page.window.is_probe else page.records_fetched)
        return page

    BibliothecaPurchaseRecordImporter.import_day = import_day_and_record_size  # type: ignore[method-assign]
    time_all_calls()
    if queue == APPLY_QUEUE:
        record_executions(bibliographic_apply, file, lambda args: len(args[0]))
    else:
        record_executions(
            import_purchase_records_by_collection, file, lambda _: page_sizes.pop() if page_sizes else -1
        )
    options = [f"--queues={queue}", f"--hostname={queue}@%h", "--without-gossip", "--without-mingle"]
    app.worker_main(["worker", "--concurrency=1", "--loglevel=warning", *options])


@contextmanager
def recording_worker(queue: str, home: Path) -> Iterator[Path]:
    """Run such a worker in a process of its own, and yield the file of its records."""
    file = home / f"{queue}.records"
    file.touch()
    process = SPAWN.Process(target=run_worker, args=(queue, file))
    process.start()
    try:
        yield file
    finally:
        process.terminate()
        process.join()


def take_records(file: Path) -> list[TaskRecord]:
    """Return the records of the file, and empty it."""
    records = [TaskRecord(**json.loads(line)) for line in file.read_text().splitlines()]
    file.write_text("")
    return records


def measure(latency_ms: int) -> list[Figures]:
    """Measure all kinds of pages of vendors with this latency."""
    rows: list[Figures] = []
    kinds = page_kinds(latency_ms)
    with (
        running_vendors([kind.spec for kind in kinds]) as vendors,
        database_and_broker(log_level="warning", purchase_window="day") as home,
        recording_worker("default", home) as step_file,
        recording_worker("apply", home) as apply_file,
    ):
        wait_for_workers(2)
        for kind, base_url in zip(kinds, vendors.base_urls, strict=True):
            collection_id = add_library(base_url, kind.spec.since, kind.name)
            run_workflow(Workflow.PURCHASES, [collection_id], vendors)
            rows.append(page_figures(latency_ms, kind.name, kind.records, take_records(step_file)))
            applies = take_records(apply_file)
        # A run without these arguments would only check that the recent purchases are known.
        again = {"current_day": kind.spec.since.isoformat(), "reset_timestamp": True}
        run_workflow(Workflow.PURCHASES, [collection_id], vendors, **again)
        rows.append(page_figures(latency_ms, "50 unchanged titles", kind.records, take_records(step_file)))
        rows.append(apply_figures(latency_ms, "apply of 50 new titles", applies))
    return rows


def page_figures(latency_ms: int, name: str, records: int, steps: Sequence[TaskRecord]) -> Figures:
    """Return the figures of a run's pages with this number of records, each until the next step starts."""
    times = [
        PageTime(step.seconds_by_category(), step.seconds, next_step.start - step.start)
        for step, next_step in list(pairwise(steps))[_SKIPPED_FIRST:-_SKIPPED_LAST]
        if step.size == records
    ]
    return _mean_figures(latency_ms, name, times)


def apply_figures(latency_ms: int, name: str, applies: Sequence[TaskRecord]) -> Figures:
    """Return the figures of applies, each from its start to its end."""
    times = [PageTime(each.seconds_by_category(), each.seconds, each.seconds) for each in applies]
    return _mean_figures(latency_ms, name, times)


def _mean_figures(latency_ms: int, name: str, times: Sequence[PageTime]) -> Figures:
    def mean_ms(seconds: Iterable[float]) -> float:
        return round(1000 * sum(seconds) / len(times), 1)

    parts = {
        category: mean_ms(page.by_category.get(category, 0.0) for page in times) for category in _CATEGORIES
    }
    between_tasks = mean_ms(page.until_next - page.in_task for page in times)
    total = mean_ms(page.until_next for page in times)
    celery = round(parts.pop(CELERY) + between_tasks, 1)
    other = round(total - celery - sum(parts.values()), 1)
    return Figures(latency_ms, name, len(times), other=other, celery=celery, total=total, **parts)


def main() -> None:
    """Measure once and print the figures."""
    figures = [row for rows in run_in_subprocesses(measure, LATENCIES_MS) for row in rows]
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
