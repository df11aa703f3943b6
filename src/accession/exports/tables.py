"""The catalogue as a table: columns, and writers for CSV, JSON Lines and Parquet."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from enum import Enum
from itertools import islice
from operator import attrgetter
from types import ModuleType
from typing import Any, BinaryIO, TypeVar

from accession.catalog.change_feed import FeedTitle
from accession.core.csv_files import CsvFormat, write_csv_rows
from accession.core.errors import UserError
from accession.core.sanitize import escape_json_line
from accession.exports.changes import CHANGE, change_since

# A Parquet row group is kept in memory in Arrow's format, a batch of it as Python objects.
_ROW_GROUP = 10_000
_BATCH = 1000
T = TypeVar("T")


class Kind(Enum):
    """Type of the values of a column; any value may be missing."""

    TEXT = "text"
    NUMBER = "number"
    TEXTS = "list of texts"
    CONTRIBUTORS = "list of names with roles"
    MOMENT = "moment (UTC)"


@dataclass(frozen=True)
class Column:
    """A column, named as the field of `--json`.

    `value` returns a str, an int, a tuple of str, a tuple of dicts with name and role, or a datetime in UTC
    according to `kind`, or None.
    """

    name: str
    description: str
    kind: Kind
    value: Callable[[FeedTitle], Any]


def _of_title(name: str, description: str, kind: Kind = Kind.TEXT) -> Column:
    return Column(name, description, kind, attrgetter(f"title.{name}"))


COLUMNS = (
    _of_title("collection", "collection that holds the title"),
    _of_title("identifier", "vendor's id of the title"),
    _of_title("title", "as written by the vendor"),
    _of_title("subtitle", "as written by the vendor"),
    _of_title("authors", "names in reading order", Kind.TEXTS),
    _of_title("narrators", "names in reading order", Kind.TEXTS),
    _of_title("editors", "names in reading order", Kind.TEXTS),
    _of_title("translators", "names in reading order", Kind.TEXTS),
    _of_title("illustrators", "names in reading order", Kind.TEXTS),
    Column(
        "other_contributors",
        "names in reading order with roles, such as writer of foreword",
        Kind.CONTRIBUTORS,
        lambda entry: tuple(map(asdict, entry.title.other_contributors)),
    ),
    _of_title("medium", "book or audiobook"),
    _of_title("format", "epub, epub3, pdf or mp3"),
    _of_title("language", "ISO 639-2, bibliographic form"),
    _of_title("audience", "children, young adult or general, by the main BISAC subject"),
    _of_title("publisher", "as written by the vendor"),
    _of_title("published", "year, month or day, as precise as the vendor's data"),
    _of_title("on_sale", "year, month or day from which the title is on sale, likewise"),
    _of_title("isbns", "13 digits, that of the electronic edition first", Kind.TEXTS),
    _of_title("subjects", "headings", Kind.TEXTS),
    _of_title("page_count", "pages", Kind.NUMBER),
    _of_title("duration_ms", "length of an audiobook in milliseconds", Kind.NUMBER),
    _of_title("description", "plain text, paragraphs separated by line breaks"),
    _of_title("cover_url", "URL of the cover image"),
    _of_title("licenses_owned", "copies", Kind.NUMBER),
    _of_title("licenses_available", "copies available for loan", Kind.NUMBER),
    _of_title("licenses_reserved", "copies reserved for patrons with holds", Kind.NUMBER),
    _of_title("patrons_in_hold_queue", "number of holds", Kind.NUMBER),
    _of_title(
        "status", "unknown (no counts yet), on order (not on sale yet), active or exhausted (no copies)"
    ),
    _of_title("purchased_on", "day, or month, of the first purchase"),
    _of_title("warnings", "what the MARC record lacks, because the vendor's was invalid", Kind.TEXTS),
    _of_title("updated_at", "last change of any of these values", Kind.MOMENT),
)


def change_column(since: datetime) -> Column:
    """Return the column with the kind of change of each title since a time (UTC)."""
    description = "with --since: new, changed or removed"
    return Column(CHANGE, description, Kind.TEXT, lambda title: change_since(since, title).value)


def select_columns(names: Sequence[str], since: datetime | None = None) -> tuple[Column, ...]:
    """Return the columns with these names, in their order; all columns if none is named.

    With `since`, the kind of change is the first column unless its position is given.

    Raises:
        UserError: a column does not exist or is named twice.
    """
    columns = {column.name: column for column in COLUMNS}
    if since is not None:
        columns = {CHANGE: change_column(since), **columns}
        if names and CHANGE not in names:
            names = (CHANGE, *names)
    for name in names:
        if name not in columns:
            raise UserError(_unknown_column(name, list(columns)))
        if names.count(name) > 1:
            raise UserError(f'The column "{name}" is given twice: name each column once.')
    return tuple(columns[name] for name in names or columns)


def _unknown_column(name: str, names: Sequence[str]) -> str:
    if name == CHANGE:
        return f'The column "{CHANGE}" needs a start time: give one with --since.'
    nearest = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    suggestion = f' (did you mean "{nearest[0]}"?)' if nearest else ""
    return f'There is no column "{name}"{suggestion}: choose from {", ".join(names)}.'


def write_csv(
    titles: Iterable[FeedTitle], out: BinaryIO, columns: Sequence[Column], csv_format: CsvFormat | None = None
) -> int:
    """Write CSV with a header row and return the number of titles. Texts of a list are separated by "; "."""
    written = 0

    def rows() -> Iterator[Iterable[object]]:
        nonlocal written
        yield [column.name for column in columns]
        for title in titles:
            yield [_cell(column.value(title)) for column in columns]
            written += 1

    write_csv_rows(out, rows(), csv_format)
    return written


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return _format_time(value)
    return "; ".join(map(_cell_text, value)) if isinstance(value, tuple) else value


def _cell_text(value: str | Mapping[str, str]) -> str:
    return value if isinstance(value, str) else "{name} ({role})".format_map(value)


def _format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def write_json_lines(titles: Iterable[FeedTitle], out: BinaryIO, columns: Sequence[Column]) -> int:
    """Write a JSON object per line (UTF-8), with the fields of `--json`, and return the number of titles."""
    written = 0
    for title in titles:
        row = {column.name: column.value(title) for column in columns}
        line = json.dumps(row, ensure_ascii=False, default=_format_time)
        out.write(f"{escape_json_line(line)}\n".encode())
        written += 1
    return written


def write_parquet(titles: Iterable[FeedTitle], out: BinaryIO, columns: Sequence[Column]) -> int:
    """Write Parquet with typed columns, zstd compression and row groups of 10,000 titles.

    Returns:
        The number of titles.

    Raises:
        UserError: pyarrow is not installed.
    """
    arrow, parquet = require_pyarrow()
    types = {
        Kind.TEXT: arrow.string(),
        Kind.NUMBER: arrow.int64(),
        Kind.TEXTS: arrow.list_(arrow.string()),
        Kind.CONTRIBUTORS: arrow.list_(arrow.struct([("name", arrow.string()), ("role", arrow.string())])),
        Kind.MOMENT: arrow.timestamp("us", tz="UTC"),
    }
    schema = arrow.schema([(column.name, types[column.kind]) for column in columns])
    written = 0
    with parquet.ParquetWriter(_PositionTracker(out), schema, compression="zstd") as writer:
        batches = (_record_batch(schema, columns, batch) for batch in _chunks(titles, _BATCH))
        for group in _chunks(batches, _ROW_GROUP // _BATCH):
            table = arrow.Table.from_batches(group)
            writer.write_table(table, row_group_size=_ROW_GROUP)
            written += table.num_rows
    return written


def _record_batch(schema: Any, columns: Sequence[Column], titles: Sequence[FeedTitle]) -> Any:
    arrow, _ = require_pyarrow()
    values = ([column.value(title) for title in titles] for column in columns)
    arrays = [arrow.array(column, field.type) for column, field in zip(values, schema, strict=True)]
    return arrow.record_batch(arrays, schema=schema)


def require_pyarrow() -> tuple[ModuleType, ModuleType]:
    """Import pyarrow and pyarrow.parquet.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "Parquet needs pyarrow, which is not installed: run `pip install 'accession-library[parquet]'`."
        ) from None
    return pyarrow, parquet


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


class _PositionTracker:
    """Binary stream with a position, also for pipes, which have none."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._written = 0

    def write(self, data: bytes) -> int:
        """Write data and advance the position."""
        self._out.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._written

    def flush(self) -> None:
        """Flush the stream."""
        self._out.flush()
