"""The first page: how every collection stands."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accession.db.engine import transaction
from accession.runs.health import Standing, collection_overviews
from accession.web.access import Viewer
from accession.web.pages.rendering import render

router = APIRouter(include_in_schema=False)


@router.get("/")
def overview(request: Request, _: Viewer) -> Response:
    """How every collection stands: those in trouble first."""
    with transaction() as session:
        collections = collection_overviews(session)
    counts = {standing: sum(c.standing is standing for c in collections) for standing in Standing}
    return render(
        request,
        "overview.html",
        collections=collections,
        counts=counts,
        titles=sum(collection.titles for collection in collections),
    )
