"""What people and schedules wait for, in a catalogue of a million titles with a ledger of a million runs.

Prints a table, the plans of whatever takes longer than 50 ms, and as the last line the same figures as JSON.
Run it with `python -m benchmarks.million`; `--titles` makes a smaller catalogue. The vendor answers in this
process, and nothing waits for the disk: what is measured is the database and our own code.
"""

import argparse
import asyncio
import json
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import SecretStr
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from accession.accounts.collections import collections_in_use
from accession.accounts.keys import account_key_of
from accession.accounts.views import collection_views
from accession.bibliotheca.client import MOST_ITEMS, PAGE_SIZE, Account, BibliothecaAPI
from accession.bibliotheca.items import DATA_SOURCE
from accession.catalog.apply import apply_outbox
from accession.catalog.outbox import count_pending_applies
from accession.catalog.purchase_counts import purchases_by_month, recent_purchases
from accession.catalog.rejected_records import reject_views
from accession.catalog.search import TitleFilter, find_titles, title_facets
from accession.catalog.title_history import title_history
from accession.catalog.titles import count_titles, title_views
from accession.core.clock import utc_now
from accession.core.logging import set_up_logging
from accession.core.settings import Settings, use_settings
from accession.core.workflow import Workflow
from accession.db import schema
from accession.db.engine import engine, transaction
from accession.db.models import Collection, Identifier, LicensePool, Run, RunState
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.events import BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.windows import Place
from accession.local.postgres import remove_home_data
from accession.local.servers import EmbeddedServers
from accession.runs import diagnostics, ledger
from accession.runs.progress import progress_of
from accession.runs.views import run_views, status_views
from accession.sandbox.activity import Event, EventType
from accession.sandbox.catalogue import Purchase, build_catalogue, seeded
from accession.sandbox.documents import event_batch, item_documents, marc_collection
from benchmarks.catalogue import Made, fill, isbn_of, isbns_of

TITLES = 1_000_000
TIMES = 20
LONG_MS = 50
_EVENTS = 50
_DAY = datetime(2026, 1, 5, tzinfo=UTC)
_WORTH_A_PLAN_MS = 5
_BYTES_A_TITLE = 12_000
_LONGEST_LINE = 250

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Figure:
    """What one call took, in milliseconds: the best, the median and the worst of many. Of the median,
    `database_ms` were in statements and `vendor_ms` in asking the vendor and reading its answer."""

    name: str
    best_ms: float
    median_ms: float
    worst_ms: float
    database_ms: float
    vendor_ms: float
    statements: int
    plans: tuple[str, ...] = ()


@dataclass
class Stopwatch:
    """The seconds spent with one thing."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add up what is spent meanwhile."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began


VENDOR = Stopwatch()


class ClockedAPI(BibliothecaAPI):
    """The vendor's API, timed on `VENDOR`."""

    def marc_page(self, *arguments: Any, **more: Any) -> Any:
        with VENDOR.running():
            return super().marc_page(*arguments, **more)

    def events(self, *arguments: Any, **more: Any) -> Any:
        with VENDOR.running():
            return super().events(*arguments, **more)

    def items(self, *arguments: Any, **more: Any) -> Any:
        with VENDOR.running():
            return super().items(*arguments, **more)


class Vendor:
    """A vendor in this process, whose answers are written before they are asked for."""

    def __init__(self, items: Iterable[Purchase]) -> None:
        self._items = {purchase.item_id: purchase for purchase in items}
        self._answers: dict[str, str] = {}

    def api(self, collection: Collection, *, page: str = "") -> ClockedAPI:
        """The API of a collection, to which any page of records and any slice of events is `page`."""

        def answer(request: httpx.Request) -> httpx.Response:
            path = request.url.path
            if "/items/" not in path:
                return httpx.Response(200, text=page)
            if path not in self._answers:
                asked = path.rpartition("/")[2].split(",")
                self._answers[path] = item_documents([self._items[item_id] for item_id in asked], "alder")
            return httpx.Response(200, text=self._answers[path])

        account = Account(
            collection=collection.name,
            library_id=collection.library_id,
            account_id=collection.account_id,
            account_key=account_key_of(collection),
            base_url=collection.base_url,
        )
        return ClockedAPI(account, httpx.Client(transport=httpx.MockTransport(answer)))


def measure(name: str, call: Callable[[Session], object], times: int = TIMES) -> Figure:
    """Call it so often, each in a transaction that is rolled back, after one call that does not count."""
    _call(call)
    taken = sorted((_call(call) for _ in range(times)), key=lambda one: one.seconds)
    median = taken[times // 2]
    figure = Figure(
        name=name,
        best_ms=_ms(taken[0].seconds),
        median_ms=_ms(statistics.median(one.seconds for one in taken)),
        worst_ms=_ms(taken[-1].seconds),
        database_ms=_ms(sum(statement.seconds for statement in median.statements)),
        vendor_ms=_ms(median.vendor_seconds),
        statements=len(median.statements),
    )
    if figure.median_ms <= LONG_MS:
        return figure
    return replace(figure, plans=tuple(_plans(median.statements)))


@dataclass
class _Statement:
    sql: str
    parameters: Any
    began: float
    seconds: float = 0.0


@dataclass(frozen=True)
class _Taken:
    seconds: float
    vendor_seconds: float
    statements: list[_Statement]


def _call(call: Callable[[Session], object]) -> _Taken:
    with Session(engine()) as session, _statements() as statements:
        session.connection()
        VENDOR.seconds, began = 0.0, time.perf_counter()
        call(session)
        session.flush()
        taken = time.perf_counter() - began
        session.rollback()
    return _Taken(taken, VENDOR.seconds, statements)


@contextmanager
def _statements() -> Iterator[list[_Statement]]:
    sent: list[_Statement] = []

    def before(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        sent.append(_Statement(sql, parameters, time.perf_counter()))

    def after(*_: Any) -> None:
        sent[-1].seconds = time.perf_counter() - sent[-1].began

    event.listen(engine(), "before_cursor_execute", before)
    event.listen(engine(), "after_cursor_execute", after)
    try:
        yield sent
    finally:
        event.remove(engine(), "before_cursor_execute", before)
        event.remove(engine(), "after_cursor_execute", after)


def _plans(statements: Iterable[_Statement]) -> Iterator[str]:
    """The plans of those that read and took long; what they write is rolled back."""
    with engine().connect() as connection:
        for statement in statements:
            if 1000 * statement.seconds < _WORTH_A_PLAN_MS or statement.sql.startswith("INSERT"):
                continue
            explain = f"EXPLAIN (ANALYZE, BUFFERS) {statement.sql}"
            with connection.begin_nested() as savepoint:
                rows = connection.exec_driver_sql(explain, statement.parameters).scalars()
                yield "\n".join(line[:_LONGEST_LINE] for line in [*statement.sql.splitlines(), *rows])
                savepoint.rollback()


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def listings(made: Made) -> Iterator[Figure]:
    """What a person asks for: status, and lists."""
    names, item_id = _names(), _held(made.biggest)[0]
    texts = _texts(made)
    yield measure("status", status_views)
    yield measure("collections", collection_views)
    yield measure("a title by its id", lambda s: list(title_views(s, identifiers=[item_id])))
    yield measure("rejected records", reject_views)
    for which, name in (("all", None), ("biggest", names[made.biggest]), ("smallest", names[made.smallest])):
        yield from _listings_of(which, name)
        yield from _searches(which, name, texts)
    yield measure("purchases by month", lambda s: purchases_by_month(s, made.biggest))
    yield measure("recent purchases", recent_purchases)
    holder = names[made.biggest]
    yield measure("a title's history", lambda s: title_history(s, holder, item_id))


def _listings_of(which: str, name: str | None) -> Iterator[Figure]:
    yield measure(f"titles, {which}", lambda s: list(title_views(s, collection=name, limit=50)))
    yield measure(f"titles counted, {which}", lambda s: count_titles(s, collection=name))
    yield measure(f"runs, {which}", lambda s: run_views(s, collection=name, limit=20))


def _texts(made: Made) -> dict[str, str]:
    """What people type who look for a title; thousands of others are of the same work."""
    with transaction() as session:
        name = _names()[made.biggest]
        title = next(
            view.title
            for view in title_views(session, collection=name)
            if view.title and re.fullmatch(r"[A-Z][a-z]{5,} [A-Z][a-z]{5,}, [0-9]+", view.title)
        )
    words = title.partition(",")[0].split()
    return {
        "a common word": "the",
        "a work's title": " ".join(words),
        "a title": title,
        "the beginning of a title": " ".join(words)[:-3],
        "an author's name": "family4321",
        "an ISBN": isbn_of(isbns_of(1)[0]),
        "misspelt": " ".join(word[:3] + word[4:] for word in words),
        "what is nowhere": "xylomqphone vwuqtz",
    }


def _searches(which: str, name: str | None, texts: Mapping[str, str]) -> Iterator[Figure]:
    for what, text in texts.items():
        yield measure(f"{what}, {which}", _search(TitleFilter(text, collection=name)))
    for availability in ("available", "waiting", "gone"):
        wanted = TitleFilter(collection=name, availability=availability)
        yield measure(f"titles that are {availability}, {which}", _search(wanted))
    recently = TitleFilter(collection=name, purchased_from=_DAY.date() - timedelta(days=365))
    yield measure(f"titles bought in a year, {which}", _search(recently))
    yield measure(f"facets, {which}", lambda s: title_facets(s, name))


def _search(wanted: TitleFilter) -> Callable[[Session], object]:
    return lambda session: find_titles(session, wanted)


def screens(made: Made) -> Iterator[Figure]:
    """The dashboard's pages as its server answers them, and a scrape of the metrics."""
    from accession.web.app import create_app

    item_id, text = _held(made.biggest)[0], quote(_texts(made)["a work's title"])
    paths = {
        "overview": "/",
        "collection": f"/collections/{made.biggest}",
        "catalogue": "/titles",
        "search": f"/titles?text={text}",
        "title": f"/titles/{item_id}/collections/{made.biggest}",
        "runs": "/runs",
        "run": "/runs/1",
        "rejected records": "/rejected-records",
        "reimport": f"/collections/{made.biggest}/reimport",
        "metrics": "/metrics",
    }
    transport = httpx.ASGITransport(create_app())
    for name, path in paths.items():
        yield measure(f"page: {name}", _get(transport, path), times=5)


def _get(transport: httpx.ASGITransport, path: str) -> Callable[[Session], object]:
    async def get() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8642") as client:
            (await client.get(path)).raise_for_status()

    return lambda _: asyncio.run(get())


def polls(made: Made) -> Iterator[Figure]:
    """What the schedule and a progress bar ask for again and again."""
    middle = _middle(made.biggest)
    run = Run(
        collection_id=made.biggest,
        workflow=Workflow.CIRCULATION.value,
        state=RunState.RUNNING.value,
        cursor={"offset": middle},
        records_fetched=0,
        started_at=_DAY,
        updated_at=utc_now(),
    )
    yield measure("progress of a sweep", lambda s: progress_of(s, run))
    yield measure("applies that wait", lambda s: count_pending_applies(s, made.biggest))
    yield measure("latest run", lambda s: ledger.latest_run(s, made.biggest, Workflow.PURCHASES))
    yield measure("missed starts", lambda s: [ledger.last_started(s, workflow) for workflow in Workflow])
    yield measure("runs at work", ledger.active_runs)
    yield measure("silent runs", lambda s: ledger.active_runs(s, silent_since=utc_now()))
    yield measure(
        "a run begins", lambda s: ledger.open_run(s, made.biggest, Workflow.EVENTS, "task", {"start": None})
    )


def checks(made: Made) -> Iterator[Figure]:
    """What `accession doctor` looks at in the catalogue."""
    yield measure("checkpoints in the future", diagnostics.future_checkpoints)
    yield measure("outbox left behind", lambda s: diagnostics.count_published_before(s, utc_now()))
    yield measure(
        "titles without metadata", lambda s: diagnostics.undescribed(s, collections_in_use(s)), times=5
    )


def steps(made: Made) -> Iterator[Figure]:
    """A page, a slice and a batch of the biggest collection."""
    bought = build_catalogue(3 * PAGE_SIZE, datetime(2014, 1, 1, tzinfo=UTC), _DAY, unusable=0).purchases
    new = bought[:PAGE_SIZE]
    known = [replace(p, item_id=i) for p, i in zip(bought[PAGE_SIZE:], _held(made.biggest), strict=False)]
    known = known[:PAGE_SIZE]
    offset = _middle(made.biggest)
    batch = [replace(p, item_id=i) for p, i in zip(bought, _after(made.biggest, offset), strict=False)]
    vendor = Vendor([*new, *known, *batch])
    yield from _pages(made, vendor, new, known)
    yield from _sweep(made, vendor, offset)
    yield _slice(made, vendor, known)


def _pages(made: Made, vendor: Vendor, new: list[Purchase], known: list[Purchase]) -> Iterator[Figure]:
    def page(purchases: list[Purchase]) -> Callable[[Session], tuple[int, ...]]:
        document = marc_collection(purchases, "alder", _DAY)

        def step(session: Session) -> tuple[int, ...]:
            collection = session.get_one(Collection, made.biggest)
            importer = BibliothecaPurchaseRecordImporter(
                session, collection, vendor.api(collection, page=document)
            )
            return importer.import_page(Place(_DAY), _DAY + timedelta(days=1)).outbox_ids

        return step

    yield measure("a page of new titles", page(new))
    _settle(page(known))
    yield measure("a page of known titles", page(known))


def _sweep(made: Made, vendor: Vendor, offset: int) -> Iterator[Figure]:
    def step(session: Session) -> tuple[int, ...]:
        collection = session.get_one(Collection, made.biggest)
        return (
            BibliothecaCirculationUpdater(session, collection, vendor.api(collection))
            .update_batch(offset)
            .outbox_ids
        )

    yield measure("a batch, all changed", step)
    _settle(step)
    yield measure("a batch, unchanged", step)


def _slice(made: Made, vendor: Vendor, known: list[Purchase]) -> Figure:
    moments = [_DAY + timedelta(seconds=second) for second in range(_EVENTS)]
    events = [
        Event(f"new-{second}", EventType.CHECKOUT, moment, purchase.item_id, purchase.isbn, "")
        for second, (moment, purchase) in enumerate(zip(moments, known, strict=True))
    ]
    document = event_batch(events, "alder", _DAY, with_library=False)

    def step(session: Session) -> object:
        collection = session.get_one(Collection, made.biggest)
        importer = BibliothecaEventImporter(session, collection, vendor.api(collection, page=document))
        return importer.import_time_slice(_DAY, _DAY + timedelta(minutes=5))

    return measure("a slice of 50 events", step)


def _settle(step: Callable[[Session], tuple[int, ...]]) -> None:
    """Commit the step and its apply: from then on nothing has changed."""
    with transaction() as session:
        outbox_ids = step(session)
    with transaction() as session:
        apply_outbox(session, outbox_ids)


def _names() -> dict[int, str]:
    with transaction() as session:
        return {row.id: row.name for row in session.execute(select(Collection.id, Collection.name))}


def _identifiers(collection_id: int) -> Any:
    return (
        select(Identifier.id, Identifier.identifier)
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .where(LicensePool.collection_id == collection_id, LicensePool.data_source == DATA_SOURCE)
        .order_by(Identifier.id)
    )


def _held(collection_id: int) -> list[str]:
    """Titles of the collection, the popular ones more often."""
    with transaction() as session:
        held = [row.identifier for row in session.execute(_identifiers(collection_id))]
    dice = seeded("held")
    return list(dict.fromkeys(held[int(len(held) * dice.random() ** 2)] for _ in range(4 * PAGE_SIZE)))


def _middle(collection_id: int) -> int:
    with transaction() as session:
        ids = [row.id for row in session.execute(_identifiers(collection_id))]
    return int(ids[len(ids) // 2 // MOST_ITEMS * MOST_ITEMS - 1])


def _after(collection_id: int, offset: int) -> list[str]:
    with transaction() as session:
        query = _identifiers(collection_id).where(Identifier.id > offset).limit(MOST_ITEMS)
        return [row.identifier for row in session.execute(query)]


def measure_all(made: Made) -> Iterator[Figure]:
    """Every figure, one after the other."""
    for group in (listings, screens, steps, polls, checks):
        yield from group(made)


@contextmanager
def database(titles: int) -> Iterator[None]:
    """A database of its own for this process, gone afterwards."""
    if shutil.disk_usage(tempfile.gettempdir()).free < titles * _BYTES_A_TITLE:
        raise SystemExit(f"{tempfile.gettempdir()} has too little room: set TMPDIR, or give fewer --titles.")
    home = Path(tempfile.mkdtemp(prefix="accession-million-"))
    try:
        with EmbeddedServers(home, durable=False) as urls:
            use_settings(
                Settings(
                    home=home,
                    database_url=SecretStr(urls.database_url),
                    redis_url=SecretStr(urls.redis_url),
                )
            )
            schema.upgrade(engine())
            yield
            engine().dispose()
    finally:
        remove_home_data(home)
        shutil.rmtree(home)


def main() -> None:
    """Make the catalogue, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--titles", type=int, default=TITLES)
    titles = parser.parse_args().titles
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    set_up_logging(Settings(log_level="warning"))
    with database(titles):
        began = time.monotonic()
        made = fill(engine(), titles)
        seconds = time.monotonic() - began
        print(f"{made.pools:,} titles and {made.runs:,} runs made in {seconds:.0f} s")
        figures = []
        print(f"{'':34}{'best':>8}{'median':>9}{'worst':>9}{'database':>10}{'vendor':>8}  statements")
        for figure in measure_all(made):
            figures.append(figure)
            print_figure(figure)
    for figure in figures:
        for plan in figure.plans:
            print(f"\n{figure.name}:\n{plan}")
    shown = [replace(figure, plans=()) for figure in figures]
    print(json.dumps({"titles": titles, "seconds": round(seconds), "figures": [asdict(f) for f in shown]}))


def print_figure(figure: Figure) -> None:
    """One line of the table."""
    print(
        f"{figure.name:34}{figure.best_ms:8.1f}{figure.median_ms:9.1f}{figure.worst_ms:9.1f}"
        f"{figure.database_ms:10.1f}{figure.vendor_ms:8.1f}{figure.statements:12}",
        flush=True,
    )


if __name__ == "__main__":
    main()
