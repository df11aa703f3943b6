"""API endpoints under `/reports`: list the reports, and read one as JSON or CSV."""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from accession.core.clock import utc_now
from accession.db.engine import snapshot, transaction
from accession.reports.files import write_csv
from accession.reports.model import ColumnKind, Report, ReportRequest
from accession.reports.registry import REPORTS, find_report
from accession.web.api.schemas import Page, problem_responses
from accession.web.parameters import NO_NUL, CollectionFilter, Offset, collection_name
from accession.web.principal import Viewer
from accession.web.streaming import stream_output

router = APIRouter(prefix="/reports", tags=["reports"])

# Each running download holds a database connection; further ones wait.
_MAX_CONCURRENT_DOWNLOADS = 3
_download_slots = threading.BoundedSemaphore(_MAX_CONCURRENT_DOWNLOADS)

ParameterText = Annotated[str | None, Query(max_length=20, pattern=NO_NUL)]


@dataclass(frozen=True)
class ColumnView:
    """A column of a report; a report can be sorted by those that are sortable."""

    name: str
    label: str
    kind: ColumnKind
    is_sortable: bool


@dataclass(frozen=True)
class ParameterView:
    """A query parameter of a report: one of the choices, or a number from `minimum` to `maximum`."""

    name: str
    label: str
    default: int | float | str
    help: str
    choices: tuple[str, ...]
    minimum: float
    maximum: float


@dataclass(frozen=True)
class ReportView:
    """A report: its name in the path, and what it can be given."""

    name: str
    title: str
    summary: str
    default_sort: str
    columns: tuple[ColumnView, ...]
    parameters: tuple[ParameterView, ...]


class ReportPage(Page[dict[str, str | int | float | date | None]]):
    """One page of the rows of a report, each with the values by the columns' names."""

    report: str
    parameters: dict[str, str | int | float]
    total: int = Field(description="Number of all rows.")
    as_of: datetime | None = Field(
        description="Time of the statistics that the report uses; null if they were not computed yet."
    )


@router.get("", responses=problem_responses())
def list_reports(_: Viewer) -> list[ReportView]:
    """List the reports with their columns and parameters."""
    return [_view(report) for report in REPORTS.values()]


def _view(report: Report) -> ReportView:
    return ReportView(
        name=report.name,
        title=report.title,
        summary=report.summary,
        default_sort=report.default_sort,
        columns=tuple(ColumnView(**asdict(column)) for column in report.columns),
        parameters=tuple(ParameterView(**asdict(parameter)) for parameter in report.parameters),
    )


@router.get(
    "/{name}",
    response_model=ReportPage,
    responses={**problem_responses(404, 409), 200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def read_report(
    _: Viewer,
    name: str,
    collection: CollectionFilter = None,
    format: Annotated[  # noqa: A002 - the name of the parameter
        Literal["json", "csv"], Query(description="`csv` returns all rows unless `limit` is given.")
    ] = "json",
    sort: Annotated[
        str | None,
        Query(max_length=50, pattern=NO_NUL, description="A sortable column; `-` before it: descending."),
    ] = None,
    cursor: Offset = 0,
    limit: Annotated[int | None, Query(ge=1, le=200, description="Maximum number of rows.")] = None,
    threshold: ParameterText = None,
    months: ParameterText = None,
    by: ParameterText = None,
    show: ParameterText = None,
    copies: ParameterText = None,
    lacks: ParameterText = None,
) -> Any:
    """Return the rows of a report; which of the parameters it has is in the list of reports."""
    report = find_report(name)
    values = {
        "threshold": threshold,
        "months": months,
        "by": by,
        "show": show,
        "copies": copies,
        "lacks": lacks,
    }
    with transaction() as session:
        request = report.request(
            collection=collection_name(session, collection),
            parameters={key: value for key, value in values.items() if value is not None},
            sort=sort,
            offset=cursor,
            limit=limit if format == "csv" else limit or 50,
        )
        if format == "json":
            result = report.read(session, request)
            rows = [dict(row.values) for row in result.rows]
            end = cursor + len(rows)
            return ReportPage(
                items=rows,
                next=str(end) if rows and end < result.total else None,
                report=report.name,
                parameters=dict(request.parameters),
                total=result.total,
                as_of=result.as_of,
            )
    return _csv_response(report, request)


def _csv_response(report: Report, request: ReportRequest) -> Response:
    def write(out: BinaryIO) -> None:
        with _download_slots, snapshot() as session:
            write_csv(report, report.read(session, request).rows, out)

    headers: Mapping[str, str] = {
        "Content-Disposition": f'attachment; filename="{report.name}-{utc_now():%Y-%m-%d}.csv"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(stream_output(write), media_type="text/csv; charset=utf-8", headers=headers)
