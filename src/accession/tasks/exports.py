"""The task that writes a scheduled export (setting `ACCESSION_EXPORTS`)."""

import structlog

from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.settings import ScheduledExport, get_settings
from accession.db.engine import snapshot, transaction
from accession.exports.files import TIME_FORMAT, join_url, prune_old_files, write_file_atomically
from accession.exports.formats import find_format
from accession.exports.selection import parse_since, select_titles
from accession.notifications.events import record_export
from accession.tasks.app import app
from accession.tasks.outages import retry_while_unavailable

log = structlog.get_logger(__name__)


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def run_export(name: str) -> None:
    """Write a new file of the named export, then delete its oldest files.

    An error that an operator has to fix is logged in one line; existing files stay.
    """
    export = next((each for each in get_settings().exports if each.name == name), None)
    if export is None:
        log.warning("export is not configured", export=name)
        return
    try:
        file, titles = retry_while_unavailable(lambda _: _write(export))
        prune_old_files(export.target, f"{export.name}-", export.keep)
    except UserError as error:
        log.error("export failed", export=name, reason=str(error))
        _record(name, str(error))
        return
    except Exception as error:
        _record(name, f"An unexpected error occurred ({type(error).__name__}): see the log of the workers.")
        raise
    _record(name)
    log.info("export written", export=name, file=file, titles=titles)


def _record(name: str, error: str | None = None) -> None:
    with transaction() as session:
        record_export(session, name, error=error)


def _write(export: ScheduledExport) -> tuple[str, int]:
    """Write the export and return the file's name and its number of titles."""
    export_format = find_format(export.format)
    since = None if export.since is None else parse_since(export.since)
    file = f"{export.name}-{utc_now():{TIME_FORMAT}}{export_format.suffix}"
    with snapshot() as session:
        titles = select_titles(session, export.collections, since)
        with write_file_atomically(join_url(export.target, file)) as out:
            return file, export_format.write(session, titles, out, export.options, lambda _: None)
