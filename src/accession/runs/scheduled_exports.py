"""Scheduled exports: when they are due, and what has become of the last ones."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.settings import ScheduledExport, get_settings
from accession.db.models import ExportResult

_RESULT_FIELDS = ("ended_at", "error", "file", "written_at", "bytes", "titles")
# An attempt takes at most a quarter of an hour, but may wait for a worker.
_OVERDUE_AFTER = timedelta(hours=1)


@dataclass(frozen=True)
class ExportFile:
    """A file that a scheduled export has written: its name, its size in bytes, and its number of titles."""

    name: str
    bytes: int
    titles: int


@dataclass(frozen=True)
class ScheduledExportView:
    """A scheduled export and its last result.

    Attributes:
        name: Name of the export.
        format: Name of its format.
        schedule: When it is written, in words.
        collections: Names of its collections; all if there are none.
        since: Age of the changes in its files, such as "7d"; None for the whole catalogue.
        state: "never", "succeeded" or "failed".
        ended_at: When the last attempt ended (UTC).
        error: Why the last attempt failed.
        file: Name of the last file that was written; the next three fields are about it.
        written_at: When it was written (UTC).
        bytes: Its size.
        titles: Its number of titles.
        overdue_since: The first time since the last attempt at which the export was due (UTC), if that is at
            least an hour ago.
    """

    name: str
    format: str
    schedule: str
    collections: tuple[str, ...]
    since: str | None
    state: str = "never"
    ended_at: datetime | None = None
    error: str | None = None
    file: str | None = None
    written_at: datetime | None = None
    bytes: int | None = None
    titles: int | None = None
    overdue_since: datetime | None = None

    @property
    def problem(self) -> str | None:
        """Return why the last attempt failed, and that a later one is missing; None without a problem."""
        overdue = (
            f"It was due on {self.overdue_since:%Y-%m-%d at %H:%M} UTC, but no worker has written it: start "
            "the scheduler and a worker."
            if self.overdue_since is not None
            else None
        )
        return " ".join(filter(None, (self.error, overdue))) or None


def store_export_file(session: Session, name: str, file: ExportFile) -> None:
    """Store that the export has written a file now."""
    now = utc_now()
    values = {"file": file.name, "written_at": now, "bytes": file.bytes, "titles": file.titles}
    _store(session, {"name": name, "ended_at": now, "error": None, **values})


def store_export_error(session: Session, name: str, error: str) -> None:
    """Store why the export has failed now; its last file stays known."""
    _store(session, {"name": name, "ended_at": utc_now(), "error": error})


def _store(session: Session, values: Mapping[str, Any]) -> None:
    statement = insert(ExportResult).values(values)
    session.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))


def scheduled_exports(session: Session) -> list[ScheduledExportView]:
    """Return the exports of the settings with their last results, in the order of the settings."""
    exports = get_settings().exports
    query = select(ExportResult).where(ExportResult.name.in_([export.name for export in exports]))
    results = {result.name: result for result in session.scalars(query)}
    return [_view(export, results.get(export.name)) for export in exports]


def scheduled_export(session: Session, export: ScheduledExport) -> ScheduledExportView:
    """Return an export with its last result."""
    return _view(export, session.get(ExportResult, export.name))


def _view(export: ScheduledExport, result: ExportResult | None) -> ScheduledExportView:
    time_zone = get_settings().time_zone
    view = ScheduledExportView(
        name=export.name,
        format=export.format,
        schedule="hourly" if export.at == "hourly" else f"daily at {export.at} ({time_zone})",
        collections=export.collections,
        since=export.since,
    )
    if result is None:
        return view
    due_at = export.cron(time_zone).next_occurrence(result.ended_at)
    return replace(
        view,
        state="succeeded" if result.error is None else "failed",
        overdue_since=due_at if due_at <= utc_now() - _OVERDUE_AFTER else None,
        **{name: getattr(result, name) for name in _RESULT_FIELDS},
    )
