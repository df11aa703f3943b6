"""Output of the commands: tables, JSON, and options that several commands share."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Literal, TypeVar

import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from accession.core.csv_files import Delimiter
from accession.core.sanitize import escape_json_line, sanitize

Row = TypeVar("Row")

# Columns whose values are all shorter than this are never wrapped.
_MAX_UNWRAPPED_LENGTH = 14
# Columns of long texts are not narrower.
_MIN_WRAPPED_WIDTH = 9
_GAP = 2
_MAX_NAME_LENGTH = 38
MAX_TITLE_LENGTH = 200
"""Number of characters of a title, or of its authors, that a table shows."""

NO_COLLECTIONS = "No collections yet. Add one with: accession collections add NAME ..."

# Output to a file or a pager is wide: no terminal limits it.
console = Console(width=None if sys.stdout and sys.stdout.isatty() else 160, emoji=False)
error_console = Console(stderr=True, emoji=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with the fields described in docs/json.md.")]
CsvDelimiter = Annotated[
    Delimiter,
    typer.Option(
        "--delimiter", help="Character between the cells of CSV: semicolon where a comma is the decimal sign."
    ),
]
CsvBom = Annotated[
    bool, typer.Option("--bom", help="Begin CSV with a byte order mark, so that Excel recognises UTF-8.")
]
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


def shorten(name: str, limit: int = _MAX_NAME_LENGTH) -> str:
    """Return a name that fits a table: its start, if it is longer than the limit."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


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


@dataclass(frozen=True)
class _Column:
    """A column of a table; `is_long` if some of its cells are long texts, which may be wrapped."""

    heading: str
    cells: Sequence[Text]
    is_numeric: bool
    is_long: bool

    @property
    def width(self) -> int:
        """Return the width in which nothing is wrapped."""
        return max(len(self.heading), *(each.cell_len for each in self.cells))

    @property
    def min_width(self) -> int:
        """Return the width in which only headings and long texts are wrapped."""
        longest = max(each.cell_len for each in self.cells)
        longest_word = max(map(len, self.heading.split()), default=0)
        return max(longest_word, min(longest, _MIN_WRAPPED_WIDTH) if self.is_long else longest)


def print_table(
    rows: Iterable[Row], columns: Sequence[tuple[str, Callable[[Row], Any]]], *, empty_message: str
) -> None:
    """Print rows as a table; `columns` are pairs of a heading and a function of the row.

    Columns of numbers are right-aligned. On a terminal that is too narrow for a table, the fields of each row
    are printed one after another. Without rows, `empty_message` is printed.
    """
    listed = list(rows)
    if not listed:
        console.print(empty_message)
        return
    shown = [_make_column(heading, [value(row) for row in listed]) for heading, value in columns]
    spare = console.width - _GAP * (len(shown) - 1) - sum(column.min_width for column in shown)
    if spare < 0:
        _print_fields(shown)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in zip(shown, _spread(shown, spare), strict=True):
        justify: Literal["left", "right"] = "right" if column.is_numeric else "left"
        table.add_column(column.heading, justify=justify, overflow="fold", width=width)
    for cells in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*cells)
    console.print(table)


def _make_column(heading: str, values: Sequence[Any]) -> _Column:
    cells = list(map(cell, values))
    is_long = any(
        isinstance(value, str | tuple) and len(text) > _MAX_UNWRAPPED_LENGTH
        for value, text in zip(values, cells, strict=True)
    )
    return _Column(heading, cells, any(isinstance(value, int) for value in values), is_long)


def _spread(columns: Sequence[_Column], spare: int) -> Sequence[int]:
    """Return the widths of columns that share the spare width; none is wider than its longest text."""
    widths = [column.min_width for column in columns]
    shortfalls = [column.width - column.min_width for column in columns]
    by_need = sorted(range(len(columns)), key=shortfalls.__getitem__)
    for rest, number in zip(range(len(columns), 0, -1), by_need, strict=True):
        added = min(shortfalls[number], spare // rest)
        widths[number] += added
        spare -= added
    return widths


def _print_fields(columns: Sequence[_Column]) -> None:
    """Print the first field of each row, and below it the others that are not empty."""
    for cells in zip(*(column.cells for column in columns), strict=True):
        fields = [
            Text.assemble((f"{column.heading}: ", "dim"), text)
            for column, text in zip(columns, cells, strict=True)
            if text
        ]
        console.print(Text("; ").join(fields[:1]), style="bold", overflow="fold")
        console.print(Padding(Text("; ").join(fields[1:]), (0, 0, 0, 2)), overflow="fold")


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
