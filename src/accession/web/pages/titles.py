"""The catalogue: searched, and title by title."""

from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from accession.accounts.collections import collections_in_use, get_collection
from accession.catalog.purchase_records import purchase_record_views
from accession.catalog.search import TitleFilter, find_titles, title_facets
from accession.catalog.title_history import title_history
from accession.catalog.titles import title_views
from accession.core.errors import NotFound
from accession.db.engine import transaction
from accession.web.access import Viewer
from accession.web.api.answers import NO_NUL, Id
from accession.web.api.titles import Availability, Identifier
from accession.web.lists import Chosen, chosen, name_of
from accession.web.pages.rendering import query_of, render

router = APIRouter(prefix="/titles", include_in_schema=False)

Word = Annotated[str, Query(max_length=200, pattern=NO_NUL)]
Day = Annotated[date | Literal[""], Query()]


@router.get("")
def search(
    request: Request,
    _: Viewer,
    text: Word = "",
    collection: Chosen = "",
    format: Word = "",  # noqa: A002 - the word of the catalogue
    language: Word = "",
    availability: Annotated[Availability | Literal[""], Query()] = "",
    purchased_from: Day = "",
    purchased_until: Day = "",
    cursor: Word = "",
) -> Response:
    """Titles that match."""
    said = query_of(
        text=text,
        collection=collection,
        format=format,
        language=language,
        availability=availability,
        purchased_from=purchased_from,
        purchased_until=purchased_until,
    )
    with transaction() as session:
        name = name_of(session, chosen(collection))
        wanted = TitleFilter(
            text=text,
            collection=name,
            format=format or None,
            language=language or None,
            availability=availability or None,
            purchased_from=purchased_from or None,
            purchased_until=purchased_until or None,
        )
        in_use = collections_in_use(session)
        return render(
            request,
            "titles.html",
            found=find_titles(session, wanted, cursor=cursor or None),
            facets=title_facets(session, name),
            collections=in_use,
            ids={found.name: found.id for found in in_use},
            filters=said,
        )


@router.get("/{identifier}/collections/{collection_id}")
def show_title(request: Request, _: Viewer, identifier: Identifier, collection_id: Id) -> Response:
    """All that is known of a title in a collection."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        found = list(title_views(session, collection=collection.name, identifiers=[identifier]))
        if not found:
            raise NotFound(f'"{collection.name}" has no title with the id "{identifier}".')
        return render(
            request,
            "title.html",
            title=found[0],
            collection=collection,
            records=purchase_record_views(session, collection.name, identifier),
            history=title_history(session, collection.name, identifier),
        )
