"""CSV, JSON Lines and Parquet exports, read back by independent readers."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any, BinaryIO

import pyarrow
import pytest
import time_machine
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import csv as arrow_csv
from pyarrow import parquet
from sqlalchemy.orm import Session

from accession.catalog.change_feed import FeedTitle, read_feed
from accession.catalog.feed_filter import FeedFilter
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.titles import TitleView
from accession.core.csv_files import CsvFormat, Delimiter
from accession.core.errors import UserError
from accession.core.sanitize import escape_formula
from accession.core.vocabulary import ContributorRole, Format, Medium
from accession.db.models import Collection, LicensePool
from accession.exports.tables import (
    COLUMNS,
    Column,
    select_columns,
    write_csv,
    write_json_lines,
    write_parquet,
)
from tests.fixtures.factories import NOON, apply_titles, make_pool, person, store_title, subject, title_data

NAMES = [column.name for column in COLUMNS]
Write = Callable[[Iterator[FeedTitle], BinaryIO, Sequence[Column]], int]
WRITERS: Sequence[Write] = (write_csv, write_json_lines, write_parquet)

EVERYTHING = FeedFilter()

# A title with a value in every column, as a reader returns it.
KNOWN: dict[str, Any] = {
    "collection": "Alder Library",
    "identifier": "solaris",
    "title": "Solaris, “the ocean”",
    "subtitle": "A novel",
    "authors": ["Stanisław Lem", "Ursula K. Le Guin"],
    "narrators": ["Rita Reader"],
    "editors": ["Ed Itor"],
    "translators": ["Bill Johnston"],
    "illustrators": ["Ann Inker"],
    "other_contributors": [
        {"name": "Ann Inker", "role": "inker"},
        {"name": "Neil Gaiman", "role": "writer of foreword"},
    ],
    "medium": "audiobook",
    "format": "mp3",
    "language": "pol",
    "audience": "general",
    "publisher": 'Wydawnictwo "Iskry"',
    "published": "1961-05",
    "on_sale": "1961-06",
    "isbns": ["9788308068298", "9788308049059"],
    "subjects": ["FICTION / Science Fiction / General", "Oceans"],
    "page_count": 204,
    "duration_ms": 27_120_000,
    "description": "The first paragraph.\nThe second, of a 🌊 that thinks.",
    "cover_url": "https://images.example/1",
    "licenses_owned": 3,
    "licenses_available": 1,
    "licenses_reserved": 1,
    "patrons_in_hold_queue": 4,
    "status": "active",
    "purchased_on": "2024-05-01",
    "warnings": ["Subfield $? of 245 was left out.", "Field 8 was left out."],
    "updated_at": NOON,
}
AS_TEXT = {
    name: "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    for name, value in KNOWN.items()
} | {
    "other_contributors": "Ann Inker (inker); Neil Gaiman (writer of foreword)",
    "updated_at": "2024-05-01T12:00:00Z",
}


@pytest.fixture
def solaris(session: Session, collection: Collection) -> None:
    """Add the title with all values and commit."""
    with time_machine.travel(NOON, tick=False):
        pool = make_pool(session, collection, "solaris")
        record = PurchaseRecordData(pool, lambda: b"marc", "#", warnings=tuple(KNOWN["warnings"]))
        store_purchase_records(session, {PurchaseDate(NOON.date()): [record]})
        title = title_data(
            "solaris",
            title=KNOWN["title"],
            subtitle=KNOWN["subtitle"],
            contributors=(
                person("Lem, Stanisław"),
                person("Le Guin, Ursula K."),
                person("Reader, Rita", ContributorRole.NARRATOR),
                person("Itor, Ed", ContributorRole.EDITOR),
                person("Johnston, Bill", ContributorRole.TRANSLATOR),
                person("Inker, Ann", ContributorRole.ILLUSTRATOR),
                person("Inker, Ann", ContributorRole.INKER),
                person("Gaiman, Neil", ContributorRole.FOREWORD),
            ),
            medium=Medium.AUDIOBOOK,
            format=Format.MP3,
            publisher=KNOWN["publisher"],
            published=KNOWN["published"],
            on_sale=KNOWN["on_sale"],
            isbns=tuple(KNOWN["isbns"]),
            subjects=tuple(map(subject, KNOWN["subjects"])),
            page_count=KNOWN["page_count"],
            duration_ms=KNOWN["duration_ms"],
            description=KNOWN["description"],
            licenses_owned=3,
            licenses_available=1,
            licenses_reserved=1,
            patrons_in_hold_queue=4,
        )
        apply_titles(session, {pool.id: title})
        session.commit()


def export(
    write: Write,
    session: Session,
    selection: FeedFilter = EVERYTHING,
    columns: Sequence[str] = (),
) -> bytes:
    out = io.BytesIO()
    write(read_feed(session, selection), out, select_columns(columns, selection.since))
    return out.getvalue()


def csv_rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))


def test_columns_are_the_fields_of_a_title() -> None:
    assert [field.name for field in fields(TitleView)] == NAMES


def test_csv_has_every_field(session: Session, solaris: None) -> None:
    data = export(write_csv, session)
    assert csv_rows(data) == [AS_TEXT]
    assert data.startswith(",".join(NAMES).encode() + b"\r\n")
    assert data.endswith(b"\r\n")


def test_csv_is_read_by_arrow(session: Session, solaris: None) -> None:
    text = arrow_csv.ConvertOptions(column_types={name: pyarrow.string() for name in NAMES})
    lines = arrow_csv.ParseOptions(newlines_in_values=True)
    table = arrow_csv.read_csv(
        io.BytesIO(export(write_csv, session)), parse_options=lines, convert_options=text
    )
    assert table.to_pylist() == [AS_TEXT]


def test_json_lines_has_every_field(session: Session, solaris: None) -> None:
    (line,) = export(write_json_lines, session).splitlines()
    assert json.loads(line) == KNOWN | {"updated_at": AS_TEXT["updated_at"]}
    assert list(json.loads(line)) == NAMES


def test_parquet_has_every_field_with_its_type(session: Session, solaris: None) -> None:
    file = parquet.ParquetFile(io.BytesIO(export(write_parquet, session)))
    table = file.read()
    assert table.to_pylist() == [KNOWN]
    assert table.column_names == NAMES
    assert table.schema.field("licenses_owned").type == pyarrow.int64()
    assert table.schema.field("isbns").type.value_type == pyarrow.string()
    assert table.schema.field("updated_at").type == pyarrow.timestamp("us", tz="UTC")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_unknown_values_are_empty_or_null(session: Session, collection: Collection) -> None:
    make_pool(session, collection, "unknown")
    (row,) = csv_rows(export(write_csv, session))
    from_json = json.loads(export(write_json_lines, session))
    (typed,) = parquet.read_table(io.BytesIO(export(write_parquet, session))).to_pylist()
    assert (row["title"], row["page_count"], row["authors"], row["licenses_owned"]) == ("", "", "", "0")
    for values in (from_json, typed):
        assert (values["title"], values["page_count"], values["authors"]) == (None, None, [])


@pytest.mark.parametrize("write", WRITERS)
def test_empty_catalogue_gives_empty_table(write: Write, session: Session) -> None:
    data = export(write, session)
    if write is write_parquet:
        assert parquet.read_table(io.BytesIO(data)).num_rows == 0
    else:
        assert data == (",".join(NAMES).encode() + b"\r\n" if write is write_csv else b"")


@pytest.mark.parametrize("write", WRITERS)
def test_equal_catalogues_give_equal_bytes(
    write: Write, session: Session, collection: Collection, solaris: None
) -> None:
    store_title(session, collection, "another")
    assert export(write, session) == export(write, session) != b""


def test_parquet_row_groups_have_bounded_size(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accession.exports.tables._ROW_GROUP", 2)
    monkeypatch.setattr("accession.exports.tables._BATCH", 1)
    for name in "abcde":
        store_title(session, collection, name)
    file = parquet.ParquetFile(io.BytesIO(export(write_parquet, session)))
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert (groups, file.read()["identifier"].to_pylist()) == ([2, 2, 1], list("abcde"))


def test_byte_order_mark_is_optional(session: Session, solaris: None) -> None:
    out = io.BytesIO()
    write_csv(read_feed(session, EVERYTHING), out, select_columns(()), CsvFormat(bom=True))
    assert out.getvalue() == b"\xef\xbb\xbf" + export(write_csv, session)


HOSTILE = (
    '=HYPERLINK("https://evil.example","click")',
    "+1",
    "-1",
    "Good;=1+1;rest",
    "one\n+1",
    "@SUM(A1)",
    "＝1+1",
    "'=1",
    'a",=1\r\n"b\tc',
    "line\u2028end\x85\x1b[31m",
    "\u202egnp.exe",
    "null\0byte",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_its_cell(text: str, session: Session, collection: Collection) -> None:
    store_title(session, collection, "evil", title=text, publisher=text, contributors=(person(text),))
    # PostgreSQL cannot store NUL.
    stored = text.replace("\0", "")
    (row,) = csv_rows(export(write_csv, session))
    assert row["title"] == row["publisher"] == row["authors"] == escape_formula(stored)
    assert row["identifier"] == "evil"
    lines = export(write_json_lines, session)
    assert len(lines.decode().splitlines()) == 1
    assert json.loads(lines)["title"] == stored
    assert lines.decode().rstrip("\n").isprintable()
    assert parquet.read_table(io.BytesIO(export(write_parquet, session)))["title"].to_pylist() == [stored]


TEXTS = st.lists(
    st.one_of(st.text(), st.sampled_from([*"=+-@＝'\"", *",;|\t\r\n", "1+1", " "])), max_size=8
).map("".join)


@given(TEXTS)
@example("'=1")
@example("\r")
@example("'")
@example("Good;=1+1;rest")
@example(";'=1")
def test_escaped_text_is_no_formula_and_can_be_restored(text: str) -> None:
    escaped = escape_formula(text)
    assert not escaped.startswith(("\t", "\r", "\n"))
    for cell in re.split(r"[,;|\t\r\n]", escaped):
        assert not cell.lstrip('"').startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
    # Removing the first apostrophe of each cell that would be a formula without its apostrophes restores it.
    formula = r"(?:^|(?<=[,;|\t\r\n]))'(?=[\"']*[=+\-@＝＋－＠])|^'(?='*[\t\r\n])"
    assert re.sub(formula, "", escaped) == text


@pytest.mark.parametrize("delimiter", Delimiter)
@pytest.mark.parametrize("bom", [False, True])
def test_csv_has_the_requested_delimiter(delimiter: Delimiter, bom: bool) -> None:
    out = io.BytesIO()
    columns = select_columns(["title", "identifier"])

    write_csv([title_named("a,b;c\td|e")], out, columns, CsvFormat(delimiter, bom))

    assert out.getvalue().startswith(codecs.BOM_UTF8) is bom
    text = out.getvalue().decode("utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter.character))
    assert rows == [["title", "identifier"], ["a,b;c\td|e", ""]]


def title_named(text: str) -> FeedTitle:
    """Return an entry of which only the title is known."""
    unknown: dict[str, Any] = dict.fromkeys(field.name for field in fields(TitleView))
    return FeedTitle(1, 1, "alder", TitleView(**unknown | {"title": text}), NOON, NOON, is_removed=False)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_csv_returns_any_text_unchanged(texts: list[str]) -> None:
    out = io.BytesIO()
    assert write_csv(map(title_named, texts), out, select_columns(["title", "publisher"])) == len(texts)
    rows = csv.reader(io.StringIO(out.getvalue().decode(), newline=""), strict=True)
    assert list(rows)[1:] == [[escape_formula(text), ""] for text in texts]


def test_numbers_are_not_escaped(session: Session, collection: Collection) -> None:
    store_title(session, collection, "a", licenses_owned=7)
    assert csv_rows(export(write_csv, session, columns=["licenses_owned"])) == [{"licenses_owned": "7"}]


def test_selected_columns_keep_their_order(session: Session, solaris: None) -> None:
    names = ["title", "identifier", "isbns"]
    data = export(write_csv, session, columns=names)
    assert data.splitlines()[0] == b"title,identifier,isbns"
    assert list(json.loads(export(write_json_lines, session, columns=names))) == names
    assert parquet.read_schema(io.BytesIO(export(write_parquet, session, columns=names))).names == names


def test_unknown_or_repeated_column_is_explained() -> None:
    with pytest.raises(UserError) as error:
        select_columns(["titel"])
    assert str(error.value) == (
        f'There is no column "titel" (did you mean "title"?): choose from {", ".join(NAMES)}.'
    )
    with pytest.raises(UserError, match='There is no column "§": choose from collection'):
        select_columns(["§"])
    with pytest.raises(UserError, match='"title" is given twice'):
        select_columns(["title", "isbns", "title"])
    with pytest.raises(UserError, match="give one with --since"):
        select_columns(["change"])


@pytest.mark.parametrize("columns", [(), ("identifier", "licenses_owned"), ("identifier", "change")])
def test_daily_changes_add_up_to_a_full_export(
    columns: Sequence[str], session: Session, collection: Collection
) -> None:
    """Applying daily exports of changes gives the same titles as a full export."""
    applied: dict[str, Any] = {}
    names = [f"title{number}" for number in range(3)]
    pools: dict[str, LicensePool] = {}
    for number in range(12):
        day = NOON + number * timedelta(days=1)
        with time_machine.travel(day + timedelta(hours=1), tick=False):
            identifier = names[number % len(names)]
            pool = pools.setdefault(identifier, make_pool(session, collection, identifier))
            # Each title is without copies once: one of them on its first day, another to the end.
            copies = 0 if number % 4 == 2 else number + 1
            counts = {"licenses_owned": copies, "licenses_available": copies}
            apply_titles(session, {pool.id: title_data(identifier, as_of=day, **counts)})
            session.commit()
        changes = export(write_json_lines, session, FeedFilter(since=day, with_removed=True), columns)
        for line in changes.splitlines():
            row = json.loads(line)
            change, identifier = row.pop("change"), row["identifier"]
            assert (change == "new") == (number < len(names) and change != "removed")
            applied.pop(identifier, None)
            if change != "removed":
                applied[identifier] = row
    full = export(write_json_lines, session, columns=[name for name in columns if name != "change"])
    expected = {row["identifier"]: row for row in map(json.loads, full.splitlines())}
    assert applied == expected
    assert set(names) - set(applied)


def test_parquet_can_be_written_to_a_pipe(session: Session, solaris: None) -> None:

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    write_parquet(read_feed(session, EVERYTHING), pipe, select_columns(()))  # type: ignore[arg-type]
    assert pipe.data == export(write_parquet, session)
