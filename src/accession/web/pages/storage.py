"""Page of the storage: sizes of the tables, and for how long their rows are kept."""

from datetime import timedelta

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accession.auth.audit import AuditAction, record
from accession.core.clock import utc_now
from accession.core.settings import ENV_PREFIX, get_settings
from accession.db.engine import transaction
from accession.db.sizes import sizes_by_day
from accession.local.disk import database_disk
from accession.runs.storage import storage_report
from accession.tasks.retention import prune_old_rows
from accession.web.pages.charts import DataPoint
from accession.web.pages.rendering import redirect, render
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/storage", include_in_schema=False)

_CHART_DAYS = 365


@router.get("")
def show_storage(request: Request, _: Viewer) -> Response:
    """Show sizes, growth, and what the next pruning deletes."""
    settings, now = get_settings(), utc_now()
    with transaction() as session:
        report = storage_report(session, settings, now)
        days = sizes_by_day(session, now.date() - timedelta(days=_CHART_DAYS))
    return render(
        request,
        "storage.html",
        report=report,
        disk=database_disk(settings, report.bytes_per_day),
        warning_days=settings.disk_warning_days,
        sizes=[DataPoint(f"{day:%m-%d}", round(size / 1e6, 1)) for day, size in days],
        prefix=ENV_PREFIX,
    )


@router.post("/prune")
def prune(operator: Operator) -> Response:
    """Queue the task that deletes old rows."""
    with transaction() as session:
        record(session, operator.actor, AuditAction.DATABASE_PRUNE, "")
    prune_old_rows.delay()
    return redirect("/storage", "Old rows are being deleted, for a minute at most.")
