"""API endpoints under `/reports`: list the reports, and read one as JSON or CSV."""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field, WithJsonSchema

from accession.core.clock import utc_now
from accession.core.csv_files import CsvFormat, Delimiter
from accession.core.errors import InvalidInput
from accession.db.engine import snapshot, transaction
from accession.reports.files import write_csv
from accession.reports.model import ColumnKind, Report, ReportRequest
from accession.reports.registry import PARAMETERS, REPORTS, find_report
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Page
from accession.web.parameters import MAX_ID, NO_NUL, Flag, collection_name
from accession.web.principal import Viewer
from accession.web.streaming import stream_output

router = APIRouter(prefix="/reports", tags=["reports"])

# Each running download holds a database connection; further ones wait.
_MAX_CONCURRENT_DOWNLOADS = 3
_download_slots = threading.BoundedSemaphore(_MAX_CONCURRENT_DOWNLOADS)

ReportName = Annotated[
    str, Path(description="Name of the report."), WithJsonSchema({"type": "string", "enum": list(REPORTS)})
]


def _parameter(name: str) -> Any:
    return Field(None, max_length=20, pattern=NO_NUL, description=PARAMETERS[name])


class ReportQuery(BaseModel):
    """The part of a report to return, and parameters of reports."""

    collection: int | None = Field(None, ge=1, le=MAX_ID, description="Only of this collection.")
    format: Literal["json", "csv"] = Field("json", description="`csv` has all rows unless `limit` is given.")
    sort: str | None = Field(
        None, max_length=50, pattern=NO_NUL, description="A sortable column; `-` before it: descending."
    )
    delimiter: Delimiter = Field(Delimiter.COMMA, description="Character between the cells of CSV.")
    bom: Flag = Field(
        False, description="Begin CSV with a byte order mark, from which Excel recognises UTF-8."
    )
    cursor: int = Field(0, ge=0, le=MAX_ID, description="`next` of the previous page.")
    limit: int | None = Field(None, ge=1, le=200, description="Maximum number of rows.")
    threshold: str | None = _parameter("threshold")
    months: str | None = _parameter("months")
    by: str | None = _parameter("by")
    show: str | None = _parameter("show")
    copies: str | None = _parameter("copies")
    lacks: str | None = _parameter("lacks")


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


@router.get("")
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
        parameters=tuple(
            ParameterView(**{**asdict(parameter), "choices": tuple(parameter.choices)})
            for parameter in report.parameters
        ),
    )


@router.get(
    "/{name}",
    response_model=ReportPage,
    responses={**problem_responses(404, 409), 200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def show_report(_: Viewer, name: ReportName, query: Annotated[ReportQuery, Query()]) -> Any:
    """Return the rows of a report; which of the parameters it has is in the list of reports."""
    report = find_report(name)
    csv_format = CsvFormat(query.delimiter, query.bom)
    if query.format != "csv" and csv_format != CsvFormat():
        raise InvalidInput("Only format=csv has the parameters delimiter and bom: add it, or omit them.")
    with transaction() as session:
        request = report.request(
            collection=collection_name(session, query.collection),
            parameters=query.model_dump(include=set(PARAMETERS), exclude_none=True),
            sort=query.sort,
            offset=query.cursor,
            limit=query.limit if query.format == "csv" else query.limit or 50,
        )
        if query.format == "json":
            result = report.read(session, request)
            rows = [dict(row.values) for row in result.rows]
            end = query.cursor + len(rows)
            return ReportPage(
                items=rows,
                next=str(end) if rows and end < result.total else None,
                report=report.name,
                parameters=dict(request.parameters),
                total=result.total,
                as_of=result.as_of,
            )
    return _csv_response(report, request, csv_format)


def _csv_response(report: Report, request: ReportRequest, csv_format: CsvFormat) -> Response:
    def write(out: BinaryIO) -> None:
        with _download_slots, snapshot() as session:
            write_csv(report, report.read(session, request).rows, out, csv_format)

    headers: Mapping[str, str] = {
        "Content-Disposition": f'attachment; filename="{report.name}-{utc_now():%Y-%m-%d}.csv"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(stream_output(write), media_type="text/csv; charset=utf-8", headers=headers)
