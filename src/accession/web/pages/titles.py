"""Pages of the catalogue: the list of titles, and one title with its use, MARC records and history."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection, list_collections
from accession.catalog.marc import audience_notes, series_statements
from accession.catalog.purchase_records import purchase_record_views
from accession.catalog.search import TitleCount, count_matches, find_titles, match_titles, previous_cursor
from accession.catalog.title_details import TitleDetails, title_details
from accession.catalog.title_filter import TitleFilter
from accession.catalog.title_history import title_history
from accession.catalog.title_order import SortKey, TitleOrder
from accession.catalog.titles import TitleView, count_titles, find_title, title_views
from accession.core.labels import value_label
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.db.models import Collection, PoolStatus
from accession.exports.templates import fill_vendor_url
from accession.reports.loans import last_months
from accession.web.pages.charts import DataPoint
from accession.web.pages.rendering import render
from accession.web.parameters import RowId, TitleId
from accession.web.principal import Viewer
from accession.web.title_list import TitleListAddress, list_facets

router = APIRouter(prefix="/titles", include_in_schema=False)

# The first click on a heading sorts texts from A to Z, and all else from the newest or largest.
_ASCENDING_KEYS = (SortKey.TITLE, SortKey.AUTHOR)
_SORT_LABELS = {
    SortKey.PURCHASED: "Purchased",
    SortKey.TITLE: "Title",
    SortKey.AUTHOR: "Author",
    SortKey.HOLDS: "Holds",
}
_MONTHS_OF_USE = 24
# Further values of a facet are shown on request.
_MAX_OPTIONS = 8
# Conditions that have a field in the form; the form keeps all others.
_FORM_FIELDS = ("text", "purchased_from", "purchased_until", "with_warnings")
_CONDITION_LABELS = {
    "text": "Search: {}",
    "purchased_from": "Purchased from {}",
    "purchased_until": "Purchased until {}",
    "with_warnings": "With warnings",
    "subject": "Subject: {}",
    "lacks": "Without {}",
    "unused_since": "Not borrowed or purchased since {}",
    "first_purchased_from": "First purchased from {}",
    "first_purchased_until": "First purchased until {}",
    "also_in": "Also in {}",
}


@router.get("")
def search(request: Request, _: Viewer) -> Response:
    """List the titles that the address selects; reports link to lists with further conditions."""
    address = TitleListAddress.parse(request.query_params)
    # A search begins with the best matches.
    order = address.order or (None if address.text else TitleOrder())
    with transaction() as session:
        filters = address.to_filter(session)
        matches = match_titles(session, filters)
        page = find_titles(session, matches, address.order, cursor=address.cursor or None)
        conditions = _conditions(address, filters)
        previous = None
        if address.cursor:
            cursor = previous_cursor(session, matches, address.order, address.cursor)
            previous = address.path(cursor=cursor or "")
        return render(
            request,
            "titles.html",
            address=address,
            results=page,
            previous_path=previous,
            next_path=address.path(cursor=page.next) if page.next else None,
            facets=list_facets(session, matches),
            max_options=_MAX_OPTIONS,
            conditions=[(label, path) for label, path, _ in conditions],
            suggestions=_suggestions(session, conditions) if not page.titles else [],
            clear_path=address.path(**dict.fromkeys(address.filters)),
            kept=[(name, text) for name, text in address.parameters().items() if name not in _FORM_FIELDS],
            order=order,
            sort_labels=_SORT_LABELS,
            sort_path=lambda key: _sort_path(address, order, SortKey(key)),
            collection_ids={each.name: each.id for each in list_collections(session)},
            is_empty=not page.titles and not count_titles(session),
        )


def _conditions(address: TitleListAddress, filters: TitleFilter) -> list[tuple[str, str, TitleFilter]]:
    """Return each condition's description, and the path and the filter without it."""
    names, without = {"collection": filters.collection, "also_in": filters.also_in}, TitleFilter()
    conditions = []
    for name, value in address.filters.items():
        shown = names.get(name) or value_label(name, str(value))
        others: dict[str, Any] = {name: getattr(without, name)}
        path = address.path(**{name: None})
        conditions.append((_CONDITION_LABELS.get(name, "{}").format(shown), path, replace(filters, **others)))
    return conditions


def _suggestions(
    session: Session, conditions: Iterable[tuple[str, str, TitleFilter]]
) -> list[tuple[str, str, TitleCount]]:
    """Return the conditions without which titles match: description, path without it, and their number."""
    counted = (
        (label, path, count_matches(session, match_titles(session, others)))
        for label, path, others in conditions
    )
    return [(label, path, total) for label, path, total in counted if total.number]


def _sort_path(address: TitleListAddress, order: TitleOrder | None, key: SortKey) -> str:
    """Return the path that sorts by the key; by that of the present order, in the other direction."""
    is_present = order is not None and order.key is key
    is_descending = not order.is_descending if order and is_present else key not in _ASCENDING_KEYS
    return address.path(sort=str(TitleOrder(key, is_descending)))


@router.get("/{identifier}/collections/{collection_id}")
def show_title(request: Request, _: Viewer, identifier: TitleId, collection_id: RowId) -> Response:
    """Show a title of a collection."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        title = find_title(session, collection.name, identifier)
        records = purchase_record_views(session, collection.name, identifier)
        details = title_details(session, collection, identifier, last_months(_MONTHS_OF_USE))
        return render(
            request,
            "title.html",
            title=title,
            collection=collection,
            records=records,
            series=series_statements(records[-1].fields) if records else [],
            audience_notes=audience_notes(records[-1].fields) if records else [],
            details=details,
            charts=_charts(details),
            others=_other_holdings(session, collection, identifier),
            links=_links(collection, title),
            vendor_url=fill_vendor_url(get_settings().title_url_template, collection.library_id, identifier),
            history=title_history(session, collection.name, identifier),
        )


def _charts(details: TitleDetails) -> list[tuple[str, str, list[DataPoint]]]:
    """Return name, unit and points of each chart; none for a title that was not used in these months."""
    if not any(month.loans or month.holds for month in details.months):
        return []
    loans = [DataPoint(f"{month.month:%Y-%m}", month.loans) for month in details.months]
    holds = [DataPoint(f"{month.month:%Y-%m}", month.holds) for month in details.months]
    return [("Loans per month", "loans", loans), ("Holds placed per month", "holds", holds)]


def _other_holdings(session: Session, collection: Collection, identifier: str) -> list[tuple[int, TitleView]]:
    """Return the title in each other collection that holds it, with the collection's id, by name."""
    ids = {each.name: each.id for each in list_collections(session)}
    titles = title_views(session, identifiers=[identifier])
    others = [(ids[title.collection], title) for title in titles if title.collection != collection.name]
    return sorted(others, key=lambda each: each[1].collection.casefold())


def _links(collection: Collection, title: TitleView) -> list[tuple[str, str]]:
    """Return label and path of each download; a withdrawn title is in no OPDS feed."""
    name = quote(title.identifier, safe="")
    record = f"/api/v1/titles/{name}/collections/{collection.id}/marc"
    entry = f"/opds/v2/collections/{collection.id}/publications/{name}"
    links = [("MARC 21", record), ("MARCXML", f"{record}?format=marcxml"), ("OPDS entry", entry)]
    return links if title.status != PoolStatus.EXHAUSTED else links[:-1]
