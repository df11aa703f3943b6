"""The task that makes titles available on the day from which they are on sale."""

import structlog

from accession.catalog.on_order import update_on_order
from accession.db.engine import transaction
from accession.tasks.app import app

log = structlog.get_logger(__name__)


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def update_titles_on_order() -> int:
    """Correct the status of the titles that have come on sale, or whose date was moved; return how many."""
    updated = 0
    while True:
        with transaction() as session:
            written = update_on_order(session)
        if not written:
            break
        updated += written
    if updated:
        log.info("titles on order updated", titles=updated)
    return updated
