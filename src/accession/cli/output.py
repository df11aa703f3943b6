"""How the commands print: tables for people, JSON for programs, one sentence for errors."""

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from accession.core.sanitize import escaped_json, harmless

Row = TypeVar("Row")

_WORD = 14

NO_COLLECTIONS = "No collections yet. Add one with: accession collections add NAME ..."

# What is piped into a file or a pager is not squeezed to the width of a terminal that is not there.
console = Console(width=None if sys.stdout.isatty() else 160, emoji=False)
error_console = Console(stderr=True, emoji=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with the fields that docs/json.md lists.")]
InCollection = Annotated[
    str | None, typer.Option("--collection", metavar="NAME", help="Only of this collection.")
]


def counted(number: int, thing: str) -> str:
    """As "1 record", "2,000 records"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def cell(value: Any) -> Text:
    """A value as a table shows it: times in UTC to the minute, nothing for None, text made harmless."""
    if value is None:
        return Text("")
    if isinstance(value, datetime):
        return Text(f"{value:%Y-%m-%d %H:%M}")
    if isinstance(value, date):
        return Text(value.isoformat())
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, tuple):
        return Text(harmless("; ".join(map(str, value))))
    return Text(harmless(str(value)))


def print_json(value: Any) -> None:
    """Print dataclasses, or lists of them, as JSON; times are ISO 8601 in UTC."""
    lines = TypeAdapter(Any).dump_json(value, indent=2).decode().split("\n")
    sys.stdout.write("\n".join(map(escaped_json, lines)) + "\n")


def print_json_list(values: Iterable[Any]) -> None:
    """Print a JSON list one element at a time, so that a long listing needs no memory."""
    adapter = TypeAdapter(Any)
    separator = "["
    for value in values:
        sys.stdout.write(f"{separator}\n{escaped_json(adapter.dump_json(value).decode())}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def print_table(
    rows: Iterable[Row], columns: Sequence[tuple[str, Callable[[Row], Any]]], *, when_empty: str
) -> None:
    """Print rows as a table of (heading, value of a row) columns; numbers stand right."""
    kept = list(rows)
    if not kept:
        console.print(when_empty)
        return
    columns_of_text = [heading for heading, value in columns if any(_is_long(value(row)) for row in kept)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, value in columns:
        numbers = any(isinstance(value(row), int) for row in kept)
        # On a narrow terminal long texts give way; numbers, days and words are read at a glance.
        stiff = bool(columns_of_text) and heading not in columns_of_text
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold", no_wrap=stiff)
    for row in kept:
        table.add_row(*(cell(value(row)) for _, value in columns))
    console.print(table)


def _is_long(value: Any) -> bool:
    return isinstance(value, str | tuple) and len(cell(value)) > _WORD


def print_listing(
    rows: Iterable[Row],
    columns: Sequence[tuple[str, Callable[[Row], Any]]],
    *,
    as_json: bool,
    when_empty: str,
) -> None:
    """Print rows as a table, or as JSON with all their fields."""
    if as_json:
        print_json_list(rows)
    else:
        print_table(rows, columns, when_empty=when_empty)
