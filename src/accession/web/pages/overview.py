"""Overview page: the health of every collection."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

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
    counts = {state: sum(c.health is state for c in collections) for state in HealthState}
    return render(
        request,
        "overview.html",
        collections=collections,
        counts=counts,
        titles=sum(collection.titles for collection in collections),
    )
