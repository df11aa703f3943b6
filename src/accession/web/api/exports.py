"""API endpoint `/exports`: the scheduled exports and their last results."""

from fastapi import APIRouter

from accession.db.engine import transaction
from accession.runs.scheduled_exports import ScheduledExportView, scheduled_exports
from accession.web.principal import Viewer

router = APIRouter(prefix="/exports", tags=["exports"])


@router.get("")
def list_scheduled_exports(_: Viewer) -> list[ScheduledExportView]:
    """List the scheduled exports of the settings, with what has become of the last ones."""
    with transaction() as session:
        return scheduled_exports(session)
