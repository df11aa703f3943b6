"""Simulate two years of an installation, pruned week by week, and measure whether anything still grows.

The clock is simulated. Each week the rows that a week of work leaves are loaded: hourly imports of events,
daily imports of purchases and sweeps, with samples and retries, events, and changes of availability. Then the
totals are added up, old rows are deleted with the default settings, and the tables are vacuumed as autovacuum
does. After each quarter of a year the sizes and the pages that people open daily are measured.

- detail: size of the tables whose old rows are deleted: runs, retries, samples, events, histories
- totals: size of the tables that keep sums for years
- pages: milliseconds of the best of nine requests, because another program would disturb the others
- pruning: seconds per week, without the pauses between the batches

Prints a table and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.retention [--collections N] [--events N] [--days N]
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import time_machine
from pydantic import SecretStr
from sqlalchemy import text

from accession.accounts.account import Account
from accession.accounts.collections import add_collection
from accession.catalog.circulation_totals import BATCH_SIZE, roll_up_events
from accession.core.logging import configure_logging
from accession.core.settings import get_settings
from accession.db.engine import engine, transaction
from accession.db.sizes import record_table_sizes, table_sizes
from accession.runs.retention import KINDS, RetentionKind, prune_batch
from benchmarks.call_timing import page_request, time_call
from benchmarks.installation import database_and_broker
from benchmarks.report import print_json, print_table

_WEEK = timedelta(days=7)
_WEEKS_PER_QUARTER = 13
_TITLES = 500
_REPETITIONS = 9
_DETAIL = (
    *("runs", "run_retries", "run_samples", "run_steps", "run_step_totals", "run_requests", "run_log_lines"),
    *("circulation_events", "title_changes"),
)
_TOTALS = ("run_days", "circulation_totals", "circulation_months", "title_statistics", "table_sizes")

_ADD_TITLES = (
    "INSERT INTO identifiers (type, identifier) SELECT 'Bibliotheca ID', 'title' || n"
    " FROM generate_series(1, :titles) n",
    "INSERT INTO license_pools (collection_id, identifier_id, data_source, licenses_owned, snapshot_owned,"
    " status, circulation_as_of, created_at, updated_at)"
    " SELECT c.id, i.id, 'Bibliotheca', 5, 5, 'active', :start, :start, :start"
    " FROM collections c, identifiers i",
)
# 24 imports of events, one of purchases and one sweep on each day; one in a hundred fails.
_ADD_RUNS = """
INSERT INTO runs (collection_id, workflow, task_id, state, cursor, pages, records_fetched, records_stored,
    records_rejected, titles_new, titles_changed, repairs, restarts, pending_lookups, pending_since_page,
    started_at, updated_at, finished_at, error)
SELECT c.id, CASE n WHEN 24 THEN 'purchases' WHEN 25 THEN 'circulation' ELSE 'events' END,
    gen_random_uuid()::text, CASE WHEN random() < 0.01 THEN 'failed' ELSE 'succeeded' END, '{}', 12, 40, 40,
    0, 1, 20, 0, 0, 0, 0, at, at + interval '40 seconds', at + interval '40 seconds', NULL
FROM generate_series(0, 6) day, generate_series(0, 25) n, collections c,
    LATERAL (SELECT CAST(:start AS timestamptz) + day * interval '1 day' + n % 24 * interval '1 hour' AS at)
ORDER BY at
"""
_ADD_SAMPLES = """
INSERT INTO run_samples (run_id, at, pages, records_fetched)
SELECT id, started_at + n * interval '4 seconds', n, 4 * n FROM runs, generate_series(1, 10) n
WHERE started_at >= :start AND workflow <> 'events'
"""
_ADD_RETRIES = """
INSERT INTO run_retries (run_id, at, retry, reason)
SELECT id, started_at, 1, 'The vendor did not respond within 60 seconds.' FROM runs
WHERE started_at >= :start AND id % 50 = 0
"""
# An import of an hour of events has four steps, and each step logs a line.
_ADD_STEPS = """
INSERT INTO run_steps (run_id, number, started_at, outcome, seconds, fetch_seconds, requests, records,
    window_start, window_end)
SELECT id, n, started_at + n * interval '3 seconds', 'stored', 0.3, 0.25, 1, 3, started_at, started_at
FROM runs, generate_series(1, CASE workflow WHEN 'events' THEN 4 ELSE pages END) n WHERE started_at >= :start
"""
_ADD_STEP_TOTALS = """
INSERT INTO run_step_totals (run_id, steps, fetch_seconds, store_seconds, slot_seconds, log_lines)
SELECT id, pages, 3, 1, 0.1, pages FROM runs WHERE started_at >= :start
"""
_ADD_REQUESTS = """
INSERT INTO run_requests (run_id, endpoint, outcome, requests, seconds, max_seconds)
SELECT id, endpoint, 'ok', pages, 3, 0.4 FROM runs, unnest(ARRAY['cloudevents', 'items']) endpoint
WHERE started_at >= :start
"""
_ADD_LOG_LINES = """
INSERT INTO run_log_lines (run_id, at, level, event, page, fields)
SELECT id, started_at + n * interval '3 seconds', 'info', 'slice imported', n,
    jsonb_build_object('start', started_at, 'end', started_at, 'events', 3, 'new', 3, 'rejected', 0)
FROM runs, generate_series(1, CASE workflow WHEN 'events' THEN 4 ELSE pages END) n WHERE started_at >= :start
"""
_ADD_RUN_DAYS = """
INSERT INTO run_days (day, collection_id, workflow, succeeded, failed, interrupted, cancelled, seconds, pages,
    records_fetched, records_stored, records_rejected, titles_new, titles_changed, repairs, restarts)
SELECT date(finished_at AT TIME ZONE 'UTC'), collection_id, workflow,
    count(*) FILTER (WHERE state = 'succeeded'), count(*) FILTER (WHERE state = 'failed'), 0, 0,
    sum(extract(epoch FROM finished_at - started_at)), sum(pages), sum(records_fetched),
    sum(records_stored), sum(records_rejected), sum(titles_new), sum(titles_changed), sum(repairs),
    sum(restarts)
FROM runs WHERE started_at >= :start GROUP BY 1, 2, 3
"""
_ADD_EVENTS = """
INSERT INTO circulation_events (collection_id, event_id, license_pool_id, event_type, occurred_at, counted)
SELECT p.collection_id, gen_random_uuid()::text, p.id, CASE n % 2 WHEN 0 THEN 'CHECKOUT' ELSE 'CHECKIN' END,
    CAST(:start AS timestamptz) + random() * interval '7 days', true
FROM generate_series(1, 7 * :events) n
    JOIN identifiers i ON i.identifier = 'title' || n % :titles + 1
    JOIN license_pools p ON p.identifier_id = i.id
ORDER BY 5
"""
_ADD_CHANGES = """
INSERT INTO title_changes (license_pool_id, changed_at, changes)
SELECT license_pool_id, occurred_at, '{"licenses_available": [3, 2]}' FROM circulation_events
WHERE occurred_at >= :start AND id % 2 = 0
"""
_ADD_DETAILS = (_ADD_STEPS, _ADD_STEP_TOTALS, _ADD_REQUESTS, _ADD_LOG_LINES)
_WEEKLY = (
    *(_ADD_RUNS, _ADD_SAMPLES, _ADD_RETRIES, *_ADD_DETAILS, _ADD_RUN_DAYS),
    *(_ADD_EVENTS, _ADD_CHANGES),
)


@dataclass(frozen=True)
class Figures:
    """Sizes and times at the end of a quarter of a year."""

    quarter: int
    runs: int
    events: int
    history: int
    detail_mb: float
    totals_mb: float
    overview_ms: float
    runs_ms: float
    collection_ms: float
    runs_per_day_ms: float
    storage_ms: float
    pruning_seconds: float


def simulate(collections: int, events: int, days: int) -> Iterator[Figures]:
    """Simulate an installation with events per collection and day, and yield the figures of each quarter."""
    from accession.web.app import create_app

    transport = httpx.ASGITransport(create_app())
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)
    _add_collections(collections, start)
    pruning = 0.0
    for week in range(days // _WEEK.days):
        now = start + (week + 1) * _WEEK
        _load_week(now - _WEEK, events)
        _roll_up(now)
        pruning += _prune(now)
        if (week + 1) % _WEEKS_PER_QUARTER == 0:
            quarter = (week + 1) // _WEEKS_PER_QUARTER
            yield _measure(quarter, now, transport, pruning / _WEEKS_PER_QUARTER)
            pruning = 0.0


def _add_collections(number: int, start: datetime) -> None:
    with transaction() as session:
        for each in range(1, number + 1):
            account = Account(
                collection=f"Library {each:03}",
                library_id=f"library{each}",
                account_id=f"library.{each}",
                account_key=SecretStr("a-key"),
                base_url="http://127.0.0.1:9",
            )
            add_collection(session, account)
        for statement in _ADD_TITLES:
            session.execute(text(statement), {"titles": _TITLES, "start": start})


def _load_week(start: datetime, events: int) -> None:
    with transaction() as session:
        for statement in _WEEKLY:
            session.execute(text(statement), {"start": start, "events": events, "titles": _TITLES})


def _roll_up(now: datetime) -> None:
    rolled_up = BATCH_SIZE
    while rolled_up == BATCH_SIZE:
        with transaction() as session:
            rolled_up = roll_up_events(session, now)


def _prune(now: datetime) -> float:
    """Delete old rows, vacuum, and return the seconds of the deletion."""
    with transaction() as session:
        record_table_sizes(session, now)
    start = time.monotonic()
    for kind in KINDS:
        _prune_kind(kind, now)
    seconds = time.monotonic() - start
    with engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
    return seconds


def _prune_kind(kind: RetentionKind, now: datetime) -> None:
    before, deleted = kind.kept_since(get_settings(), now), 1
    while before is not None and deleted:
        with transaction() as session:
            deleted = prune_batch(session, kind, before, now)


def _measure(quarter: int, now: datetime, transport: httpx.ASGITransport, pruning: float) -> Figures:
    with transaction() as session:
        sizes = {table.name: table for table in table_sizes(session, now)}

    def megabytes(names: tuple[str, ...]) -> float:
        return round(sum(sizes[name].bytes for name in names) / 1e6, 1)

    def page_ms(path: str) -> float:
        return time_call(path, page_request(transport, path), _REPETITIONS).best_ms

    with time_machine.travel(now):
        return Figures(
            quarter=quarter,
            runs=sizes["runs"].rows,
            events=sizes["circulation_events"].rows,
            history=sizes["title_changes"].rows,
            detail_mb=megabytes(_DETAIL),
            totals_mb=megabytes(_TOTALS),
            overview_ms=page_ms("/"),
            runs_ms=page_ms("/runs"),
            collection_ms=page_ms("/collections/1"),
            runs_per_day_ms=page_ms("/runs/days?days=90"),
            storage_ms=page_ms("/storage"),
            pruning_seconds=round(pruning, 1),
        )


def main() -> None:
    """Simulate once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collections", type=int, default=200)
    parser.add_argument("--events", type=int, default=60, help="Events per collection and day.")
    parser.add_argument("--days", type=int, default=728)
    options = parser.parse_args()
    with database_and_broker(durable=False, log_level="warning"):
        configure_logging(get_settings())
        figures = []
        for figure in simulate(options.collections, options.events, options.days):
            print(figure, flush=True)
            figures.append(figure)
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
