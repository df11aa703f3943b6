"""`/api/v1/titles`: the catalogue, searched and title by title."""

from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from accession.accounts.collections import get_collection
from accession.catalog.purchase_records import PurchaseRecordView, purchase_record_views
from accession.catalog.search import TitleFilter, find_titles
from accession.catalog.title_history import HistoryEntry, title_history
from accession.catalog.titles import TitleView, title_views
from accession.core.errors import NotFound
from accession.db.engine import transaction
from accession.web.access import Viewer
from accession.web.api.answers import NO_NUL, CollectionId, Id, Limit, Page, problems
from accession.web.lists import name_of

router = APIRouter(prefix="/titles", tags=["titles"])

Identifier = Annotated[
    str, Path(min_length=1, max_length=100, pattern=NO_NUL, description="The vendor's id of the title.")
]
Availability = Literal["available", "waiting", "gone"]


class FoundTitles(Page[TitleView]):
    """A part of the titles that were found."""

    total: int = Field(description="How many there are; where many, at least so many.")
    total_is_exact: bool


@router.get("", responses=problems(404, 409))
def search_titles(
    _: Viewer,
    text: Annotated[
        str,
        Query(
            max_length=200,
            pattern=NO_NUL,
            description="Words of title or author, an ISBN, or the vendor's id.",
        ),
    ] = "",
    collection: CollectionId = None,
    format: Annotated[str | None, Query(max_length=50, pattern=NO_NUL)] = None,  # noqa: A002 - the word of the catalogue
    language: Annotated[str | None, Query(max_length=50, pattern=NO_NUL)] = None,
    availability: Annotated[
        Availability | None,
        Query(description="A copy is free; none is free; or the collection has none any more."),
    ] = None,
    purchased_from: date | None = None,
    purchased_until: date | None = None,
    cursor: Annotated[
        str | None, Query(max_length=200, pattern=NO_NUL, description="`next` of the page before.")
    ] = None,
    limit: Limit = 50,
) -> FoundTitles:
    """Titles that match, best match first; without a text in the order of their first import."""
    with transaction() as session:
        wanted = TitleFilter(
            text=text,
            collection=name_of(session, collection),
            format=format,
            language=language,
            availability=availability,
            purchased_from=purchased_from,
            purchased_until=purchased_until,
        )
        found = find_titles(session, wanted, cursor=cursor, limit=limit)
    return FoundTitles(
        items=list(found.titles), next=found.next, total=found.total, total_is_exact=found.total_is_exact
    )


@router.get("/{identifier}", responses=problems(404))
def show_title(_: Viewer, identifier: Identifier) -> list[TitleView]:
    """All that is known of a title, in each collection that holds it."""
    with transaction() as session:
        found = list(title_views(session, identifiers=[identifier]))
    if not found:
        raise NotFound(f'No title found with id "{identifier}".')
    return found


@router.get("/{identifier}/collections/{collection_id}/history", responses=problems(404))
def show_history(_: Viewer, identifier: Identifier, collection_id: Id) -> list[HistoryEntry]:
    """What has happened to the title in the collection, newest first."""
    with transaction() as session:
        return title_history(session, get_collection(session, collection_id).name, identifier)


@router.get("/{identifier}/collections/{collection_id}/purchase-records", responses=problems(404))
def show_purchase_records(_: Viewer, identifier: Identifier, collection_id: Id) -> list[PurchaseRecordView]:
    """The vendor's MARC records that say that the collection has bought the title, oldest first."""
    with transaction() as session:
        return purchase_record_views(session, get_collection(session, collection_id).name, identifier)
