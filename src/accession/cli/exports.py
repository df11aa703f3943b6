"""`accession export`: the catalogue for others to take."""

import typer

from accession.cli import tables

app = typer.Typer(no_args_is_help=True, help="Write the catalogue for other systems and for people.")
app.command("kbart")(tables.export_kbart)
app.command("csv")(tables.export_csv)
app.command("jsonl")(tables.export_jsonl)
app.command("parquet")(tables.export_parquet)
app.command("columns")(tables.export_columns)
