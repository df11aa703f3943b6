"""Pages of reports: the list, and one page per report with its charts and its table."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accession.accounts.collections import list_collections
from accession.core.csv_files import Delimiter
from accession.db.engine import transaction
from accession.reports.formatting import format_cell
from accession.reports.model import Chart, Column, ColumnKind, ListKind, ListLink, Report, Row
from accession.reports.registry import REPORTS, find_report
from accession.web.pages.charts import DataPoint
from accession.web.pages.rendering import non_empty_parameters, render
from accession.web.parameters import FormCollection, FormText, Offset, collection_name, parse_collection_id
from accession.web.principal import Viewer

router = APIRouter(prefix="/reports", include_in_schema=False)

_PAGE_SIZE = 50
_PATHS = {ListKind.TITLES: "/titles", ListKind.REJECTED_RECORDS: "/rejected-records"}
# Filters whose value is the name of a collection, which the pages identify by its id.
_COLLECTION_FILTERS = ("collection", "also_in")
_ASCENDING_KINDS = (ColumnKind.TEXT, ColumnKind.DAY)


@router.get("")
def list_reports(request: Request, _: Viewer) -> Response:
    """List the reports."""
    return render(request, "reports.html", reports=list(REPORTS.values()))


@router.get("/{name}")
def show_report(
    request: Request,
    _: Viewer,
    name: str,
    collection: FormCollection = "",
    sort: FormText = "",
    offset: Offset = 0,
) -> Response:
    """Show a report; its parameters are those of the address."""
    report = find_report(name)
    parameters = {
        parameter.name: request.query_params[parameter.name]
        for parameter in report.parameters
        if request.query_params.get(parameter.name)
    }
    with transaction() as session:
        report_request = report.request(
            collection=collection_name(session, parse_collection_id(collection)),
            parameters=parameters,
            sort=sort or None,
            offset=offset,
            limit=_PAGE_SIZE,
        )
        result = report.read(session, report_request)
        collections = list_collections(session)
        collection_ids = {each.name: each.id for each in collections}
        rows = list(result.rows)
        filters = non_empty_parameters(collection=collection, sort=sort, **parameters)
        return render(
            request,
            "report.html",
            report=report,
            collections=collections,
            filters=filters,
            parameters=report_request.parameters,
            result=result,
            rows=rows,
            delimiters=list(Delimiter),
            charts=[(chart, _points(chart)) for chart in result.charts],
            format_cell=format_cell,
            title_path=_title_path(report, collection_ids),
            list_path=lambda link: _list_path(link, collection_ids),
            sort_path=lambda column: _sort_path(report, column, filters),
            order=_order(report, sort),
            first=offset + 1,
            last=offset + len(rows),
            previous_offset=max(0, offset - _PAGE_SIZE) if offset else None,
            next_offset=offset + _PAGE_SIZE if offset + _PAGE_SIZE < result.total else None,
        )


def _points(chart: Chart) -> list[DataPoint]:
    return [DataPoint(label, value) for label, value in chart.points]


def _title_path(report: Report, collection_ids: Mapping[str, int]) -> Callable[[Row], str | None]:
    """Return a function that returns the path of the title that a row of the report is about, if any."""
    has_titles = any(column.name == "identifier" for column in report.columns)

    def path(row: Row) -> str | None:
        if not has_titles:
            return None
        identifier, collection_id = row.values["identifier"], collection_ids[row.values["collection"]]
        return f"/titles/{quote(identifier, safe='')}/collections/{collection_id}"

    return path


def _list_path(link: ListLink, collection_ids: Mapping[str, int]) -> str:
    parameters: Mapping[str, Any] = {
        name: collection_ids[value] if name in _COLLECTION_FILTERS else value
        for name, value in link.filters.items()
    }
    return f"{_PATHS[link.kind]}?{urlencode(parameters)}"


def _order(report: Report, sort: str) -> tuple[str, bool]:
    """Return the column by which the table is sorted, and whether the order is descending."""
    order = sort or report.default_sort
    return order.removeprefix("-"), order.startswith("-")


def _sort_path(report: Report, column: Column, filters: Mapping[str, str]) -> str:
    """Return the path that sorts by the column: numbers descending first, and again: the other way round."""
    current, is_descending = _order(report, filters.get("sort", ""))
    descends = not is_descending if current == column.name else column.kind not in _ASCENDING_KINDS
    sort = f"-{column.name}" if descends else column.name
    return f"/reports/{report.name}?{urlencode({**filters, 'sort': sort})}"
