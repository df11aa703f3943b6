"""Where the milliseconds of a page go: real chains on real servers, by a worker of one process whose calls
are timed, from a vendor that answers at once and from one that takes 100 ms.

A page's time is that from its link's start to the start of the next. Each moment of it counts once: as the
database's while a statement or a commit is waited for, else as parsing while a document is read, else as
Redis's while its answer to a lock, a turn or an answer ahead is waited for, else as the vendor's while one of
its answers is (with the client's own work), else as Celery's while a message is sent or no link is at work;
what is left is the import's own. Applies are done by a second worker, beside the chain.

Prints a table of milliseconds, and as the last line the same figures as JSON. Run it with
`python -m benchmarks.pages`.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

from accession.core.workflow import Workflow
from accession.sandbox.catalogue import Purchase
from benchmarks.stage import (
    SPAWN,
    Sold,
    add_library,
    await_workers,
    one_by_one,
    print_json,
    run,
    servers,
    show,
    vendors,
)

LATENCIES_MS = (0, 100)
# Those asked for alone or not yet ahead, at a chain's start, and the last.
_FIRST, _LAST = 3, 2

VENDOR, PARSE, DATABASE, REDIS, CELERY = "vendor", "parse", "database", "redis", "celery"
_BY_RANK = (DATABASE, PARSE, REDIS, VENDOR, CELERY)


@dataclass(frozen=True)
class Regular(Sold):
    """So many titles at the beginning of each day, or of each seventh, none of them odd."""

    a_day: int = 1
    every: int = 1

    def purchases(self) -> Iterable[Purchase]:
        """The same titles at regular moments."""
        for number, purchase in enumerate(super().purchases()):
            day = timedelta(days=number // self.a_day * self.every)
            yield replace(purchase, purchased_at=self.since + day, flaw=None, is_listed=True)


@dataclass(frozen=True)
class Kind:
    """Pages of one kind: their name, how many records each has, and a library that has them."""

    name: str
    records: int
    sold: Regular


def kinds(latency_ms: int) -> tuple[Kind, ...]:
    """What is measured, each in a library of its own."""
    return (
        Kind("an empty day", 0, Regular(12, 84, latency_ms, seed=1, a_day=1, every=7)),
        Kind("20 new titles", 20, Regular(800, 40, latency_ms, seed=2, a_day=20)),
        Kind("50 new titles", 50, Regular(2_000, 2, latency_ms, seed=3, a_day=2_000)),
    )


@dataclass(frozen=True)
class Figures:
    """Milliseconds of a page on the mean, and of how many. `own` is what the import does itself."""

    latency_ms: int
    page: str
    pages: int
    vendor: float
    parse: float
    database: float
    redis: float
    own: float
    celery: float
    total: float


# From one moment to another, in seconds, something was waited for or done.
Span = tuple[str, float, float]


@dataclass(frozen=True)
class Noted:
    """A task as it was done: how many records or titles it had (-1 for what is no page), from when to when,
    and what was not its own."""

    size: int
    start: float
    end: float
    spans: Sequence[Span]


_spans: list[Span] = []


def timed(owner: Any, name: str, what: str) -> None:
    """Have every call of this function noted as `what`."""
    call = getattr(owner, name)

    @wraps(call)
    def noting(*args: Any, **options: Any) -> Any:
        start = time.monotonic()
        try:
            return call(*args, **options)
        finally:
            _spans.append((what, start, time.monotonic()))

    setattr(owner, name, noting)


def time_everything() -> None:
    """Have all calls noted that belong to somebody else, or read documents."""
    from celery import Task
    from redis import Redis
    from sqlalchemy.engine.default import DefaultDialect

    from accession.bibliotheca import client, marc

    timed(client.BibliothecaAPI, "_fetch", VENDOR)
    for owner, name in (
        (client, "parse_marc_page"),
        (client, "parse_items"),
        (marc.MarcRecord, "content_hash"),
        (marc.MarcRecord, "as_marc21"),
    ):
        timed(owner, name, PARSE)
    for name in ("do_execute", "do_executemany", "do_commit", "do_rollback", "do_ping"):
        timed(DefaultDialect, name, DATABASE)
    timed(Redis, "execute_command", REDIS)
    timed(Task, "apply_async", CELERY)


def shares(noted: Noted) -> dict[str, float]:
    """How many seconds of a task each counts for, no moment twice: where several are under way at once, as in
    threads, it is the one of the highest rank."""
    found: dict[str, float] = defaultdict(float)
    moments = sorted({noted.start, noted.end, *(moment for _, *both in noted.spans for moment in both)})
    for left, right in pairwise(moments):
        under_way = {what for what, start, end in noted.spans if start <= left and right <= end}
        if first := next((what for what in _BY_RANK if what in under_way), None):
            found[first] += right - left
    return found


def note(task: Any, notes: Path, size: Callable[[Sequence[Any]], int]) -> None:
    """Have each run of the task written to `notes`, a line each."""
    do = task.run

    @wraps(do)
    def noting(*args: Any, **arguments: Any) -> Any:
        _spans.clear()
        start = time.monotonic()
        try:
            return do(*args, **arguments)
        finally:
            noted = Noted(size(args), start, time.monotonic(), _spans)
            with notes.open("a") as lines:
                lines.write(json.dumps(vars(noted)) + "\n")

    task.run = noting


def work(queue: str, notes: Path) -> None:
    """Be a worker of one process that takes from one queue and notes what it does."""
    said = os.open(notes.with_suffix(".log"), os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    from accession.imports.purchases import BibliothecaPurchaseRecordImporter
    from accession.tasks.app import APPLY_QUEUE, app
    from accession.tasks.apply import bibliographic_apply
    from accession.tasks.purchases import import_purchase_records_by_collection

    import_day = BibliothecaPurchaseRecordImporter.import_day
    records: list[int] = []

    def counting(*args: Any, **options: Any) -> Any:
        page = import_day(*args, **options)
        records.append(-1 if page.window.is_probe else page.records_fetched)
        return page

    BibliothecaPurchaseRecordImporter.import_day = counting  # type: ignore[method-assign]
    time_everything()
    if queue == APPLY_QUEUE:
        note(bibliographic_apply, notes, lambda args: len(args[0]))
    else:
        note(import_purchase_records_by_collection, notes, lambda args: records.pop() if records else -1)
    options = [f"--queues={queue}", f"--hostname={queue}@%h", "--without-gossip", "--without-mingle"]
    app.worker_main(["worker", "--concurrency=1", "--loglevel=warning", *options])


@contextmanager
def worker(queue: str, home: Path) -> Iterator[Path]:
    """Such a worker in a process of its own; yields its notes."""
    notes = home / f"{queue}.notes"
    notes.touch()
    process = SPAWN.Process(target=work, args=(queue, notes))
    process.start()
    try:
        yield notes
    finally:
        process.terminate()
        process.join()


def read(notes: Path) -> list[Noted]:
    """What has been noted since the last time, which is taken away."""
    noted = [Noted(**json.loads(line)) for line in notes.read_text().splitlines()]
    notes.write_text("")
    return noted


def measure(latency_ms: int) -> list[Figures]:
    """All kinds of pages of a vendor with this latency."""
    rows: list[Figures] = []
    measured = kinds(latency_ms)
    with (
        vendors([kind.sold for kind in measured]) as asked,
        servers(log_level="warning") as home,
        worker("default", home) as links,
        worker("apply", home) as applies,
    ):
        await_workers(2)
        for kind, base_url in zip(measured, asked.base_urls, strict=True):
            collection_id = add_library(base_url, kind.sold.since, kind.name)
            run(Workflow.PURCHASES, [collection_id], asked)
            rows.append(of_pages(latency_ms, kind.name, kind.records, read(links)))
            applied = read(applies)
        reset_checkpoint(collection_id, kind.sold.since)
        run(Workflow.PURCHASES, [collection_id], asked)
        rows.append(of_pages(latency_ms, "50 unchanged titles", kind.records, read(links)))
        rows.append(of_applies(latency_ms, "apply of 50 new titles", applied))
    return rows


def of_pages(latency_ms: int, name: str, records: int, links: Sequence[Noted]) -> Figures:
    """The figures of a chain's pages with so many records, each up to the start of the next link."""
    told = [
        (shares(link), link.end - link.start, after.start - link.start)
        for link, after in list(pairwise(links))[_FIRST:-_LAST]
        if link.size == records
    ]
    return _figures(latency_ms, name, told)


def of_applies(latency_ms: int, name: str, applies: Sequence[Noted]) -> Figures:
    """The figures of applies, each from its start to its end."""
    lengths = [each.end - each.start for each in applies]
    told = [(shares(each), length, length) for each, length in zip(applies, lengths, strict=True)]
    return _figures(latency_ms, name, told)


def _figures(latency_ms: int, name: str, told: Sequence[tuple[dict[str, float], float, float]]) -> Figures:
    """The mean of pages: what each part took of the seconds within the task, and of those until the next."""

    def mean(seconds: Iterable[float]) -> float:
        return round(1000 * sum(seconds) / len(told), 1)

    parts = {what: mean(seconds.get(what, 0.0) for seconds, _, _ in told) for what in _BY_RANK}
    between = mean(until_next - within for _, within, until_next in told)
    total = mean(until_next for _, _, until_next in told)
    celery = round(parts.pop(CELERY) + between, 1)
    own = round(total - celery - sum(parts.values()), 1)
    return Figures(latency_ms, name, len(told), own=own, celery=celery, total=total, **parts)


def reset_checkpoint(collection_id: int, began: datetime) -> None:
    """Have the purchases of the collection complete up to `began` only."""
    from accession.db.engine import transaction
    from accession.db.models import Collection
    from accession.runs.ledger import get_or_create_checkpoint

    with transaction() as session:
        collection = session.get_one(Collection, collection_id)
        get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish = began


def main() -> None:
    """Measure once and print."""
    measured = [row for rows in one_by_one(measure, LATENCIES_MS) for row in rows]
    show(measured)
    print_json(measured)


if __name__ == "__main__":
    main()
