"""Pages of the catalogue: search, and one title with its MARC records and history."""

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from accession.accounts.collections import get_collection, list_collections
from accession.catalog.facets import title_facets
from accession.catalog.purchase_records import purchase_record_views
from accession.catalog.search import find_titles
from accession.catalog.title_filter import TitleFilter
from accession.catalog.title_history import title_history
from accession.catalog.titles import find_title
from accession.db.engine import transaction
from accession.web.pages.rendering import non_empty_parameters, render
from accession.web.parameters import (
    Availability,
    FormCollection,
    FormDate,
    FormText,
    Lacks,
    RowId,
    TitleId,
    collection_name,
    parse_collection_id,
)
from accession.web.principal import Viewer

router = APIRouter(prefix="/titles", include_in_schema=False)


@router.get("")
def search(
    request: Request,
    _: Viewer,
    text: FormText = "",
    collection: FormCollection = "",
    format: FormText = "",  # noqa: A002 - the catalogue's term
    language: FormText = "",
    availability: Annotated[Availability | Literal[""], Query()] = "",
    purchased_from: FormDate = "",
    purchased_until: FormDate = "",
    with_warnings: bool = False,
    subject: FormText = "",
    lacks: Annotated[Lacks | Literal[""], Query()] = "",
    unused_since: FormDate = "",
    first_purchased_from: FormDate = "",
    first_purchased_until: FormDate = "",
    also_in: FormCollection = "",
    cursor: FormText = "",
) -> Response:
    """Search titles; reports link to lists with filters that the form does not have."""
    filters = non_empty_parameters(
        text=text,
        collection=collection,
        format=format,
        language=language,
        availability=availability,
        purchased_from=purchased_from,
        purchased_until=purchased_until,
        with_warnings="true" if with_warnings else "",
    )
    of_reports = non_empty_parameters(
        subject=subject,
        lacks=lacks,
        unused_since=unused_since,
        first_purchased_from=first_purchased_from,
        first_purchased_until=first_purchased_until,
        also_in=also_in,
    )
    with transaction() as session:
        name = collection_name(session, parse_collection_id(collection))
        other = collection_name(session, parse_collection_id(also_in))
        title_filter = TitleFilter(
            text=text,
            collection=name,
            format=format or None,
            language=language or None,
            availability=availability or None,
            purchased_from=purchased_from or None,
            purchased_until=purchased_until or None,
            with_warnings=with_warnings,
            subject=subject or None,
            lacks=lacks or None,
            unused_since=unused_since or None,
            first_purchased_from=first_purchased_from or None,
            first_purchased_until=first_purchased_until or None,
            also_in=other,
        )
        collections = list_collections(session)
        return render(
            request,
            "titles.html",
            results=find_titles(session, title_filter, cursor=cursor or None),
            facets=title_facets(session, name),
            collections=collections,
            collection_ids={each.name: each.id for each in collections},
            filters={**filters, **of_reports},
            conditions=_describe(of_reports, other),
        )


def _describe(of_reports: Mapping[str, str], other_collection: str | None) -> list[tuple[str, str, str]]:
    """Return name, value and description of each filter that the form does not have."""
    descriptions = {
        "subject": "Subject: {}",
        "lacks": "Without {}",
        "unused_since": "Not borrowed or purchased since {}",
        "first_purchased_from": "First purchased from {}",
        "first_purchased_until": "First purchased until {}",
        "also_in": f"Also in {other_collection}",
    }
    return [(name, value, descriptions[name].format(value)) for name, value in of_reports.items()]


@router.get("/{identifier}/collections/{collection_id}")
def show_title(request: Request, _: Viewer, identifier: TitleId, collection_id: RowId) -> Response:
    """Show a title of a collection."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        return render(
            request,
            "title.html",
            title=find_title(session, collection.name, identifier),
            collection=collection,
            records=purchase_record_views(session, collection.name, identifier),
            history=title_history(session, collection.name, identifier),
        )
