"""The tasks that keep the statistics up to date which reports read."""

import time

import structlog

from accession.catalog.circulation_totals import BATCH_SIZE, roll_up_events
from accession.catalog.title_statistics import is_refresh_due, record_refresh, refresh_all
from accession.core.clock import utc_now
from accession.db.engine import transaction
from accession.tasks.app import app

log = structlog.get_logger(__name__)


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def roll_up_circulation_events() -> int:
    """Add all new circulation events to the totals, in batches; return their number."""
    events = 0
    while True:
        with transaction() as session:
            batch = roll_up_events(session, utc_now())
        events += batch
        if batch < BATCH_SIZE:
            break
    if events:
        log.info("circulation events rolled up", events=events)
    return events


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def refresh_statistics() -> bool:
    """Refresh the statistics of all titles, unless the last refresh is too recent; return whether it did."""
    with transaction() as session:
        if not is_refresh_due(session, utc_now()):
            return False
    start = time.monotonic()
    refresh_all()
    seconds = time.monotonic() - start
    with transaction() as session:
        record_refresh(session, utc_now(), seconds)
    log.info("statistics refreshed", seconds=round(seconds, 3))
    return True
