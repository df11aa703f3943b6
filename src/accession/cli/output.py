"""Output of the commands: tables, JSON, and options that several commands share."""

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from accession.core.sanitize import escape_json_line, sanitize

Row = TypeVar("Row")

# Columns whose values are all shorter than this are never wrapped.
_MAX_UNWRAPPED_LENGTH = 14
_MAX_NAME_LENGTH = 38

NO_COLLECTIONS = "No collections yet. Add one with: accession collections add NAME ..."

# Output to a file or a pager is wide: no terminal limits it.
console = Console(width=None if sys.stdout and sys.stdout.isatty() else 160, emoji=False)
error_console = Console(stderr=True, emoji=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with the fields described in docs/json.md.")]
InCollection = Annotated[
    str | None, typer.Option("--collection", metavar="NAME", help="Show this collection only.")
]


def parse_day(text: str) -> date:
    """Return the day that the value of an option denotes.

    Raises:
        typer.BadParameter: it is not a day.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a day such as 2023-01-31") from None


def count_noun(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 record" or "2,000 records"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shorten(name: str) -> str:
    """Return a name that fits a table: its start, if it is long."""
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 1]}…"


def list_names(names: Sequence[str], limit: int = 5) -> str:
    """Return names in one line, and the number of those beyond the limit, such as "Ash, Birch and 3 more"."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"{', '.join(map(shorten, names[:limit]))}{more}"


def print_line(text: str, style: str = "") -> None:
    """Print sanitized text that a terminal wraps, not this program, so that it can be searched."""
    console.print(Text(sanitize(text), style=style), soft_wrap=True)


def cell(value: Any) -> Text:
    """Format a value for a table: times in UTC to the minute, None as an empty cell, text sanitized."""
    if value is None:
        return Text("")
    if isinstance(value, datetime):
        return Text(f"{value:%Y-%m-%d %H:%M}")
    if isinstance(value, date):
        return Text(value.isoformat())
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, tuple):
        return Text(sanitize("; ".join(map(str, value))))
    return Text(sanitize(str(value)))


def print_json(value: Any) -> None:
    """Print dataclasses, or lists of them, as JSON; times are ISO 8601 in UTC."""
    lines = TypeAdapter(Any).dump_json(value, indent=2).decode().split("\n")
    sys.stdout.write("\n".join(map(escape_json_line, lines)) + "\n")


def print_json_list(values: Iterable[Any]) -> None:
    """Print a JSON list one element at a time, so that a long list is not held in memory."""
    adapter = TypeAdapter(Any)
    separator = "["
    for value in values:
        sys.stdout.write(f"{separator}\n{escape_json_line(adapter.dump_json(value).decode())}")
        separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def print_table(
    rows: Iterable[Row], columns: Sequence[tuple[str, Callable[[Row], Any]]], *, empty_message: str
) -> None:
    """Print rows as a table; `columns` are pairs of a heading and a function of the row.

    Columns of numbers are right-aligned. Without rows, `empty_message` is printed.
    """
    listed = list(rows)
    if not listed:
        console.print(empty_message)
        return
    long_columns = [heading for heading, value in columns if any(_is_long(value(row)) for row in listed)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, value in columns:
        is_numeric = any(isinstance(value(row), int) for row in listed)
        # On a narrow terminal only long texts are wrapped; numbers, dates and single words stay whole.
        no_wrap = bool(long_columns) and heading not in long_columns
        table.add_column(heading, justify="right" if is_numeric else "left", overflow="fold", no_wrap=no_wrap)
    for row in listed:
        table.add_row(*(cell(value(row)) for _, value in columns))
    console.print(table)


def _is_long(value: Any) -> bool:
    return isinstance(value, str | tuple) and len(cell(value)) > _MAX_UNWRAPPED_LENGTH


def print_listing(
    rows: Iterable[Row],
    columns: Sequence[tuple[str, Callable[[Row], Any]]],
    *,
    as_json: bool,
    empty_message: str,
) -> None:
    """Print rows as a table, or as a JSON list with all their fields."""
    if as_json:
        print_json_list(rows)
    else:
        print_table(rows, columns, empty_message=empty_message)
