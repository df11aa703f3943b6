"""Overview page: the health of every collection."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accession.catalog.verification import count_open_findings
from accession.core.workflow import SCHEDULED_WORKFLOWS
from accession.db.engine import transaction
from accession.runs.health import HealthState, collection_health
from accession.web.pages.rendering import render
from accession.web.principal import Viewer

router = APIRouter(include_in_schema=False)


@router.get("/")
def overview(request: Request, _: Viewer) -> Response:
    """Show every collection, failing ones first."""
    with transaction() as session:
        collections = collection_health(session)
        findings = count_open_findings(session)
    counts = {state: sum(c.health is state for c in collections) for state in HealthState}
    return render(
        request,
        "overview.html",
        collections=collections,
        counts=counts,
        findings={name: sum(numbers.values()) for name, numbers in findings.items()},
        workflows=SCHEDULED_WORKFLOWS,
        titles=sum(collection.titles for collection in collections),
    )
