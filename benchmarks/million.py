"""Time what people and schedules wait for in a catalogue of a million titles and a ledger of as many runs.

The vendor is simulated in this process and PostgreSQL does not wait for the disk, so that only the database
and Accession's own code are measured. Prints a table, the query plans of calls that take longer than 50 ms
and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.million [--titles TITLES]
"""

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import list_collections
from accession.accounts.keys import decrypt_account_key
from accession.accounts.views import collection_views
from accession.bibliotheca.client import MAX_ITEMS, PAGE_SIZE, BibliothecaAPI
from accession.bibliotheca.items import DATA_SOURCE
from accession.catalog.apply import apply_outbox
from accession.catalog.facet_counts import count_facets
from accession.catalog.facets import title_facets
from accession.catalog.outbox import count_pending_changes, count_stale_changes
from accession.catalog.purchase_counts import purchases_by_month, recent_purchases
from accession.catalog.rejected_records import rejected_record_views
from accession.catalog.search import find_titles, match_titles
from accession.catalog.title_filter import TitleFilter
from accession.catalog.title_history import title_history
from accession.catalog.title_order import TitleOrder
from accession.catalog.title_statistics import refresh_all
from accession.catalog.titles import count_titles, title_views
from accession.core.clock import utc_now
from accession.core.logging import configure_logging
from accession.core.settings import get_settings
from accession.core.vocabulary import Format
from accession.core.workflow import Workflow
from accession.db.engine import engine, transaction
from accession.db.models import Collection, Identifier, LicensePool, Run, RunState
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.events import BibliothecaEventImporter
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.windows import ImportCursor
from accession.runs import diagnostics, ledger
from accession.runs.progress import estimate_progress
from accession.runs.schedules import list_schedules
from accession.runs.views import run_views, status_views
from accession.sandbox.activity import Event, EventType
from accession.sandbox.catalogue import Purchase, build_catalogue, seeded_random
from accession.sandbox.documents import event_batch
from accession.sandbox.items import item_documents
from accession.sandbox.marc import marc_collection
from benchmarks.call_timing import SLOW_CALL_MS, VENDOR_STOPWATCH, CallTiming, page_request, time_call
from benchmarks.generated_catalogue import (
    GeneratedCatalogue,
    fill_database,
    isbn,
    isbn_row_ids,
    read_titles_option,
)
from benchmarks.installation import database_and_broker

SLOW_CALL_REPETITIONS = 5
_EVENTS = 50
_DAY = datetime(2026, 1, 5, tzinfo=UTC)

# Processes one page, slice or batch, and returns the ids of the outbox rows.
Step = Callable[[Session], tuple[int, ...]]


class TimedAPI(BibliothecaAPI):
    """The vendor's API, whose calls are timed by `VENDOR_STOPWATCH`."""

    def fetch_marc_page(self, *arguments: Any, **options: Any) -> Any:
        with VENDOR_STOPWATCH.running():
            return super().fetch_marc_page(*arguments, **options)

    def fetch_events(self, *arguments: Any, **options: Any) -> Any:
        with VENDOR_STOPWATCH.running():
            return super().fetch_events(*arguments, **options)

    def fetch_items(self, *arguments: Any, **options: Any) -> Any:
        with VENDOR_STOPWATCH.running():
            return super().fetch_items(*arguments, **options)


class InProcessVendor:
    """A simulated vendor in this process, which generates each items document only once."""

    def __init__(self, titles: Iterable[Purchase]) -> None:
        self._titles = {purchase.item_id: purchase for purchase in titles}
        self._items_documents: dict[str, str] = {}

    def api(self, collection: Collection, *, document: str = "") -> TimedAPI:
        """Return the API of a collection; it returns `document` for every page and every slice of events."""

        def respond(request: httpx.Request) -> httpx.Response:
            path = request.url.path
            if "/items/" not in path:
                return httpx.Response(200, text=document)
            if path not in self._items_documents:
                titles = [self._titles[item_id] for item_id in path.rpartition("/")[2].split(",")]
                self._items_documents[path] = item_documents(titles, "alder")
            return httpx.Response(200, text=self._items_documents[path])

        account = Account(
            collection=collection.name,
            library_id=collection.library_id,
            account_id=collection.account_id,
            account_key=decrypt_account_key(collection),
            base_url=collection.base_url,
        )
        return TimedAPI(account, httpx.MockTransport(respond))


def time_all(catalogue: GeneratedCatalogue) -> Iterator[CallTiming]:
    """Time everything, one call after another."""
    for group in (time_lists, time_screens, time_steps, time_polls, time_checks):
        yield from group(catalogue)


def time_lists(catalogue: GeneratedCatalogue) -> Iterator[CallTiming]:
    """Time the status, lists and searches that people request."""
    names, item_id = _collection_names(), _item_ids(catalogue.largest)[0]
    texts = _search_texts(catalogue)
    yield time_call("status", status_views)
    yield time_call("collections", collection_views)
    yield time_call("a title by its id", lambda s: list(title_views(s, identifiers=[item_id])))
    yield time_call("rejected records", rejected_record_views)
    scopes = (("all", None), ("biggest", names[catalogue.largest]), ("smallest", names[catalogue.smallest]))
    for scope, name in scopes:
        yield from _time_lists_of(scope, name)
        yield from _time_searches(scope, name, texts)
    yield time_call("purchases by month", lambda s: purchases_by_month(s, catalogue.largest))
    yield time_call("recent purchases", recent_purchases)
    largest_name = names[catalogue.largest]
    yield time_call("a title's history", lambda s: title_history(s, largest_name, item_id))


def _time_lists_of(scope: str, name: str | None) -> Iterator[CallTiming]:
    yield time_call(f"titles, {scope}", lambda s: list(title_views(s, collection=name, limit=50)))
    yield time_call(f"titles counted, {scope}", lambda s: count_titles(s, collection=name))
    yield time_call(f"runs, {scope}", lambda s: run_views(s, collection=name, limit=20))


def _search_texts(catalogue: GeneratedCatalogue) -> dict[str, str]:
    """Return texts to search for; thousands of titles are of the same work."""
    with transaction() as session:
        name = _collection_names()[catalogue.largest]
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
        "an ISBN": isbn(isbn_row_ids(1)[0]),
        "misspelt": " ".join(word[:3] + word[4:] for word in words),
        "no match": "xylomqphone vwuqtz",
    }


def _time_searches(scope: str, name: str | None, texts: Mapping[str, str]) -> Iterator[CallTiming]:
    for label, text in texts.items():
        yield time_call(f"{label}, {scope}", _search(TitleFilter(text, collection=name)))
    for availability in ("available", "on_hold", "withdrawn"):
        filters = TitleFilter(collection=name, availability=availability)
        yield time_call(f"titles {availability.replace('_', ' ')}, {scope}", _search(filters))
    last_year = TitleFilter(collection=name, purchased_from=_DAY.date() - timedelta(days=365))
    yield time_call(f"titles of a year, {scope}", _search(last_year))
    yield time_call(f"facets, {scope}", lambda s: title_facets(s, name))
    whole = TitleFilter(collection=name)
    yield time_call(f"facets with numbers, {scope}", lambda s: count_facets(s, match_titles(s, whole)))
    audiobooks = TitleFilter(collection=name, format=Format.MP3, language="spa")
    yield time_call(f"facets of a filter, {scope}", lambda s: count_facets(s, match_titles(s, audiobooks)))
    for order in ("-purchased", "title", "author", "-holds"):
        yield time_call(f"titles by {order.lstrip('-')}, {scope}", _search(whole, order))
        yield time_call(f"filtered by {order.lstrip('-')}, {scope}", _search(audiobooks, order))


def _search(filters: TitleFilter, order: str | None = None) -> Callable[[Session], object]:
    parsed = TitleOrder.parse(order) if order else None
    return lambda session: find_titles(session, match_titles(session, filters), parsed)


def time_screens(catalogue: GeneratedCatalogue) -> Iterator[CallTiming]:
    """Time the responses of the dashboard's server, and a scrape of the metrics."""
    from accession.web.app import create_app

    item_id, text = _item_ids(catalogue.largest)[0], quote(_search_texts(catalogue)["a work's title"])
    paths = {
        "overview": "/",
        "collection": f"/collections/{catalogue.largest}",
        "catalogue": "/titles",
        "search": f"/titles?text={text}",
        "title": f"/titles/{item_id}/collections/{catalogue.largest}",
        "runs": "/runs",
        "run": "/runs/1",
        "rejected records": "/rejected-records",
        "reimport": f"/collections/{catalogue.largest}/reimport",
        "metrics": "/metrics",
    }
    transport = httpx.ASGITransport(create_app())
    for name, path in paths.items():
        yield time_call(f"page: {name}", page_request(transport, path), SLOW_CALL_REPETITIONS)


def time_steps(catalogue: GeneratedCatalogue) -> Iterator[CallTiming]:
    """Time one step of each workflow for the largest collection."""
    since = datetime(2014, 1, 1, tzinfo=UTC)
    purchases = build_catalogue(3 * PAGE_SIZE, since, _DAY, unusable=0).purchases
    new = purchases[:PAGE_SIZE]
    known = _with_item_ids(purchases[PAGE_SIZE:], _item_ids(catalogue.largest))[:PAGE_SIZE]
    offset = _middle_offset(catalogue.largest)
    batch = _with_item_ids(purchases, _item_ids_after(catalogue.largest, offset))
    vendor = InProcessVendor([*new, *known, *batch])
    yield from _time_purchases(catalogue, vendor, new, known)
    yield from _time_circulation(catalogue, vendor, offset)
    yield _time_events(catalogue, vendor, known)


def _with_item_ids(purchases: Iterable[Purchase], item_ids: Iterable[str]) -> list[Purchase]:
    return [
        replace(purchase, item_id=item_id) for purchase, item_id in zip(purchases, item_ids, strict=False)
    ]


def _time_purchases(
    catalogue: GeneratedCatalogue, vendor: InProcessVendor, new: list[Purchase], known: list[Purchase]
) -> Iterator[CallTiming]:
    def import_page(purchases: list[Purchase]) -> Step:
        document = marc_collection(purchases, "alder", _DAY)

        def step(session: Session) -> tuple[int, ...]:
            collection = session.get_one(Collection, catalogue.largest)
            api = vendor.api(collection, document=document)
            importer = BibliothecaPurchaseRecordImporter(session, collection, api)
            return importer.import_day(ImportCursor(_DAY), _DAY + timedelta(days=1)).outbox_ids

        return step

    yield time_call("a page of new titles", import_page(new))
    _commit_and_apply(import_page(known))
    yield time_call("a page of known titles", import_page(known))


def _time_circulation(
    catalogue: GeneratedCatalogue, vendor: InProcessVendor, offset: int
) -> Iterator[CallTiming]:
    def step(session: Session) -> tuple[int, ...]:
        collection = session.get_one(Collection, catalogue.largest)
        updater = BibliothecaCirculationUpdater(session, collection, vendor.api(collection))
        return updater.update_batch(offset).outbox_ids

    yield time_call("a batch, all changed", step)
    _commit_and_apply(step)
    yield time_call("a batch, unchanged", step)


def _time_events(catalogue: GeneratedCatalogue, vendor: InProcessVendor, known: list[Purchase]) -> CallTiming:
    moments = [_DAY + timedelta(seconds=second) for second in range(_EVENTS)]
    events = [
        Event(f"new-{second}", EventType.CHECKOUT, moment, purchase.item_id, purchase.isbn, "")
        for second, (moment, purchase) in enumerate(zip(moments, known, strict=True))
    ]
    document = event_batch(events, "alder", _DAY, with_library=False)

    def step(session: Session) -> object:
        collection = session.get_one(Collection, catalogue.largest)
        api = vendor.api(collection, document=document)
        importer = BibliothecaEventImporter(session, collection, api)
        return importer.import_time_slice(_DAY, _DAY + timedelta(minutes=5))

    return time_call("a slice of 50 events", step)


def _commit_and_apply(step: Step) -> None:
    """Commit a step and apply its changes, so that the next call of the step finds nothing changed."""
    with transaction() as session:
        outbox_ids = step(session)
    with transaction() as session:
        apply_outbox(session, outbox_ids)


def time_polls(catalogue: GeneratedCatalogue) -> Iterator[CallTiming]:
    """Time the queries that the schedule and progress bars repeat."""
    run = Run(
        collection_id=catalogue.largest,
        workflow=Workflow.CIRCULATION.value,
        state=RunState.RUNNING.value,
        cursor={"offset": _middle_offset(catalogue.largest)},
        records_fetched=0,
        started_at=_DAY,
        updated_at=utc_now(),
    )
    yield time_call("progress of a sweep", lambda s: estimate_progress(s, run))
    yield time_call("pending changes", lambda s: count_pending_changes(s, catalogue.largest))
    yield time_call("latest run", lambda s: ledger.find_latest_run(s, catalogue.largest, Workflow.PURCHASES))
    yield time_call("next starts", list_schedules)
    yield time_call("active runs", ledger.active_runs)
    yield time_call("stalled runs", lambda s: ledger.active_runs(s, stalled_since=utc_now()))
    yield time_call(
        "open a run",
        lambda s: ledger.open_run(s, catalogue.largest, Workflow.EVENTS, "task", {"start": None}),
    )


def time_checks(_: GeneratedCatalogue) -> Iterator[CallTiming]:
    """Time the queries of `accession doctor`."""
    yield time_call("checkpoints in the future", diagnostics.find_future_checkpoints)
    yield time_call("stale outbox rows", lambda s: count_stale_changes(s, utc_now()))
    yield time_call(
        "titles without metadata",
        lambda s: diagnostics.find_titles_without_metadata(s, list_collections(s)),
        SLOW_CALL_REPETITIONS,
    )


def _collection_names() -> dict[int, str]:
    with transaction() as session:
        return {row.id: row.name for row in session.execute(select(Collection.id, Collection.name))}


def _select_identifiers(collection_id: int) -> Any:
    return (
        select(Identifier.id, Identifier.identifier)
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .where(LicensePool.collection_id == collection_id, LicensePool.data_source == DATA_SOURCE)
        .order_by(Identifier.id)
    )


def _item_ids(collection_id: int) -> list[str]:
    """Return ids of distinct titles that the collection holds, selected at random, popular titles first."""
    with transaction() as session:
        item_ids = [row.identifier for row in session.execute(_select_identifiers(collection_id))]
    rng = seeded_random("held")
    return list(dict.fromkeys(item_ids[int(len(item_ids) * rng.random() ** 2)] for _ in range(4 * PAGE_SIZE)))


def _middle_offset(collection_id: int) -> int:
    """Return the id of the identifier after which the middle batch of a circulation run begins."""
    with transaction() as session:
        ids = [row.id for row in session.execute(_select_identifiers(collection_id))]
    return int(ids[len(ids) // 2 // MAX_ITEMS * MAX_ITEMS - 1])


def _item_ids_after(collection_id: int, offset: int) -> list[str]:
    """Return the item ids of the batch that begins after `offset`."""
    with transaction() as session:
        query = _select_identifiers(collection_id).where(Identifier.id > offset).limit(MAX_ITEMS)
        return [row.identifier for row in session.execute(query)]


def main() -> None:
    """Generate the catalogue, time everything, and print the figures."""
    titles = read_titles_option(__doc__)
    # Exit in the regular way, so that servers end and the database is deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with database_and_broker(durable=False, log_level="warning"):
        configure_logging(get_settings())
        start = time.monotonic()
        catalogue = fill_database(engine(), titles)
        refresh_all()
        seconds = time.monotonic() - start
        print(f"{catalogue.pools:,} titles and {catalogue.runs:,} runs generated in {seconds:.0f} s")
        print(f"{'':34}{'best':>8}{'median':>9}{'worst':>9}{'database':>10}{'vendor':>8}  statements")
        timings = []
        for timing in time_all(catalogue):
            timings.append(timing)
            print_timing(timing)
    print_plans(timings)
    figures = [asdict(replace(timing, plans=())) for timing in timings]
    print(json.dumps({"titles": titles, "seconds": round(seconds), "figures": figures}))


def print_timing(timing: CallTiming) -> None:
    """Print one row of the table."""
    print(
        f"{timing.name:34}{timing.best_ms:8.1f}{timing.median_ms:9.1f}{timing.worst_ms:9.1f}"
        f"{timing.database_ms:10.1f}{timing.vendor_ms:8.1f}{timing.statements:12}",
        flush=True,
    )


def print_plans(timings: Iterable[CallTiming]) -> None:
    """Print the query plans of slow calls."""
    for timing in timings:
        for plan in timing.plans:
            print(
                f"\nPlan of a slow statement (the call takes over {SLOW_CALL_MS} ms), {timing.name}:\n{plan}"
            )


if __name__ == "__main__":
    main()
