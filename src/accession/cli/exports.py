"""`accession export`: the catalogue in the forms that other systems load."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from accession.cli import tables
from accession.cli.exporting import InCollections, Output, Since, app, export
from accession.exports.formats import FORMATS

__all__ = ["app"]

app.command("kbart")(tables.export_kbart)
app.command("csv")(tables.export_csv)
app.command("jsonl")(tables.export_json_lines)
app.command("parquet")(tables.export_parquet)
app.command("columns")(tables.list_columns)


class MarcForm(StrEnum):
    """How MARC records are written."""

    MARC21 = "marc21"
    MARCXML = "marcxml"


@app.command("marc")
def export_marc(
    collection: InCollections = None,
    form: Annotated[MarcForm, typer.Option("--format", help="Binary, or XML.")] = MarcForm.MARC21,
    since: Since = None,
    url_template: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Address of a title for 856, with {identifier} in it. Default: the profile's, else the "
            "vendor's own.",
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Fields of your own, as docs/profiles has them for Koha and Evergreen."
        ),
    ] = None,
    availability: Annotated[
        bool, typer.Option("--availability", help="Tell copies and holds in 852.")
    ] = False,
    output: Output = None,
) -> None:
    """Write MARC records that a library system can load: the vendor's own, with your link and your fields.

    With --since, leader/05 tells what is new (n), changed (c) and removed (d).
    """
    options = {"profile": profile, "url_template": url_template, "availability": availability}
    export(FORMATS[form], collection, since, output, options)
