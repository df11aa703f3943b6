"""API endpoints `/storage`: sizes of the tables, and for how long their rows are kept."""

from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter

from accession.auth.audit import AuditAction, record
from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.local.disk import DiskForecast, database_disk
from accession.runs.storage import StorageReport, storage_report
from accession.tasks.retention import prune_old_rows
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/storage", tags=["storage"])


@dataclass(frozen=True)
class Storage:
    """Sizes of the tables, and the disk of the embedded database; null with an external one."""

    tables: StorageReport
    disk: DiskForecast | None


@dataclass(frozen=True)
class QueuedTask:
    """A task that was queued."""

    task_id: str


@router.get("")
def show_storage(_: Viewer) -> Storage:
    """Return the sizes of the tables, their growth, and what the next pruning deletes."""
    settings = get_settings()
    with transaction() as session:
        report = storage_report(session, settings, utc_now())
    return Storage(report, database_disk(settings, report.bytes_per_day))


@router.post("/prune", status_code=HTTPStatus.ACCEPTED)
def prune_storage(operator: Operator) -> QueuedTask:
    """Delete old rows now, for a minute at most, as the schedule does."""
    with transaction() as session:
        record(session, operator.actor, AuditAction.DATABASE_PRUNE, "")
    return QueuedTask(prune_old_rows.delay().id)
