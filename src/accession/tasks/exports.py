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
from accession.runs.scheduled_exports import ExportFile, store_export_error, store_export_file
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
        file = retry_while_unavailable(lambda _: _write(export))
        prune_old_files(export.target, f"{export.name}-", export.keep)
    except UserError as error:
        log.error("export failed", export=name, reason=str(error))
        _record_failure(name, str(error))
        return
    except Exception as error:
        reason = f"An unexpected error occurred ({type(error).__name__}): see the log of the workers."
        _record_failure(name, reason)
        raise
    with transaction() as session:
        record_export(session, name)
        store_export_file(session, name, file)
    log.info("export written", export=name, file=file.name, titles=file.titles)


def _record_failure(name: str, error: str) -> None:
    with transaction() as session:
        record_export(session, name, error=error)
        store_export_error(session, name, error)


def _write(export: ScheduledExport) -> ExportFile:
    export_format = find_format(export.format)
    since = None if export.since is None else parse_since(export.since)
    name = f"{export.name}-{utc_now():{TIME_FORMAT}}{export_format.suffix}"
    with snapshot() as session:
        selection = select_titles(session, export.collections, since)
        with write_file_atomically(join_url(export.target, name)) as out:
            titles = export_format.write(session, selection, out, export.options, lambda _: None)
            return ExportFile(name, out.tell(), titles)
