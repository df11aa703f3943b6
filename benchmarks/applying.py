"""Measure what it costs to compare pages of 50 titles with the catalogue and to apply them.

Measured are the comparison, as an import does it, and the apply, as a worker does it, for new titles and
for unchanged titles. CPU time is that of this process and of the PostgreSQL process that serves its
connection. Of five rounds the one with the least CPU time counts, because other processes may disturb a
round. Prints a table and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.applying
"""

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import psutil
from sqlalchemy import event, select, text

from accession.bibliotheca.items import DATA_SOURCE, parse_items
from accession.catalog.data import TitleData
from accession.catalog.outbox import enqueue_changes, find_changed_titles
from accession.core.logging import configure_logging
from accession.core.settings import get_settings
from accession.core.vocabulary import IdentifierType
from accession.db.engine import engine, transaction
from accession.db.models import AuditEntry, Base, Collection, Identifier, LicensePool
from accession.sandbox.catalogue import Purchase, build_catalogue
from accession.sandbox.items import item_documents
from benchmarks.installation import add_library, database_and_broker

PAGE_SIZE = 50
PAGES = 40
ROUNDS = 5
NOW = datetime(2024, 5, 1, tzinfo=UTC)

Page = Sequence[Purchase]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Figures:
    """Cost of one kind of work.

    Attributes:
        python_ms: CPU time of this process per title.
        postgresql_ms: CPU time of PostgreSQL per title.
        wall_ms: Elapsed time per title.
        statements: SQL statements per page.
        titles_per_second_per_core: Titles per second of CPU time, of both processes together.
    """

    work: str
    titles: int
    python_ms: float
    postgresql_ms: float
    wall_ms: float
    statements: float
    titles_per_second_per_core: int


def purchased_pages() -> Sequence[Page]:
    """Return pages of purchases whose records are usable and which `items` lists."""
    since = NOW - timedelta(days=3650)
    catalogue = build_catalogue(PAGE_SIZE * PAGES * 2, since, NOW, unusable=0)
    listed = [purchase for purchase in catalogue.purchases if purchase.is_listed]
    return [listed[start : start + PAGE_SIZE] for start in range(0, PAGE_SIZE * PAGES, PAGE_SIZE)]


def parse_page(page: Page, as_of: datetime) -> Sequence[TitleData]:
    """Return the metadata of a page, parsed from the vendor's `items` document."""
    return parse_items(item_documents(page, "bench").encode(), as_of).titles


def enqueue_changed_titles(titles: Sequence[TitleData]) -> list[int]:
    """Compare a page with the catalogue as an import does; return the ids of the outbox rows for changes."""
    with transaction() as session:
        collection = session.scalars(select(Collection)).one()
        pools = LicensePool.for_foreign_ids(
            session,
            DATA_SOURCE,
            IdentifierType.BIBLIOTHECA,
            [title.identifier for title in titles],
            collection=collection,
        )
        changed = find_changed_titles(session, [(pools[title.identifier][0], title) for title in titles])
        return enqueue_changes(session, changed)


def enqueue_all_titles(titles: Sequence[TitleData]) -> list[int]:
    """Add outbox rows for a page of stored titles, changed or not, and return their ids."""
    with transaction() as session:
        pools = {pool.identifier_id: pool for pool in session.scalars(select(LicensePool))}
        ids = Identifier.ids(session, IdentifierType.BIBLIOTHECA, [title.identifier for title in titles])
        pools_by_name = {name: pools[row_id] for (_, name), row_id in ids.items()}
        return enqueue_changes(session, [(pools_by_name[title.identifier], title) for title in titles])


def apply(outbox_ids: list[int]) -> None:
    """Run the apply task for one message."""
    from accession.tasks.apply import bibliographic_apply

    bibliographic_apply.apply((outbox_ids,), throw=True)


class _Meter:
    """CPU time, elapsed time and number of SQL statements since its creation."""

    def __init__(self) -> None:
        with transaction() as session:
            backend = session.scalar(text("SELECT pg_backend_pid()"))
        self._backend = psutil.Process(backend)
        self.statements = 0
        self._start = self._read_clocks()

    def _read_clocks(self) -> tuple[float, float, float]:
        postgresql = self._backend.cpu_times()
        return time.process_time(), postgresql.user + postgresql.system, time.perf_counter()

    def count_statement(self, *_: Any) -> None:
        """Count a statement; a listener of SQLAlchemy."""
        self.statements += 1

    def figures(self, work: str, titles: int) -> Figures:
        """Return the cost of the work on this number of titles."""
        elapsed = (now - start for now, start in zip(self._read_clocks(), self._start, strict=True))
        python, postgresql, wall = (seconds * 1000 / titles for seconds in elapsed)
        return Figures(
            work=work,
            titles=titles,
            python_ms=round(python, 3),
            postgresql_ms=round(postgresql, 3),
            wall_ms=round(wall, 3),
            statements=round(self.statements / (titles / PAGE_SIZE), 1),
            titles_per_second_per_core=round(1000 / (python + postgresql)),
        )


@contextmanager
def metering() -> Iterator[_Meter]:
    """Yield a meter that counts statements until the context ends."""
    meter = _Meter()
    event.listen(engine(), "before_cursor_execute", meter.count_statement)
    try:
        yield meter
    finally:
        event.remove(engine(), "before_cursor_execute", meter.count_statement)


def measure(work: str, process: Callable[[_Item], object], items: Sequence[_Item]) -> Figures:
    """Measure `process` for all items, each of which is a page or the outbox rows of one."""
    with metering() as meter:
        for item in items:
            process(item)
        return meter.figures(work, len(items) * PAGE_SIZE)


def measure_round(pages: Sequence[Page]) -> list[Figures]:
    """Import and apply all pages into an empty database, and again without changes."""
    with transaction() as session:
        # The audit log cannot be emptied.
        tables = Base.metadata.tables.keys() - {AuditEntry.__tablename__}
        session.execute(text(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY CASCADE"))
    add_library("http://127.0.0.1:9", NOW)
    first, second = ([parse_page(page, as_of) for page in pages] for as_of in (NOW, NOW + timedelta(days=1)))
    # A worker does not have these pages in memory, so the garbage collector should not search them.
    gc.collect()
    gc.freeze()
    messages: list[list[int]] = []
    return [
        measure("find new titles", lambda titles: messages.append(enqueue_changed_titles(titles)), first),
        measure("apply new titles", apply, messages),
        measure("find unchanged titles", enqueue_changed_titles, second),
        measure("apply unchanged titles", apply, [enqueue_all_titles(titles) for titles in first]),
    ]


def select_cheapest(rounds: Sequence[Sequence[Figures]]) -> list[Figures]:
    """Return for each kind of work the figures of the round with the least CPU time."""
    return [
        max(figures_of_work, key=lambda figures: figures.titles_per_second_per_core)
        for figures_of_work in zip(*rounds, strict=True)
    ]


def measure_all() -> list[Figures]:
    """Measure several rounds on the same servers."""
    with database_and_broker(log_level="warning"):
        configure_logging(get_settings())
        pages = purchased_pages()
        return select_cheapest([measure_round(pages) for _ in range(ROUNDS)])


def main() -> None:
    """Measure and print the figures."""
    figures = measure_all()
    print(f"{'':24}{'python':>10}{'postgres':>10}{'wall':>10}{'statements':>12}{'titles/s':>10}")
    print(f"{'':24}{'ms/title':>10}{'ms/title':>10}{'ms/title':>10}{'per page':>12}{'per core':>10}")
    for each in figures:
        print(
            f"{each.work:24}{each.python_ms:10.3f}{each.postgresql_ms:10.3f}{each.wall_ms:10.3f}"
            f"{each.statements:12}{each.titles_per_second_per_core:10,}"
        )
    print(json.dumps([asdict(each) for each in figures]))


if __name__ == "__main__":
    main()
