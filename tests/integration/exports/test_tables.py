"""CSV, JSON Lines and Parquet, read back by readers that others wrote."""

import csv
import io
import json
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

from accession.catalog.apply import apply_titles
from accession.catalog.change_feed import FeedFilter, FeedTitle, feed
from accession.catalog.purchase_records import PurchaseDate, StoredRecord, store_purchase_records
from accession.catalog.titles import TitleView
from accession.core.errors import UserError
from accession.core.vocabulary import Format, Medium, Role
from accession.db.models import Collection, LicensePool
from accession.exports.tables import (
    COLUMNS,
    Column,
    chosen_columns,
    without_formula,
    write_csv,
    write_json_lines,
    write_parquet,
)
from tests.fixtures.factories import NOON, make_pool, person, subject, title_data

NAMES = [column.name for column in COLUMNS]
Write = Callable[[Iterator[FeedTitle], BinaryIO, Sequence[Column]], int]
WRITERS: Sequence[Write] = (write_csv, write_json_lines, write_parquet)

EVERYTHING = FeedFilter()

# A title with something to say in every column, as a reader should find it.
KNOWN: dict[str, Any] = {
    "collection": "Alder Library",
    "identifier": "solaris",
    "title": "Solaris, “the ocean”",
    "subtitle": "A novel",
    "authors": ["Stanisław Lem", "Ursula K. Le Guin"],
    "narrators": ["Rita Reader"],
    "medium": "audiobook",
    "format": "mp3",
    "language": "pol",
    "publisher": 'Wydawnictwo "Iskry"',
    "published": "1961-05",
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
    "updated_at": NOON,
}
ON_PAPER = {
    name: "; ".join(value) if isinstance(value, list) else str(value) for name, value in KNOWN.items()
} | {"updated_at": "2024-05-01T12:00:00Z"}


@pytest.fixture
def solaris(session: Session, collection: Collection) -> None:
    """The known title, committed."""
    with time_machine.travel(NOON, tick=False):
        pool = make_pool(session, collection, "solaris")
        store_purchase_records(session, PurchaseDate(NOON.date()), [StoredRecord(pool, lambda: b"marc", "#")])
        described = title_data(
            "solaris",
            title=KNOWN["title"],
            subtitle=KNOWN["subtitle"],
            contributors=(
                person("Lem, Stanisław"),
                person("Le Guin, Ursula K."),
                person("Reader, Rita", Role.NARRATOR),
            ),
            medium=Medium.AUDIOBOOK,
            format=Format.MP3,
            publisher=KNOWN["publisher"],
            published=KNOWN["published"],
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
        apply_titles(session, {pool.id: described})
        session.commit()


def put(session: Session, collection: Collection, identifier: str, **changes: Any) -> None:
    """The collection has the title, committed."""
    pool = make_pool(session, collection, identifier)
    apply_titles(session, {pool.id: title_data(identifier, **changes)})
    session.commit()


def written(
    write: Write,
    session: Session,
    wanted: FeedFilter = EVERYTHING,
    columns: Sequence[str] = (),
) -> bytes:
    out = io.BytesIO()
    write(feed(session, wanted), out, chosen_columns(columns, wanted.since))
    return out.getvalue()


def csv_rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True))


def test_columns_are_the_fields_of_a_title_in_their_order() -> None:
    assert [field.name for field in fields(TitleView)] == NAMES


def test_csv_tells_every_field_of_a_title(session: Session, solaris: None) -> None:
    data = written(write_csv, session)
    assert csv_rows(data) == [ON_PAPER]
    assert data.startswith(",".join(NAMES).encode() + b"\r\n")
    assert data.endswith(b"\r\n")


def test_another_reader_finds_the_same(session: Session, solaris: None) -> None:
    text = arrow_csv.ConvertOptions(column_types={name: pyarrow.string() for name in NAMES})
    lines = arrow_csv.ParseOptions(newlines_in_values=True)
    table = arrow_csv.read_csv(
        io.BytesIO(written(write_csv, session)), parse_options=lines, convert_options=text
    )
    assert table.to_pylist() == [ON_PAPER]


def test_json_lines_tells_every_field_of_a_title(session: Session, solaris: None) -> None:
    (line,) = written(write_json_lines, session).splitlines()
    assert json.loads(line) == KNOWN | {"updated_at": ON_PAPER["updated_at"]}
    assert list(json.loads(line)) == NAMES


def test_parquet_tells_every_field_of_a_title_in_its_type(session: Session, solaris: None) -> None:
    file = parquet.ParquetFile(io.BytesIO(written(write_parquet, session)))
    table = file.read()
    assert table.to_pylist() == [KNOWN]
    assert table.column_names == NAMES
    assert table.schema.field("licenses_owned").type == pyarrow.int64()
    assert table.schema.field("isbns").type.value_type == pyarrow.string()
    assert table.schema.field("updated_at").type == pyarrow.timestamp("us", tz="UTC")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_what_nobody_knows_is_empty_and_null(session: Session, collection: Collection) -> None:
    make_pool(session, collection, "unknown")
    (row,) = csv_rows(written(write_csv, session))
    told = json.loads(written(write_json_lines, session))
    (typed,) = parquet.read_table(io.BytesIO(written(write_parquet, session))).to_pylist()
    assert (row["title"], row["page_count"], row["authors"], row["licenses_owned"]) == ("", "", "", "0")
    for found in (told, typed):
        assert (found["title"], found["page_count"], found["authors"]) == (None, None, [])


@pytest.mark.parametrize("write", WRITERS)
def test_an_empty_catalogue_is_an_empty_table(write: Write, session: Session) -> None:
    data = written(write, session)
    if write is write_parquet:
        assert parquet.read_table(io.BytesIO(data)).num_rows == 0
    else:
        assert data == (",".join(NAMES).encode() + b"\r\n" if write is write_csv else b"")


@pytest.mark.parametrize("write", WRITERS)
def test_two_exports_of_a_catalogue_are_the_same_bytes(
    write: Write, session: Session, collection: Collection, solaris: None
) -> None:
    put(session, collection, "another")
    assert written(write, session) == written(write, session) != b""


def test_parquet_has_row_groups_of_a_bounded_size(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accession.exports.tables._ROW_GROUP", 2)
    monkeypatch.setattr("accession.exports.tables._BATCH", 1)
    for name in "abcde":
        put(session, collection, name)
    file = parquet.ParquetFile(io.BytesIO(written(write_parquet, session)))
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert (groups, file.read()["identifier"].to_pylist()) == ([2, 2, 1], list("abcde"))


def test_a_byte_order_mark_is_there_for_whoever_asks(session: Session, solaris: None) -> None:
    out = io.BytesIO()
    write_csv(feed(session, EVERYTHING), out, chosen_columns(()), bom=True)
    assert out.getvalue() == b"\xef\xbb\xbf" + written(write_csv, session)


HOSTILE = (
    '=HYPERLINK("https://evil.example","click")',
    "+1",
    "-1",
    "@SUM(A1)",
    "＝1+1",
    "'=1",
    'a",=1\r\n"b\tc',
    "line\u2028end\x85\x1b[31m",
    "\u202egnp.exe",
    "null\0byte",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_a_value_of_its_own_cell(
    text: str, session: Session, collection: Collection
) -> None:
    put(session, collection, "evil", title=text, publisher=text, contributors=(person(text),))
    # PostgreSQL holds no NUL.
    stored = text.replace("\0", "")
    (row,) = csv_rows(written(write_csv, session))
    assert row["title"] == row["publisher"] == row["authors"] == without_formula(stored)
    assert row["identifier"] == "evil"
    lines = written(write_json_lines, session)
    assert len(lines.decode().splitlines()) == 1
    assert json.loads(lines)["title"] == stored
    assert lines.decode().rstrip("\n").isprintable()
    assert parquet.read_table(io.BytesIO(written(write_parquet, session)))["title"].to_pylist() == [stored]


@given(st.text())
@example("'=1")
@example("\r")
@example("'")
def test_no_text_begins_a_formula_and_every_text_comes_back(text: str) -> None:
    shown = without_formula(text)
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    # Who takes an apostrophe away where one was put before a formula has what was.
    assert (shown[1:] if without_formula(shown) != shown else shown) == text


def titled(text: str) -> FeedTitle:
    """A title of which nothing but its name is known."""
    unknown: dict[str, Any] = dict.fromkeys(field.name for field in fields(TitleView))
    return FeedTitle(1, 1, TitleView(**unknown | {"title": text}), NOON, NOON, is_removed=False)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_csv_gives_back_whatever_text_it_was_given(texts: list[str]) -> None:
    out = io.BytesIO()
    assert write_csv(map(titled, texts), out, chosen_columns(["title", "publisher"])) == len(texts)
    rows = csv.reader(io.StringIO(out.getvalue().decode(), newline=""), strict=True)
    assert list(rows)[1:] == [[without_formula(text), ""] for text in texts]


def test_numbers_are_left_alone(session: Session, collection: Collection) -> None:
    put(session, collection, "a", licenses_owned=7)
    assert csv_rows(written(write_csv, session, columns=["licenses_owned"])) == [{"licenses_owned": "7"}]


def test_columns_come_as_they_are_chosen(session: Session, solaris: None) -> None:
    chosen = ["title", "identifier", "isbns"]
    data = written(write_csv, session, columns=chosen)
    assert data.splitlines()[0] == b"title,identifier,isbns"
    assert list(json.loads(written(write_json_lines, session, columns=chosen))) == chosen
    assert parquet.read_schema(io.BytesIO(written(write_parquet, session, columns=chosen))).names == chosen


def test_a_column_that_is_not_there_is_told_with_the_nearest_and_the_list() -> None:
    with pytest.raises(UserError) as refused:
        chosen_columns(["titel"])
    assert str(refused.value) == (
        f'There is no column "titel", perhaps "title": choose from {", ".join(NAMES)}.'
    )
    with pytest.raises(UserError, match='There is no column "§": choose from collection'):
        chosen_columns(["§"])
    with pytest.raises(UserError, match='"title" is chosen twice'):
        chosen_columns(["title", "isbns", "title"])
    with pytest.raises(UserError, match="name one with --since"):
        chosen_columns(["change"])


@pytest.mark.parametrize("columns", [(), ("identifier", "licenses_owned"), ("identifier", "change")])
def test_a_month_of_changes_makes_of_an_old_table_the_new_one(
    columns: Sequence[str], session: Session, collection: Collection
) -> None:
    """Whoever follows the changes day by day has what an export of everything has."""
    held: dict[str, Any] = {}
    names = [f"title{number}" for number in range(6)]
    pools: dict[str, LicensePool] = {}
    for number in range(30):
        day = NOON + number * timedelta(days=1)
        with time_machine.travel(day + timedelta(hours=1), tick=False):
            identifier = names[number % len(names)]
            pool = pools.setdefault(identifier, make_pool(session, collection, identifier))
            copies = 0 if number % 5 == 4 else number
            counts = {"licenses_owned": copies, "licenses_available": copies}
            apply_titles(session, {pool.id: title_data(identifier, as_of=day, **counts)})
            session.commit()
        changes = written(write_json_lines, session, FeedFilter(since=day, with_removed=True), columns)
        for line in changes.splitlines():
            told = json.loads(line)
            change, identifier = told.pop("change"), told["identifier"]
            assert (change == "new") == (number < len(names) and change != "removed")
            held.pop(identifier, None)
            if change != "removed":
                held[identifier] = told
    full = written(write_json_lines, session, columns=[name for name in columns if name != "change"])
    expected = {told["identifier"]: told for told in map(json.loads, full.splitlines())}
    assert held == expected
    assert set(names) - set(held)


def test_a_pipe_takes_parquet(session: Session, solaris: None) -> None:
    """It cannot say how much was written to it."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    write_parquet(feed(session, EVERYTHING), pipe, chosen_columns(()))  # type: ignore[arg-type]
    assert pipe.data == written(write_parquet, session)
