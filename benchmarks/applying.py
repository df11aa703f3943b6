"""Applying pages of 50 titles as a worker does it, titles that are new and titles that are as they were; and
what an import does before: comparing such pages with the catalogue.

Prints a table, and as the last line the same figures as JSON. Run it with `python -m benchmarks.applying`.
CPU time is that of this process and of its connection's PostgreSQL server process. Of several rounds the
cheapest counts, as the machine may have other things to do.
"""

import gc
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydantic import SecretStr
from sqlalchemy import event, select, text
from sqlalchemy.orm import Session

from accession.accounts.collections import add_collection
from accession.bibliotheca.items import DATA_SOURCE, parse_items
from accession.catalog.apply import needs_apply, put_in_outbox
from accession.catalog.data import ApplyData, TitleData
from accession.core.logging import set_up_logging
from accession.core.settings import Settings, use_settings
from accession.core.vocabulary import IdentifierType
from accession.db import schema
from accession.db.engine import engine, transaction
from accession.db.models import Base, Collection, Identifier, LicensePool
from accession.local.postgres import remove_home_data
from accession.local.servers import EmbeddedServers
from accession.sandbox.catalogue import Purchase, build_catalogue
from accession.sandbox.documents import item_documents
from accession.sandbox.server import SandboxAccount

PAGE = 50
PAGES = 40
ROUNDS = 5
NOW = datetime(2024, 5, 1, tzinfo=UTC)

Page = Sequence[Purchase]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Figures:
    """What one kind of work took: CPU and wall-clock milliseconds a title, SQL statements a page, and titles
    a second that a core gets done."""

    work: str
    titles: int
    python_ms: float
    postgresql_ms: float
    wall_ms: float
    statements: float
    titles_per_second_a_core: int


@contextmanager
def servers() -> Iterator[None]:
    """Embedded servers with an empty database, and this process attached to them like a worker."""
    home = Path(tempfile.mkdtemp(prefix="accession-bench-"))
    with EmbeddedServers(home) as urls:
        settings = Settings(
            home=home, database_url=SecretStr(urls.database_url), redis_url=SecretStr(urls.redis_url)
        )
        use_settings(settings)
        schema.upgrade(engine())
        set_up_logging(settings.model_copy(update={"log_level": "warning"}))
        try:
            yield
        finally:
            engine().dispose()
    remove_home_data(home)
    shutil.rmtree(home)


def pages() -> Sequence[Page]:
    """Pages of purchases of a library, all of them listed and usable."""
    began = NOW - timedelta(days=3650)
    catalogue = build_catalogue(PAGE * PAGES * 2, began, NOW, unusable=0)
    usable = [purchase for purchase in catalogue.purchases if purchase.listed]
    return [usable[start : start + PAGE] for start in range(0, PAGE * PAGES, PAGE)]


def told(page: Page, as_of: datetime) -> Sequence[TitleData]:
    """What the vendor's `items` says of a page, read as an import reads it."""
    return parse_items(item_documents(page, "bench").encode(), as_of).titles


def found(session: Session, titles: Sequence[TitleData]) -> list[tuple[LicensePool, ApplyData]]:
    """The pools of a page, new where there is none, with what has to be applied to them."""
    collection = session.scalars(select(Collection)).one()
    names = [title.identifier for title in titles]
    pools = LicensePool.for_foreign_ids(
        session, DATA_SOURCE, IdentifierType.BIBLIOTHECA, names, collection=collection
    )
    return needs_apply(session, [(pools[title.identifier][0], title) for title in titles])


def find(titles: Sequence[TitleData]) -> list[int]:
    """Put in the outbox what an import finds to be news in a page; the ids of the outbox rows."""
    with transaction() as session:
        return put_in_outbox(session, found(session, titles))


def put(titles: Sequence[TitleData]) -> list[int]:
    """Put a page in the outbox, news or not; the ids of the outbox rows."""
    with transaction() as session:
        pools = {pool.identifier_id: pool for pool in session.scalars(select(LicensePool))}
        ids = Identifier.ids(session, IdentifierType.BIBLIOTHECA, [title.identifier for title in titles])
        named = {name: pools[row_id] for (_, name), row_id in ids.items()}
        return put_in_outbox(session, [(named[title.identifier], title) for title in titles])


def apply(outbox_ids: list[int]) -> None:
    """Do what a worker does with one message."""
    from accession.tasks.apply import bibliographic_apply

    bibliographic_apply.apply((outbox_ids,), throw=True)


class _Meter:
    """CPU and wall-clock seconds and SQL statements since it was made."""

    def __init__(self) -> None:
        with transaction() as session:
            backend = session.scalar(text("SELECT pg_backend_pid()"))
        self._backend = psutil.Process(backend)
        self.statements = 0
        self._start = self._now()

    def _now(self) -> tuple[float, float, float]:
        postgresql = self._backend.cpu_times()
        return time.process_time(), postgresql.user + postgresql.system, time.perf_counter()

    def note_statement(self, *_: Any) -> None:
        """A statement is sent."""
        self.statements += 1

    def figures(self, work: str, titles: int) -> Figures:
        """What the work on so many titles has taken."""
        spent = (now - start for now, start in zip(self._now(), self._start, strict=True))
        python, postgresql, wall = (seconds * 1000 / titles for seconds in spent)
        return Figures(
            work=work,
            titles=titles,
            python_ms=round(python, 3),
            postgresql_ms=round(postgresql, 3),
            wall_ms=round(wall, 3),
            statements=round(self.statements / (titles / PAGE), 1),
            titles_per_second_a_core=round(1000 / (python + postgresql)),
        )


@contextmanager
def metered() -> Iterator[_Meter]:
    """A meter that also counts statements."""
    meter = _Meter()
    event.listen(engine(), "before_cursor_execute", meter.note_statement)
    try:
        yield meter
    finally:
        event.remove(engine(), "before_cursor_execute", meter.note_statement)


def measured(work: str, do: Callable[[_Item], object], items: Sequence[_Item]) -> Figures:
    """What it takes to `do` the items, each of which is a page or stands for one."""
    with metered() as meter:
        for item in items:
            do(item)
        return meter.figures(work, len(items) * PAGE)


def one_round(sold: Sequence[Page]) -> list[Figures]:
    """Import and apply all pages into an empty database, and again when nothing has changed."""
    with transaction() as session:
        session.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY CASCADE"))
        account = SandboxAccount()
        add_collection(
            session,
            name="Bench",
            library_id=account.library_id,
            account_id=account.account_id,
            account_key=SecretStr(account.account_key),
            base_url="http://127.0.0.1:9",
        )
    first, again = ([told(page, as_of) for page in sold] for as_of in (NOW, NOW + timedelta(days=1)))
    # A worker has no catalogue in its memory for the garbage collector to look through.
    gc.collect()
    gc.freeze()
    messages: list[list[int]] = []
    return [
        measured("find new titles", lambda titles: messages.append(find(titles)), first),
        measured("apply new titles", apply, messages),
        measured("find unchanged titles", find, again),
        measured("apply unchanged titles", apply, [put(titles) for titles in first]),
    ]


def cheapest(rounds: Sequence[Sequence[Figures]]) -> list[Figures]:
    """Of each work the figures of the round in which it took the least CPU time."""
    return [max(alike, key=lambda each: each.titles_per_second_a_core) for alike in zip(*rounds, strict=True)]


def measure() -> list[Figures]:
    """Some rounds in one database."""
    with servers():
        sold = pages()
        return cheapest([one_round(sold) for _ in range(ROUNDS)])


def main() -> None:
    """Measure and print."""
    measured = measure()
    print(f"{'':24}{'python':>10}{'postgres':>10}{'wall':>10}{'statements':>12}{'titles/s':>10}")
    print(f"{'':24}{'ms/title':>10}{'ms/title':>10}{'ms/title':>10}{'a page':>12}{'a core':>10}")
    for each in measured:
        print(
            f"{each.work:24}{each.python_ms:10.3f}{each.postgresql_ms:10.3f}{each.wall_ms:10.3f}"
            f"{each.statements:12}{each.titles_per_second_a_core:10,}"
        )
    print(json.dumps([asdict(each) for each in measured]))


if __name__ == "__main__":
    main()
