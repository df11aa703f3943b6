"""Page of the audit log, and its download as a file."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from accession.auth.audit import AuditAction, AuditFilter, audit_entries, read_audit_log, record
from accession.core.clock import utc_now
from accession.db.engine import snapshot, transaction
from accession.exports.audit_log import AuditFormat, write_audit_log
from accession.web.pages.rendering import non_empty_parameters, render
from accession.web.parameters import CursorId, FormDate, FormText
from accession.web.principal import Administrator
from accession.web.streaming import stream_output

router = APIRouter(prefix="/audit", include_in_schema=False)

_PAGE_SIZE = 50
_MEDIA_TYPES = {AuditFormat.CSV: "text/csv; charset=utf-8", AuditFormat.JSON: "application/json"}
_KINDS = list(dict.fromkeys(action.partition(".")[0] for action in AuditAction))
_ACTION_CHOICES = [
    *((kind, f"all of {kind.replace('_', ' ')}") for kind in _KINDS),
    *((action.value, action.value) for action in AuditAction),
]


@router.get("")
def show_audit_log(
    request: Request,
    _: Administrator,
    first_day: FormDate = "",
    last_day: FormDate = "",
    actor: FormText = "",
    action: FormText = "",
    subject: FormText = "",
    before: CursorId = None,
) -> Response:
    """Show the audit log, newest entries first."""
    filters = non_empty_parameters(
        first_day=first_day, last_day=last_day, actor=actor, action=action, subject=subject
    )
    audit_filter = _audit_filter(first_day, last_day, actor, action, subject)
    with transaction() as session:
        entries = audit_entries(session, audit_filter, before_id=before, limit=_PAGE_SIZE + 1)
    return render(
        request,
        "audit.html",
        entries=entries[:_PAGE_SIZE],
        actions=_ACTION_CHOICES,
        filters=filters,
        next_before=entries[_PAGE_SIZE - 1].id if len(entries) > _PAGE_SIZE else None,
    )


@router.get("/download")
def download(
    administrator: Administrator,
    format: Annotated[AuditFormat, Query()],  # noqa: A002 - as in exports
    first_day: FormDate = "",
    last_day: FormDate = "",
    actor: FormText = "",
    action: FormText = "",
    subject: FormText = "",
) -> Response:
    """Download the selected entries."""
    audit_filter = _audit_filter(first_day, last_day, actor, action, subject)
    with transaction() as session:
        record(session, administrator.actor, AuditAction.AUDIT_LOG_EXPORT, details={"format": format})

    def write(out: BinaryIO) -> None:
        with snapshot() as session:
            write_audit_log(read_audit_log(session, audit_filter), out, format)

    headers = {"Content-Disposition": f'attachment; filename="audit-log-{utc_now():%Y-%m-%d}.{format}"'}
    return StreamingResponse(stream_output(write), media_type=_MEDIA_TYPES[format], headers=headers)


def _audit_filter(
    first_day: date | str, last_day: date | str, actor: str, action: str, subject: str
) -> AuditFilter:
    """Return the filter of a form, whose days are in UTC; the last day is included."""
    since = _start_of(first_day) if isinstance(first_day, date) else None
    until = _start_of(last_day) + timedelta(days=1) if isinstance(last_day, date) else None
    return AuditFilter(since, until, actor.strip(), action, subject.strip())


def _start_of(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
