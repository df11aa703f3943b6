"""The catalogue as a table: CSV, JSON Lines and Parquet, each with the columns that are wanted."""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from enum import Enum
from itertools import islice
from operator import attrgetter
from types import ModuleType
from typing import Any, BinaryIO, TypeVar

from accession.catalog.change_feed import FeedTitle
from accession.core.errors import UserError
from accession.core.sanitize import escaped_json
from accession.exports.changes import CHANGE, change_since

# What a reader of Parquet reads at once; here it is in memory as Parquet has it, and a batch of it as we do.
_ROW_GROUP = 10_000
_BATCH = 1000
_Thing = TypeVar("_Thing")
# Spreadsheets calculate a cell that begins so, some also where the sign is a wide one.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


class Kind(Enum):
    """What the values of a column are; any may be missing."""

    TEXT = "text"
    NUMBER = "number"
    TEXTS = "list of texts"
    MOMENT = "moment (UTC)"


@dataclass(frozen=True)
class Column:
    """One thing that is told of each title, under its name in `--json`.

    `value` is a str, an int, a tuple of str or a datetime in UTC, as its kind says, or None.
    """

    name: str
    meaning: str
    kind: Kind
    value: Callable[[FeedTitle], Any]


def _of_title(name: str, meaning: str, kind: Kind = Kind.TEXT) -> Column:
    return Column(name, meaning, kind, attrgetter(f"title.{name}"))


COLUMNS = (
    _of_title("collection", "the collection that holds the title"),
    _of_title("identifier", "the vendor's id of the title"),
    _of_title("title", "as the vendor writes it"),
    _of_title("subtitle", "as the vendor writes it"),
    _of_title("authors", "names in reading order", Kind.TEXTS),
    _of_title("narrators", "names in reading order", Kind.TEXTS),
    _of_title("medium", "book or audiobook"),
    _of_title("format", "epub, epub3, pdf or mp3"),
    _of_title("language", "ISO 639-2, bibliographic form"),
    _of_title("publisher", "as the vendor writes it"),
    _of_title("published", "year, month or day, as far as the vendor tells"),
    _of_title("isbns", "13 digits, the e-edition's own first", Kind.TEXTS),
    _of_title("subjects", "headings", Kind.TEXTS),
    _of_title("page_count", "pages", Kind.NUMBER),
    _of_title("duration_ms", "length of an audiobook in milliseconds", Kind.NUMBER),
    _of_title("description", "plain text, paragraphs separated by line ends"),
    _of_title("cover_url", "the cover picture"),
    _of_title("licenses_owned", "copies", Kind.NUMBER),
    _of_title("licenses_available", "copies that can be borrowed now", Kind.NUMBER),
    _of_title("licenses_reserved", "copies set aside for patrons who waited", Kind.NUMBER),
    _of_title("patrons_in_hold_queue", "people waiting", Kind.NUMBER),
    _of_title("status", "unknown (no counts yet), active, or exhausted (no copy left)"),
    _of_title("purchased_on", "day, or month, of the first purchase"),
    _of_title("updated_at", "when anything of this was last written", Kind.MOMENT),
)


def change_column(since: datetime) -> Column:
    """What has become of each title since the moment (UTC)."""
    meaning = "with --since: new, changed or removed"
    return Column(CHANGE, meaning, Kind.TEXT, lambda title: change_since(since, title).value)


def chosen_columns(names: Sequence[str], since: datetime | None = None) -> tuple[Column, ...]:
    """The columns of these names, in their order; all of them where none is named.

    With `since` what has become of the title is the first column, unless it is named elsewhere. Raises
    `UserError` for a name that there is not, or twice.
    """
    columns = {column.name: column for column in COLUMNS}
    if since is not None:
        columns = {CHANGE: change_column(since), **columns}
        if names and CHANGE not in names:
            names = (CHANGE, *names)
    for name in names:
        if name not in columns:
            raise UserError(_unknown(name, list(columns)))
        if names.count(name) > 1:
            raise UserError(f'The column "{name}" is chosen twice: name each column once.')
    return tuple(columns[name] for name in names or columns)


def _unknown(name: str, names: Sequence[str]) -> str:
    if name == CHANGE:
        return f'The column "{CHANGE}" says what has become of a title since a moment: name one with --since.'
    nearest = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    meant = f', perhaps "{nearest[0]}"' if nearest else ""
    return f'There is no column "{name}"{meant}: choose from {", ".join(names)}.'


def write_csv(
    titles: Iterable[FeedTitle], out: BinaryIO, columns: Sequence[Column], *, bom: bool = False
) -> int:
    """Write CSV as RFC 4180 has it, in UTF-8, the columns' names first; returns how many titles there were.

    Texts of a list are separated by "; ". No cell is a formula: a text that would begin one has an
    apostrophe before it (`without_formula`). `bom` puts a byte order mark first, without which Excel takes
    UTF-8 for the encoding of its country.
    """
    if bom:
        out.write(codecs.BOM_UTF8)
    writer = csv.writer(codecs.getwriter("utf-8")(out), lineterminator="\r\n")
    writer.writerow([column.name for column in columns])
    written = 0
    for title in titles:
        writer.writerow([_cell(column.value(title)) for column in columns])
        written += 1
    return written


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, tuple):
        value = "; ".join(value)
    return without_formula(value) if isinstance(value, str) else value


def without_formula(text: str) -> str:
    """The text, with an apostrophe before it where a spreadsheet would calculate it.

    So has a text that begins with apostrophes and would be one without them: taking the first away again
    always gives back what was.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def write_json_lines(titles: Iterable[FeedTitle], out: BinaryIO, columns: Sequence[Column]) -> int:
    """Write one JSON object a line in UTF-8, as `--json` has it; returns how many titles there were."""
    written = 0
    for title in titles:
        told = {column.name: column.value(title) for column in columns}
        line = json.dumps(told, ensure_ascii=False, default=_iso)
        out.write(f"{escaped_json(line)}\n".encode())
        written += 1
    return written


def write_parquet(titles: Iterable[FeedTitle], out: BinaryIO, columns: Sequence[Column]) -> int:
    """Write Parquet with typed columns, compressed with zstd; returns how many titles there were.

    A row group has 10,000 titles. Raises `UserError` where pyarrow is not installed.
    """
    arrow, parquet = require_pyarrow()
    types = {
        Kind.TEXT: arrow.string(),
        Kind.NUMBER: arrow.int64(),
        Kind.TEXTS: arrow.list_(arrow.string()),
        Kind.MOMENT: arrow.timestamp("us", tz="UTC"),
    }
    schema = arrow.schema([(column.name, types[column.kind]) for column in columns])
    written = 0
    with parquet.ParquetWriter(_Counted(out), schema, compression="zstd") as writer:
        batches = (_record_batch(schema, columns, batch) for batch in _groups(titles, _BATCH))
        for group in _groups(batches, _ROW_GROUP // _BATCH):
            table = arrow.Table.from_batches(group)
            writer.write_table(table, row_group_size=_ROW_GROUP)
            written += table.num_rows
    return written


def _record_batch(schema: Any, columns: Sequence[Column], titles: Sequence[FeedTitle]) -> Any:
    arrow, _ = require_pyarrow()
    values = ([column.value(title) for title in titles] for column in columns)
    arrays = [arrow.array(told, field.type) for told, field in zip(values, schema, strict=True)]
    return arrow.record_batch(arrays, schema=schema)


def require_pyarrow() -> tuple[ModuleType, ModuleType]:
    """pyarrow and its Parquet; raises `UserError` where it is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "Parquet needs pyarrow, which is not installed: get it with `pip install 'accession[parquet]'`."
        ) from None
    return pyarrow, parquet


def _groups(things: Iterable[_Thing], size: int) -> Iterator[list[_Thing]]:
    left = iter(things)
    while group := list(islice(left, size)):
        yield group


class _Counted:
    """A stream that knows how much was written to it, as a pipe does not."""

    closed = False

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._written = 0

    def write(self, data: bytes) -> int:
        self._out.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        self._out.flush()
