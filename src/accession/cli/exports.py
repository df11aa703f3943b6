"""Commands of `accession export`: write the catalogue in the formats that other systems load."""

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from accession.cli.connect import open_catalogue
from accession.cli.export_output import InCollections, Output, Since, export, print_corrections
from accession.cli.output import AsJson, CsvBom, CsvDelimiter, print_line, print_listing, print_table
from accession.core.byte_sizes import format_bytes
from accession.core.clock import utc_now
from accession.core.csv_files import Delimiter
from accession.exports.files import join_url
from accession.exports.formats import FORMATS
from accession.exports.kbart import file_name
from accession.exports.marc_files import write_marc21, write_marcxml
from accession.exports.marc_validity import CorrectionReport
from accession.exports.tables import COLUMNS, change_column
from accession.runs.scheduled_exports import scheduled_exports

app = typer.Typer(no_args_is_help=True)

Columns = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Columns to write, in this order. Default: all. See: accession export columns",
    ),
]


class MarcFormat(StrEnum):
    """Serialization of MARC records."""

    MARC21 = "marc21"
    MARCXML = "marcxml"


@app.command("marc", epilog="Example: accession export marc --since 7d --output changes.mrc")
def export_marc(
    collection: InCollections = None,
    marc_format: Annotated[
        MarcFormat, typer.Option("--format", help="Binary MARC 21 (ISO 2709), or MARCXML.")
    ] = MarcFormat.MARC21,
    since: Since = None,
    url_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="URL of a title for field 856, containing {identifier}. Default: the profile's, else the "
            "vendor's, else ACCESSION_TITLE_URL_TEMPLATE.",
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with additional fields; docs/profiles has examples for Koha and Evergreen.",
        ),
    ] = None,
    availability: Annotated[
        bool, typer.Option("--availability", help="Write copies and holds to field 852.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="List on standard error what was corrected to make records valid."),
    ] = False,
    output: Output = None,
) -> None:
    """Export MARC records for a library system: the vendor's records with your links and fields.

    A title that several collections hold has one record. With --since, leader position 05 is n for new, c for
    changed and d for removed titles.
    """
    options = {"profile": profile, "url_template": url_template, "availability": availability}
    report = CorrectionReport()
    export_format = FORMATS[marc_format]
    write = {MarcFormat.MARC21: write_marc21, MarcFormat.MARCXML: write_marcxml}[marc_format]
    export(replace(export_format, write=partial(write, report=report)), collection, since, output, options)
    if check:
        print_corrections(report)


@app.command("kbart", epilog="Example: accession export kbart --output /srv/exports")
def export_kbart(
    collection: InCollections = None,
    since: Since = None,
    url_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="URL of a title for title_url, containing {identifier}. Default: "
            "ACCESSION_TITLE_URL_TEMPLATE.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File to write: a path or an fsspec URL, replaced when the export is complete; or a folder, "
            "where the file is named as KBART recommends. Default: standard output.",
        ),
    ] = None,
) -> None:
    """Export a KBART title list for knowledge bases: each title once, sorted by name.

    With --since, an additional last column says whether a title is new, changed or removed.
    """
    if output is not None and Path(output).expanduser().is_dir():
        output = join_url(
            output, file_name(collection or (), utc_now().date(), only_changes=since is not None)
        )
    export(FORMATS["kbart"], collection, since, output, {"url_template": url_template})


@app.command(
    "csv", epilog="Example: accession export csv --columns identifier,title,isbns --output titles.csv"
)
def export_csv(
    collection: InCollections = None,
    since: Since = None,
    columns: Columns = None,
    delimiter: CsvDelimiter = Delimiter.COMMA,
    bom: CsvBom = False,
    output: Output = None,
) -> None:
    """Export CSV in UTF-8 with a header row; cells are escaped so that none is run as a formula.

    With --since, the column `change` says whether a title is new, changed or removed.
    """
    options = {**_column_options(columns), "delimiter": delimiter, "bom": bom}
    export(FORMATS["csv"], collection, since, output, options)


@app.command("jsonl", epilog="Example: accession export jsonl | gzip > titles.jsonl.gz")
def export_json_lines(
    collection: InCollections = None, since: Since = None, columns: Columns = None, output: Output = None
) -> None:
    """Export JSON Lines: one object per line, with the fields described in docs/json.md.

    With --since, the field `change` says whether a title is new, changed or removed.
    """
    export(FORMATS["jsonl"], collection, since, output, _column_options(columns))


@app.command("parquet", epilog="Example: accession export parquet --output s3://bucket/titles.parquet")
def export_parquet(
    collection: InCollections = None, since: Since = None, columns: Columns = None, output: Output = None
) -> None:
    """Export Parquet with typed columns; requires pyarrow, installed with the extra `parquet`.

    With --since, the column `change` says whether a title is new, changed or removed.
    """
    export(FORMATS["parquet"], collection, since, output, _column_options(columns))


@app.command("list")
def list_exports(as_json: AsJson = False) -> None:
    """List the scheduled exports with their last results. Times are in UTC."""
    with open_catalogue() as session:
        exports = scheduled_exports(session)
    print_listing(
        exports,
        [
            ("Export", lambda e: e.name),
            ("Format", lambda e: e.format),
            ("Schedule", lambda e: e.schedule),
            ("State", lambda e: e.state),
            ("Last file", lambda e: e.file),
            ("Written", lambda e: e.written_at),
            ("Titles", lambda e: e.titles),
            ("Size", lambda e: None if e.bytes is None else format_bytes(e.bytes)),
        ],
        as_json=as_json,
        empty_message="No scheduled exports. See [[exports]] in docs/exports.md.",
    )
    if not as_json:
        for each in exports:
            if each.problem:
                print_line(f"{each.name}: {each.problem}", style="red")


@app.command("columns")
def list_columns() -> None:
    """List the columns that csv, jsonl and parquet can contain."""
    print_table(
        [*COLUMNS, change_column(utc_now())],
        [
            ("Column", lambda c: c.name),
            ("Type", lambda c: c.kind.value),
            ("Description", lambda c: c.description),
        ],
        empty_message="",
    )


def _column_options(columns: str | None) -> Mapping[str, Any]:
    return {} if columns is None else {"columns": [name.strip() for name in columns.split(",")]}
