"""MARC export files while a catalogue changes."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any

import pymarc
import pytest
import time_machine
from lxml import etree
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.feed_filter import FeedFilter
from accession.core.errors import NotFound, UserError
from accession.core.marc21 import MARC_NAMESPACE
from accession.db.models import Collection
from accession.exports.formats import FORMATS, find_format
from accession.exports.selection import describe_since, parse_since, select_titles
from tests.fixtures.factories import (
    NOON,
    apply_titles,
    make_collection,
    make_pool,
    person,
    subject,
    title_data,
)
from tests.fixtures.purchases import purchase_title, set_copies

DAY = timedelta(days=1)


def export(session: Session, selection: FeedFilter, form: str = "marc21", **options: Any) -> bytes:
    """Return the content of an export file."""
    session.expire_all()
    out = BytesIO()
    find_format(form).write(session, selection, out, options, lambda _: None)
    return out.getvalue()


def record_statuses(session: Session, since: datetime | None = None) -> dict[str, str]:
    """Return the record status of each title in an export."""
    file = export(session, select_titles(session, (), since))
    return {record["001"].data or "": str(record.leader)[5] for record in _read(file)}


def _read(file: bytes) -> Iterable[pymarc.Record]:
    for record in pymarc.MARCReader(file, permissive=False):
        assert record is not None
        yield record


def test_weekly_exports_have_new_changed_and_deleted_records(
    session: Session, collection: Collection
) -> None:
    week = [NOON + 7 * number * DAY for number in range(5)]
    unchanged, loaned, withdrawn = (
        purchase_title(session, collection, name, week[0]) for name in ("unchanged", "loaned", "withdrawn")
    )
    assert record_statuses(session) == {"unchanged": "n", "loaned": "n", "withdrawn": "n"}

    purchase_title(session, collection, "new", week[1])
    set_copies(session, loaned, week[1], owned=5)
    assert record_statuses(session, week[1]) == {"loaned": "c", "new": "n"}

    set_copies(session, withdrawn, week[2], owned=0)
    assert record_statuses(session, week[2]) == {"withdrawn": "d"}
    assert record_statuses(session) == {"unchanged": "n", "loaned": "n", "new": "n"}

    set_copies(session, withdrawn, week[3], owned=1)
    assert record_statuses(session, week[3]) == {"withdrawn": "c"}
    assert record_statuses(session, week[1]) == {"loaned": "c", "withdrawn": "c", "new": "n"}

    with time_machine.travel(week[4], tick=False):
        mark_for_deletion(collection)
        session.commit()
    assert record_statuses(session, week[4]) == dict.fromkeys(
        ("unchanged", "loaned", "withdrawn", "new"), "d"
    )
    assert record_statuses(session) == {}
    assert unchanged.id < loaned.id


def test_title_without_purchase_record_is_built_from_metadata(
    session: Session, collection: Collection
) -> None:
    purchase_title(session, collection, "solaris", NOON)
    pool = make_pool(session, collection, "eden")
    people = (person("Lem, Stanisław"), person("Heine, Marc E."))
    headings = (subject("FICTION / Science Fiction"), subject("FICTION / Classics"))
    apply_titles(session, {pool.id: title_data("eden", contributors=people, subjects=headings)})
    session.commit()

    vendor_record, built_record = _read(export(session, FeedFilter()))

    assert str(vendor_record["245"]) == "=245  10$aTitle solaris$h[electronic resource] :$cLem, Stanisław."
    assert str(built_record["100"]) == "=100  1\\$aLem, Stanisław,$eauthor.$4aut"
    assert [str(field) for field in built_record.get_fields("700")] == [
        "=700  1\\$aHeine, Marc E.,$eauthor.$4aut"
    ]
    assert [str(field) for field in built_record.get_fields("650")] == [
        "=650  \\7$aFICTION / Science Fiction.$2bisacsh",
        "=650  \\7$aFICTION / Classics.$2bisacsh",
    ]


@pytest.mark.parametrize("form", ["marc21", "marcxml"])
def test_unchanged_catalogue_gives_equal_bytes(form: str, session: Session, collection: Collection) -> None:
    for name in "abc":
        purchase_title(session, collection, name, NOON)
    make_pool(session, collection, "d")
    first = export(session, FeedFilter(), form, availability=True)

    with time_machine.travel(NOON + 99 * DAY, tick=False):
        assert export(session, FeedFilter(), form, availability=True) == first


def test_marc21_and_marcxml_have_the_same_records(session: Session, collection: Collection) -> None:
    for name in "abc":
        purchase_title(session, collection, name, NOON)
    binary = [str(record).partition("\n")[2] for record in _read(export(session, FeedFilter()))]
    xml = export(session, FeedFilter(), "marcxml")

    from_xml = pymarc.parse_xml_to_array(BytesIO(xml))  # type: ignore[no-untyped-call]

    assert [str(record).partition("\n")[2] for record in from_xml] == binary
    assert etree.fromstring(xml).tag == f"{{{MARC_NAMESPACE}}}collection"


def test_export_is_limited_to_collections(session: Session, collection: Collection) -> None:
    purchase_title(session, collection, "a", NOON)
    for name in ("Birch Library", "Cedar Library"):
        purchase_title(session, make_collection(session, name), name[0].lower(), NOON)

    selection = select_titles(session, ["Cedar Library", "Alder Library"], None)

    assert [record["001"].data for record in _read(export(session, selection))] == ["a", "c"]
    with pytest.raises(NotFound, match="Dogwood"):
        select_titles(session, ["Dogwood Library"], None)


def test_empty_catalogue_gives_empty_file(session: Session) -> None:
    assert export(session, FeedFilter()) == b""
    assert len(etree.fromstring(export(session, FeedFilter(), "marcxml"))) == 0


def test_invalid_options_are_rejected_before_writing(session: Session) -> None:
    for options, message in (
        ({"colour": "red"}, "The option colour of a MARC export is invalid"),
        (
            {"url_template": "https://ebook.example/"},
            "The URL template is invalid: .* must contain {identifier}",
        ),
        ({"profile": "missing.toml"}, "The profile missing.toml cannot be read"),
    ):
        out = BytesIO()
        for form in FORMATS.values():
            if form.name.startswith("marc"):
                with pytest.raises(UserError, match=message):
                    form.write(session, FeedFilter(), out, options, lambda _: None)
        assert out.getvalue() == b""
    with pytest.raises(UserError, match='There is no format "epub": choose from marc21, marcxml'):
        find_format("epub")


def test_changes_since_a_time_are_described_in_words() -> None:
    assert describe_since("7d") == "changes of the last 7 days"
    assert describe_since(" 1h ") == "changes of the last hour"
    assert describe_since("2w") == "changes of the last 2 weeks"
    assert describe_since("2024-05-01") == "changes since 2024-05-01"


def test_since_is_a_date_a_time_or_a_duration() -> None:
    with time_machine.travel(NOON, tick=False):
        assert parse_since("7d") == NOON - 7 * DAY
        assert parse_since("12h") == NOON - DAY / 2
        assert parse_since("2w") == NOON - 14 * DAY
    assert parse_since("2024-05-01T14:00+02:00") == NOON
    assert parse_since("2024-05-01").isoformat() == "2024-05-01T00:00:00+00:00"
    for text in ("yesterday", "", "7", "0001-01-01T00:00+23:00", "999999d", "٧d"):
        with pytest.raises(UserError, match=re.escape(f'"{text}" is not a valid time')):
            parse_since(text)
