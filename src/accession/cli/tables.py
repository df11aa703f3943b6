"""`accession export kbart`, `csv`, `jsonl`, `parquet` and `columns`: the catalogue as tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from accession.cli.exporting import InCollections, Output, Since, export
from accession.cli.output import print_table
from accession.core.clock import utc_now
from accession.exports.files import joined
from accession.exports.formats import FORMATS
from accession.exports.kbart import file_name
from accession.exports.tables import COLUMNS, change_column

Columns = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="These columns, in this order. Default: all. See: accession export columns",
    ),
]


def export_kbart(
    collection: InCollections = None,
    since: Since = None,
    url_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Address of a title for title_url, with {identifier} in it. Default: none, the column stays "
            "empty.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A path or a URL of fsspec, replaced when all is written; or a folder, for a file named as "
            "KBART wants. Default: standard output.",
        ),
    ] = None,
) -> None:
    """Write a KBART list, which knowledge bases load: each title once, by name.

    With --since, a column behind those of KBART tells what is new, changed and removed.
    """
    if output is not None and Path(output).expanduser().is_dir():
        output = joined(output, file_name(collection or (), utc_now().date(), only_changes=since is not None))
    export(FORMATS["kbart"], collection, since, output, {"url_template": url_template})


def export_csv(
    collection: InCollections = None,
    since: Since = None,
    columns: Columns = None,
    bom: Annotated[
        bool, typer.Option("--bom", help="Begin with a byte order mark, by which Excel knows UTF-8.")
    ] = False,
    output: Output = None,
) -> None:
    """Write CSV in UTF-8, the names of the columns first; no cell is a formula.

    With --since, the column `change` tells what is new, changed and removed.
    """
    export(FORMATS["csv"], collection, since, output, {**_chosen(columns), "bom": bom})


def export_json_lines(
    collection: InCollections = None, since: Since = None, columns: Columns = None, output: Output = None
) -> None:
    """Write JSON Lines: an object a line, with the fields that docs/json.md lists.

    With --since, the field `change` tells what is new, changed and removed.
    """
    export(FORMATS["jsonl"], collection, since, output, _chosen(columns))


def export_parquet(
    collection: InCollections = None, since: Since = None, columns: Columns = None, output: Output = None
) -> None:
    """Write Parquet with typed columns; needs pyarrow, the extra `parquet`.

    With --since, the column `change` tells what is new, changed and removed.
    """
    export(FORMATS["parquet"], collection, since, output, _chosen(columns))


def list_columns() -> None:
    """List the columns that csv, jsonl and parquet can have."""
    print_table(
        [*COLUMNS, change_column(utc_now())],
        [
            ("Column", lambda c: c.name),
            ("Type", lambda c: c.kind.value),
            ("What it is", lambda c: c.meaning),
        ],
        when_empty="",
    )


def _chosen(columns: str | None) -> Mapping[str, Any]:
    return {} if columns is None else {"columns": [name.strip() for name in columns.split(",")]}
