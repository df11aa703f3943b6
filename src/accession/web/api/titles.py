"""API endpoints under `/titles`: search the catalogue, show one title, its history and its MARC record."""

from io import BytesIO
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field

from accession.accounts.collections import get_collection
from accession.catalog.feed_filter import FeedFilter
from accession.catalog.pools import TitleNotHeld
from accession.catalog.purchase_records import PurchaseRecordView, purchase_record_views
from accession.catalog.search import find_titles, match_titles
from accession.catalog.title_history import HistoryEntry, title_history
from accession.catalog.titles import TitleView, title_views
from accession.core.errors import NotFound
from accession.db.engine import snapshot, transaction
from accession.exports.formats import find_format
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Page
from accession.web.parameters import MAX_CURSOR_LENGTH, NO_NUL, RowId, TitleId
from accession.web.principal import Viewer
from accession.web.title_list import Facet, SortedTitleListParameters, TitleListParameters, list_facets

router = APIRouter(tags=["titles"])


_MARC_MEDIA_TYPES = ("application/marc", "application/marcxml+xml")


class TitleSearchPage(Page[TitleView]):
    """One page of titles that match a search."""

    total: int = Field(description="Number of matches; a lower bound unless `total_is_exact`.")
    total_is_exact: bool


class TitleSearch(SortedTitleListParameters):
    """Conditions on titles, their order, and the page to return."""

    cursor: str | None = Field(
        None, max_length=MAX_CURSOR_LENGTH, pattern=NO_NUL, description="`next` of the previous page."
    )
    limit: int = Field(50, ge=1, le=200, description="Maximum number of items.")


@router.get("/titles", responses=problem_responses(404, 409))
def search_titles(_: Viewer, search: Annotated[TitleSearch, Query()]) -> TitleSearchPage:
    """Search titles, best match first; without a text, those of the newest purchases first."""
    with transaction() as session:
        matches = match_titles(session, search.to_filter(session))
        page = find_titles(session, matches, search.order, cursor=search.cursor, limit=search.limit)
    return TitleSearchPage(
        items=list(page.titles), next=page.next, total=page.total, total_is_exact=page.total_is_exact
    )


@router.get("/title-facets", responses=problem_responses(404, 409))
def list_title_facets(_: Viewer, conditions: Annotated[TitleListParameters, Query()]) -> list[Facet]:
    """List the values by which titles that match can be filtered further, with the number of titles.

    The condition on a facet itself does not narrow its own values.
    """
    with transaction() as session:
        return list_facets(session, match_titles(session, conditions.to_filter(session)))


@router.get("/titles/{identifier}", responses=problem_responses(404))
def show_title(_: Viewer, identifier: TitleId) -> list[TitleView]:
    """Return a title with all metadata, once per collection that holds it."""
    with transaction() as session:
        titles = list(title_views(session, identifiers=[identifier]))
    if not titles:
        raise NotFound(f'No title has the id "{identifier}".')
    return titles


@router.get("/titles/{identifier}/collections/{collection_id:int}/history", responses=problem_responses(404))
def show_title_history(_: Viewer, identifier: TitleId, collection_id: RowId) -> list[HistoryEntry]:
    """List what happened to the title in the collection, newest first."""
    with transaction() as session:
        return title_history(session, get_collection(session, collection_id).name, identifier)


@router.get(
    "/titles/{identifier}/collections/{collection_id:int}/purchase-records", responses=problem_responses(404)
)
def list_title_purchase_records(
    _: Viewer, identifier: TitleId, collection_id: RowId
) -> list[PurchaseRecordView]:
    """List the vendor's MARC purchase records of the title in the collection, oldest first."""
    with transaction() as session:
        return purchase_record_views(session, get_collection(session, collection_id).name, identifier)


@router.get(
    "/titles/{identifier}/collections/{collection_id:int}/marc",
    responses={
        **problem_responses(404),
        200: {"content": {media_type: {"schema": {"type": "string"}} for media_type in _MARC_MEDIA_TYPES}},
    },
    response_class=Response,
)
def download_title_record(
    _: Viewer,
    identifier: TitleId,
    collection_id: RowId,
    format: Annotated[  # noqa: A002 - the catalogue's term
        Literal["marc21", "marcxml"], Query(description="Binary MARC 21, or MARCXML.")
    ] = "marc21",
) -> Response:
    """Return the MARC record of the title as exports have it."""
    file_format, out = find_format(format), BytesIO()
    with snapshot() as session:
        collection = get_collection(session, collection_id)
        selection = FeedFilter(collections=(collection.id,), identifiers=(identifier,), with_removed=True)
        if not file_format.write(session, selection, out, {}, lambda _: None):
            raise TitleNotHeld(collection.name, identifier)
    file_name = quote(f"{identifier}{file_format.suffix}")
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{file_name}"}
    return Response(out.getvalue(), media_type=file_format.media_type, headers=headers)
