"""The task that deletes old rows and records the sizes of the tables."""

from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.db.sizes import record_table_sizes
from accession.runs.retention import KINDS, prune
from accession.tasks.app import app

# A worker process has other work, too. The task of a quarter of an hour later continues.
_SECONDS = 60.0


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def prune_old_rows() -> int:
    """Delete rows that are older than the settings keep them, for a minute at most; return how many."""
    now = utc_now()
    with transaction() as session:
        record_table_sizes(session, now)
    return sum(prune(KINDS, get_settings(), now, seconds=_SECONDS).values())
