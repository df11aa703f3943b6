"""Overview page: the health of every collection, failures by cause, and the runs of the last 24 hours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from accession.catalog.verification import count_open_findings
from accession.core.clock import utc_now
from accession.core.workflow import SCHEDULED_WORKFLOWS
from accession.db.engine import transaction
from accession.runs.failures import group_failures
from accession.runs.health import CollectionHealth, collection_health
from accession.runs.overview import CollectionQuery, HealthFilter, SortKey, causes_of
from accession.runs.run_hours import last_hours, run_hours
from accession.web.collection_list import OverviewAddress
from accession.web.health import find_missing_processes
from accession.web.pages.rendering import render
from accession.web.pages.timeline import timeline_lanes
from accession.web.principal import Viewer

router = APIRouter(include_in_schema=False)

_PAGE_SIZE = 50
# The first click on a heading sorts names and states from the start, and everything else from the largest.
_ASCENDING_KEYS = (SortKey.HEALTH, SortKey.NAME)
_TABS: dict[HealthFilter | None, str] = {
    None: "All",
    HealthFilter.FAILING: "Failing",
    HealthFilter.RUNNING: "Running",
    HealthFilter.PAUSED: "Paused",
    HealthFilter.STALE: "Stale",
    HealthFilter.NEVER_IMPORTED: "Never imported",
}
_DAY_TOTALS = ("runs", "failures", "records_fetched", "titles_new")
_SORT_LABELS = {
    "health": "failing first",
    "name": "name",
    "-titles": "most titles",
    "-purchased": "most purchases",
    "purchases": "oldest purchases import",
    "events": "oldest events import",
    "circulation": "oldest circulation refresh",
    "-rejected": "most rejected records",
}


@dataclass(frozen=True)
class _ListPage:
    """A page of the list: the collections on it, the number of all that match, and that of pages."""

    collections: Sequence[CollectionHealth]
    matching: int
    number: int
    pages: int


@router.get("/")
def overview(request: Request, _: Viewer, address: Annotated[OverviewAddress, Query()]) -> Response:
    """Show the collections that the address selects, by default failing ones first."""
    query = address.to_query()
    with transaction() as session:
        collections = collection_health(session)
        matching = query.select(collections)
        findings = count_open_findings(session)
        failures = group_failures(session, collections)
        is_narrowed = len(matching) < len(collections)
        hours = run_hours(session, [each.id for each in matching] if is_narrowed else None)
    page = _list_page(matching, address.page)
    return render(
        request,
        "overview.html",
        address=address,
        query=query,
        collections=collections,
        page=page,
        counts=CollectionQuery().count_by_condition(collections),
        tabs=_TABS,
        tab_counts=query.count_by_condition(collections),
        sort_labels=_SORT_LABELS,
        sort_path=lambda key: _sort_path(address, SortKey(key)),
        selected_cause=next(
            (each.cause for each in failures if each.id == address.cause), "a cause of the past"
        ),
        causes={each.id: causes_of(each) for each in page.collections},
        findings={name: sum(numbers.values()) for name, numbers in findings.items()},
        failures=failures,
        is_narrowed=is_narrowed,
        lanes=timeline_lanes(hours, last_hours()),
        day={name: sum(getattr(hour, name) for hour in hours) for name in _DAY_TOTALS},
        now=utc_now(),
        missing=find_missing_processes(),
        workflows=SCHEDULED_WORKFLOWS,
        titles=sum(collection.titles for collection in collections),
    )


def _list_page(matching: Sequence[CollectionHealth], number: int) -> _ListPage:
    """Return a page of the collections; after the last page, the last one."""
    pages = max(1, -(-len(matching) // _PAGE_SIZE))
    shown = min(number, pages)
    return _ListPage(
        matching[(shown - 1) * _PAGE_SIZE : shown * _PAGE_SIZE], len(matching), number=shown, pages=pages
    )


def _sort_path(address: OverviewAddress, key: SortKey) -> str:
    """Return the path that sorts by the key; by the present key, in the other direction."""
    order = address.to_query().order
    is_descending = key not in _ASCENDING_KEYS if order.key is not key else not order.is_descending
    return address.path(sort=f"{'-' if is_descending else ''}{key}")
