"""Time every report on a catalogue of a million titles with totals of fifty million circulation events.

The totals are generated in the database, of three years, and a few titles have most of the loans; the events
themselves are not. Prints a table, the query plans of slow reports and, as the last line, the same figures as
JSON.

Usage: python -m benchmarks.reports [--titles TITLES]
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from accession.catalog.circulation_totals import BATCH_SIZE, roll_up_events
from accession.catalog.search import find_titles, match_titles
from accession.catalog.title_filter import Lack, TitleFilter
from accession.catalog.title_statistics import refresh_all, refresh_groups, refresh_titles
from accession.core.clock import utc_now
from accession.core.logging import configure_logging
from accession.core.settings import get_settings
from accession.db.engine import engine, transaction
from accession.db.models import CirculationTotal, Collection
from accession.db.responsive_connection import wait_without_limit
from accession.reports.model import Report
from accession.reports.registry import REPORTS
from benchmarks.call_timing import CallTiming, time_call
from benchmarks.generated_catalogue import GeneratedCatalogue, fill_database, read_titles_option
from benchmarks.installation import database_and_broker
from benchmarks.million import print_plans, print_timing

EVENTS_PER_TITLE = 50
_YEARS = 3
_REPETITIONS = 5

_FILL = (
    # Three titles in a hundred have holds, one has no copies left, and one lost copies.
    """
    UPDATE license_pools SET
        patrons_in_hold_queue = CASE WHEN id % 33 = 0 THEN 1 + id % 40 ELSE 0 END,
        status = CASE WHEN id % 100 = 1 THEN 'exhausted' ELSE status END,
        licenses_owned = CASE WHEN id % 100 = 1 THEN 0 WHEN id % 100 = 2 THEN 1 ELSE licenses_owned END
    WHERE id % 33 = 0 OR id % 100 IN (1, 2)
    """,
    "DELETE FROM links WHERE edition_id % 200 = 0",
    "UPDATE editions SET content_hash = NULL WHERE id % 500 = 0",
    "UPDATE editions SET format = (ARRAY['epub', 'epub3', 'pdf', 'mp3'])[1 + id % 4],"
    " language = (ARRAY['eng', 'ger', 'fre', 'spa', 'pol'])[1 + id % 5]",
    """
    INSERT INTO circulation_totals (license_pool_id, day, event_type, events)
    SELECT pool, day, event_type, count(*) FROM (
        SELECT
            1 + floor(power(random(), 2) * :titles)::integer AS pool,
            current_date - floor(random() * :days)::integer AS day,
            (ARRAY['CHECKOUT', 'CHECKIN', 'CHECKOUT', 'CHECKIN', 'HOLD', 'RESERVED'])[1 + n % 6] AS event_type
        FROM generate_series(1, :events) AS n
    ) AS event
    GROUP BY day, pool, event_type ORDER BY day
    """,
    """
    INSERT INTO circulation_totals (license_pool_id, day, event_type, events)
    SELECT id, current_date - id % 700, 'REMOVED', 1 FROM license_pools WHERE id % 100 IN (1, 2)
    """,
    """
    INSERT INTO circulation_months (collection_id, month, event_type, events)
    SELECT pool.collection_id, date_trunc('month', total.day)::date, total.event_type, sum(total.events)
    FROM circulation_totals AS total JOIN license_pools AS pool ON pool.id = total.license_pool_id
    GROUP BY 1, 2, 3
    """,
    """
    INSERT INTO title_statistics (license_pool_id, collection_id, loans, loans_last_year, last_loan_on)
    SELECT total.license_pool_id, pool.collection_id, sum(total.events),
        coalesce(sum(total.events) FILTER (WHERE day >= current_date - 365), 0), max(total.day)
    FROM circulation_totals AS total JOIN license_pools AS pool ON pool.id = total.license_pool_id
    WHERE event_type = 'CHECKOUT'
    GROUP BY 1, 2
    """,
    "INSERT INTO statistics_state (id, year_until) VALUES (1, current_date - 1)",
)


@contextmanager
def _timed(label: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"{label}: {time.monotonic() - start:.1f} s", flush=True)


def fill_totals(database: Engine, titles: int) -> None:
    """Generate holds, missing covers and metadata, and the totals of events."""
    numbers = {"titles": titles, "days": _YEARS * 365, "events": titles * EVENTS_PER_TITLE}
    with database.begin() as connection:
        wait_without_limit(connection)
        connection.execute(text("SET LOCAL work_mem = '256MB'"))
        # Without a look-up of the title for each of the totals.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in _FILL:
            used = {name: number for name, number in numbers.items() if f":{name}" in statement}
            connection.execute(text(statement), used)
    _vacuum(database)


def _vacuum(database: Engine) -> None:
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        wait_without_limit(connection)
        connection.execute(text("VACUUM (ANALYZE)"))


def time_all(catalogue: GeneratedCatalogue) -> Iterator[CallTiming]:
    """Time the roll-up, and each report with each order, for all collections and for the largest."""
    yield time_call(f"roll-up of {BATCH_SIZE:,} events", lambda s: roll_up_events(s, utc_now()), _REPETITIONS)
    yield time_call("refresh of a batch", lambda s: refresh_titles(s, catalogue.pools // 2), _REPETITIONS)
    yield time_call("refresh of groups", refresh_groups, 1)
    with transaction() as session:
        largest = session.scalars(select(Collection.name).where(Collection.id == catalogue.largest)).one()
    for scope, name in (("all", None), ("biggest", largest)):
        for report in REPORTS.values():
            for label, call in _calls(report, name):
                yield time_call(f"{label}, {scope}", call, _REPETITIONS)
        for label, filters in _lists(name).items():
            yield time_call(f"titles {label}, {scope}", _list(filters), _REPETITIONS)


def _calls(report: Report, collection: str | None) -> Iterator[tuple[str, Callable[[Session], object]]]:
    for column in report.columns:
        if column.is_sortable:
            yield f"{report.name} by {column.name}", _read(report, collection, f"-{column.name}")
    for parameter in report.parameters:
        for choice in parameter.choices:
            yield f"{report.name} {choice}", _read(report, collection, None, **{parameter.name: choice})


def _read(
    report: Report, collection: str | None, sort: str | None, **parameters: str
) -> Callable[[Session], object]:
    request = report.request(collection=collection, parameters=parameters, sort=sort, limit=50)
    return lambda session: list(report.read(session, request).rows)


def _lists(collection: str | None) -> dict[str, TitleFilter]:
    year_ago = utc_now().date().replace(day=1, year=utc_now().year - 1)
    return {
        "unused": TitleFilter(collection=collection, unused_since=year_ago),
        "without a cover": TitleFilter(collection=collection, lacks=Lack.COVER),
        "of a subject": TitleFilter(collection=collection, subject="FICTION / Heading 7"),
        "first purchased": TitleFilter(
            collection=collection,
            first_purchased_from=year_ago.replace(year=2019),
            first_purchased_until=year_ago.replace(year=2020),
        ),
        "in another collection": TitleFilter(collection=collection, also_in="Library 002"),
    }


def _list(filters: TitleFilter) -> Callable[[Session], object]:
    return lambda session: find_titles(session, match_titles(session, filters))


def main() -> None:
    """Generate the catalogue and the totals, time everything, and print the figures."""
    titles = read_titles_option(__doc__)
    # Exit in the regular way, so that servers end and the database is deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with database_and_broker(durable=False, log_level="warning"):
        configure_logging(get_settings())
        with _timed("catalogue generated"):
            catalogue = fill_database(engine(), titles)
        with _timed("totals generated"):
            fill_totals(engine(), titles)
        with _timed("first refresh"):
            refresh_all()
        _vacuum(engine())
        with _timed("refresh without changes"):
            refresh_all()
        with transaction() as session:
            totals = session.scalar(select(func.count()).select_from(CirculationTotal))
        print(f"{titles:,} titles, {titles * EVENTS_PER_TITLE:,} events in {totals:,} totals")
        print(f"{'':34}{'best':>8}{'median':>9}{'worst':>9}{'database':>10}{'vendor':>8}  statements")
        timings = []
        for timing in time_all(catalogue):
            timings.append(timing)
            print_timing(timing)
    print_plans(timings)
    figures = [asdict(replace(timing, plans=())) for timing in timings]
    print(json.dumps({"titles": titles, "totals": totals, "figures": figures}))


if __name__ == "__main__":
    main()
