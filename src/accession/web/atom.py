"""Atom feeds of digests under `/digests`, for feed readers (documents in `accession.digests.atom`)."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accession.accounts.collections import get_collection
from accession.db.engine import transaction
from accession.digests.atom import MEDIA_TYPE, build_feed
from accession.web.addresses import absolute_url
from accession.web.conditional import conditional_response
from accession.web.errors import HTTPProblem
from accession.web.parameters import RowId
from accession.web.principal import Reader

# Atom is a standard of its own, so it is not in the API's OpenAPI document.
router = APIRouter(prefix="/digests", include_in_schema=False)


@router.get("/{collection_id}.atom")
def show_feed(request: Request, reader: Reader, collection_id: RowId) -> Response:
    """Return the feed of a collection's digest, or 304 if the client's copy is current."""
    if reader.collection_id not in (None, collection_id):
        raise HTTPProblem(
            403, f'The token "{reader.name}" only allows reading the feeds of another collection.'
        )
    with transaction() as session:
        self_url = absolute_url(request, f"{router.prefix}/{collection_id}.atom{_query(request)}")
        feed = build_feed(session, get_collection(session, collection_id), self_url)
    return conditional_response(request, feed, MEDIA_TYPE)


def _query(request: Request) -> str:
    """Return the query of the request, with its question mark: readers must repeat a token in it."""
    query = request.scope["query_string"].decode("latin-1")
    return f"?{query}" if query else ""
