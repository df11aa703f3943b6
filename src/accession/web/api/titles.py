"""API endpoints under `/titles`: search the catalogue, show one title and its history."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from accession.accounts.collections import get_collection
from accession.catalog.purchase_records import PurchaseRecordView, purchase_record_views
from accession.catalog.search import find_titles
from accession.catalog.title_filter import TitleFilter
from accession.catalog.title_history import HistoryEntry, title_history
from accession.catalog.titles import TitleView, title_views
from accession.core.errors import NotFound
from accession.db.engine import transaction
from accession.web.api.schemas import Page, problem_responses
from accession.web.parameters import (
    MAX_ID,
    NO_NUL,
    Availability,
    CollectionFilter,
    CursorText,
    FacetFilter,
    Lacks,
    Limit,
    RowId,
    TitleId,
    collection_name,
)
from accession.web.principal import Viewer

router = APIRouter(prefix="/titles", tags=["titles"])


class TitleSearchPage(Page[TitleView]):
    """One page of titles that match a search."""

    total: int = Field(description="Number of matches; a lower bound unless `total_is_exact`.")
    total_is_exact: bool


@router.get("", responses=problem_responses(404, 409))
def search_titles(
    _: Viewer,
    text: Annotated[
        str,
        Query(
            max_length=200,
            pattern=NO_NUL,
            description="Words of the title or author, an ISBN, or the vendor's id.",
        ),
    ] = "",
    collection: CollectionFilter = None,
    format: FacetFilter = None,  # noqa: A002 - the catalogue's term
    language: FacetFilter = None,
    availability: Annotated[
        Availability | None,
        Query(
            description="`available`: a copy is available; `on_hold`: all copies are on loan or there are "
            "holds; `on_order`: it is not on sale yet; `withdrawn`: no copy is left."
        ),
    ] = None,
    purchased_from: date | None = None,
    purchased_until: date | None = None,
    with_warnings: Annotated[
        bool, Query(description="Only titles with a purchase record of which a part was left out.")
    ] = False,
    subject: Annotated[str | None, Query(max_length=200, pattern=NO_NUL)] = None,
    lacks: Annotated[Lacks | None, Query(description="Only titles without metadata, or a cover.")] = None,
    unused_since: Annotated[
        date | None, Query(description="Only titles neither borrowed nor first purchased since this day.")
    ] = None,
    first_purchased_from: date | None = None,
    first_purchased_until: date | None = None,
    also_in: Annotated[
        int | None, Query(ge=1, le=MAX_ID, description="Only titles that this collection holds too.")
    ] = None,
    cursor: CursorText = None,
    limit: Limit = 50,
) -> TitleSearchPage:
    """Search titles, best match first; without a text, in the order of their first import."""
    with transaction() as session:
        title_filter = TitleFilter(
            text=text,
            collection=collection_name(session, collection),
            format=format,
            language=language,
            availability=availability,
            purchased_from=purchased_from,
            purchased_until=purchased_until,
            with_warnings=with_warnings,
            subject=subject,
            lacks=lacks,
            unused_since=unused_since,
            first_purchased_from=first_purchased_from,
            first_purchased_until=first_purchased_until,
            also_in=collection_name(session, also_in),
        )
        page = find_titles(session, title_filter, cursor=cursor, limit=limit)
    return TitleSearchPage(
        items=list(page.titles), next=page.next, total=page.total, total_is_exact=page.total_is_exact
    )


@router.get("/{identifier}", responses=problem_responses(404))
def show_title(_: Viewer, identifier: TitleId) -> list[TitleView]:
    """Return a title with all metadata, once per collection that holds it."""
    with transaction() as session:
        titles = list(title_views(session, identifiers=[identifier]))
    if not titles:
        raise NotFound(f'No title has the id "{identifier}".')
    return titles


@router.get("/{identifier}/collections/{collection_id}/history", responses=problem_responses(404))
def show_history(_: Viewer, identifier: TitleId, collection_id: RowId) -> list[HistoryEntry]:
    """List what happened to the title in the collection, newest first."""
    with transaction() as session:
        return title_history(session, get_collection(session, collection_id).name, identifier)


@router.get("/{identifier}/collections/{collection_id}/purchase-records", responses=problem_responses(404))
def show_purchase_records(_: Viewer, identifier: TitleId, collection_id: RowId) -> list[PurchaseRecordView]:
    """List the vendor's MARC purchase records of the title in the collection, oldest first."""
    with transaction() as session:
        return purchase_record_views(session, get_collection(session, collection_id).name, identifier)
