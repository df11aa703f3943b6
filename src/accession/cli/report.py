"""Command `accession report`: print a report as a table, CSV or JSON."""

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from accession.accounts.collections import find_collection
from accession.cli.connect import open_catalogue
from accession.cli.output import (
    MAX_TITLE_LENGTH,
    CsvBom,
    CsvDelimiter,
    InCollection,
    console,
    print_json_list,
    print_table,
    shorten,
)
from accession.core.csv_files import CsvFormat, Delimiter
from accession.core.errors import UserError
from accession.reports.files import write_csv
from accession.reports.formatting import format_cell
from accession.reports.model import Column, Report, ReportRequest, ReportResult, Row
from accession.reports.registry import PARAMETERS, REPORTS, find_report

_TABLE_LIMIT = 50


class OutputFormat(StrEnum):
    """Output format of a report."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def _option(name: str, metavar: str) -> Any:
    return typer.Option(f"--{name}", metavar=metavar, help=PARAMETERS[name])


def report(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Report to print. Default: list the reports.")] = None,
    collection: InCollection = None,
    output_format: Annotated[OutputFormat, typer.Option("--format", help="How to print it.")] = (
        OutputFormat.TABLE
    ),
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column to sort by; -COLUMN sorts in descending order."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"Maximum number of rows. Default: {_TABLE_LIMIT} in a table, else all."),
    ] = None,
    delimiter: CsvDelimiter = Delimiter.COMMA,
    bom: CsvBom = False,
    # Of these, `context` has those that the registry knows.
    threshold: Annotated[str | None, _option("threshold", "NUMBER")] = None,
    months: Annotated[str | None, _option("months", "NUMBER")] = None,
    by: Annotated[str | None, _option("by", "format|language|subject|year")] = None,
    show: Annotated[str | None, _option("show", "all|exhausted|low")] = None,
    copies: Annotated[str | None, _option("copies", "NUMBER")] = None,
    lacks: Annotated[str | None, _option("lacks", "any|metadata|cover")] = None,
) -> None:
    """Print a report on the titles and their use, or list the reports."""
    if name is None:
        _list_reports()
        return
    selected = find_report(name)
    csv_format = CsvFormat(delimiter, bom)
    if output_format is not OutputFormat.CSV and csv_format != CsvFormat():
        raise typer.BadParameter("--delimiter and --bom need --format csv")
    parameters = {each: context.params[each] for each in PARAMETERS if context.params[each] is not None}
    if output_format is OutputFormat.TABLE:
        limit = limit or _TABLE_LIMIT
    request = selected.request(
        collection=collection,
        parameters=parameters,
        sort=sort,
        limit=limit,
    )
    _print_report(selected, request, output_format, csv_format)


def _list_reports() -> None:
    print_table(
        REPORTS.values(),
        [
            ("Report", lambda each: each.name),
            ("Summary", lambda each: each.summary),
            ("Options", lambda each: tuple(f"--{parameter.name}" for parameter in each.parameters)),
        ],
        empty_message="",
    )


def _print_report(
    selected: Report, request: ReportRequest, output_format: OutputFormat, csv_format: CsvFormat
) -> None:
    with open_catalogue() as session:
        if request.collection is not None:
            find_collection(session, request.collection)
        result = selected.read(session, request)
        if result.as_of is None:
            raise UserError(
                "The statistics have not been computed yet: a worker does so within five minutes of its "
                "start, if the scheduler runs too."
            )
        if output_format is OutputFormat.CSV:
            write_csv(selected, result.rows, sys.stdout.buffer, csv_format)
            sys.stdout.buffer.flush()
        elif output_format is OutputFormat.JSON:
            print_json_list(row.values for row in result.rows)
        else:
            _print_table(selected, request, result)


def _print_table(selected: Report, request: ReportRequest, result: ReportResult) -> None:
    columns: list[tuple[str, Callable[[Row], Any]]] = [
        (column.label, _cell_of(column)) for column in selected.columns
    ]
    print_table(result.rows, columns, empty_message="Nothing to report.")
    if request.limit is not None and result.total > request.limit:
        console.print(
            f"[dim]{request.limit:,} of {result.total:,} rows; show more with --limit, all with "
            "--format csv or json.[/dim]"
        )


def _cell_of(column: Column) -> Callable[[Row], Any]:
    def value(row: Row) -> Any:
        content = row.values[column.name]
        return content if isinstance(content, int) else shorten(format_cell(column, row), MAX_TITLE_LENGTH)

    return value
