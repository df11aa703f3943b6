"""Exports on a schedule, as `ACCESSION_EXPORTS` has them."""

import structlog

from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.settings import ScheduledExport, get_settings
from accession.db.engine import snapshot
from accession.exports.files import STAMP, joined, keep_last, replaced
from accession.exports.formats import find_format
from accession.exports.wanted import since_of, wanted_titles
from accession.tasks.app import app
from accession.tasks.outages import outlast_outages

log = structlog.get_logger(__name__)


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def run_export(name: str) -> None:
    """Write the file of the scheduled export of this name, and remove those beyond the last that it keeps.

    What a person has to put right is one line in the log; the files that were there stay.
    """
    planned = next((export for export in get_settings().exports if export.name == name), None)
    if planned is None:
        log.warning("an export is not in the settings any more", export=name)
        return
    try:
        file, titles = outlast_outages(lambda _: _written(planned))
        keep_last(planned.target, f"{planned.name}-", planned.keep)
    except UserError as error:
        log.error("the export has failed", export=name, reason=str(error))
        return
    log.info("the export is written", export=name, file=file, titles=titles)


def _written(planned: ScheduledExport) -> tuple[str, int]:
    """The name of the file, and how many titles are in it."""
    made = find_format(planned.format)
    since = None if planned.since is None else since_of(planned.since)
    file = f"{planned.name}-{utc_now():{STAMP}}{made.suffix}"
    with snapshot() as session:
        wanted = wanted_titles(session, planned.collections, since)
        with replaced(joined(planned.target, file)) as out:
            return file, made.write(session, wanted, out, planned.options, lambda _: None)
