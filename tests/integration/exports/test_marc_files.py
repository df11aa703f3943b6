"""Whole exports, over the life of a catalogue."""

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
from accession.catalog.apply import apply_titles
from accession.catalog.change_feed import FeedFilter
from accession.catalog.purchase_records import PurchaseDate, StoredRecord, store_purchase_records
from accession.core.errors import NotFound, UserError
from accession.db.models import Collection, LicensePool
from accession.exports.formats import FORMATS, find_format
from accession.exports.iso2709 import MARC_NAMESPACE
from accession.exports.wanted import since_of, wanted_titles
from tests.fixtures.factories import NOON, make_collection, make_pool, person, subject, title_data
from tests.fixtures.marc import bought_record

DAY = timedelta(days=1)


def buy(
    session: Session, collection: Collection, identifier: str, at: datetime, **changes: Any
) -> LicensePool:
    """A title that the collection has bought, with its purchase record."""
    with time_machine.travel(at, tick=False):
        pool = make_pool(session, collection, identifier)
        apply_titles(session, {pool.id: title_data(identifier, as_of=at, **changes)})
        record = bought_record(identifier, f"Title {identifier}")
        store_purchase_records(
            session, PurchaseDate(at.date()), [StoredRecord(pool, lambda: record, identifier)]
        )
        session.commit()
    return pool


def count(session: Session, pool: LicensePool, at: datetime, owned: int) -> None:
    """The vendor says how many copies there are of the title."""
    with time_machine.travel(at, tick=False):
        name = pool.identifier.identifier
        said = title_data(name, as_of=at, licenses_owned=owned, licenses_available=owned)
        apply_titles(session, {pool.id: said})
        session.commit()


def exported(session: Session, wanted: FeedFilter, form: str = "marc21", **options: Any) -> bytes:
    """The file that is written."""
    session.expire_all()
    out = BytesIO()
    find_format(form).write(session, wanted, out, options, lambda _: None)
    return out.getvalue()


def told(session: Session, since: datetime | None = None) -> dict[str, str]:
    """Each title of the file that is written, and its state."""
    file = exported(session, wanted_titles(session, (), since))
    return {record["001"].data or "": str(record.leader)[5] for record in _read(file)}


def _read(file: bytes) -> Iterable[pymarc.Record]:
    for record in pymarc.MARCReader(file, permissive=False):
        assert record is not None
        yield record


def test_a_month_of_changes_is_told_week_by_week(session: Session, collection: Collection) -> None:
    week = [NOON + 7 * number * DAY for number in range(5)]
    kept, lent, gone = (buy(session, collection, name, week[0]) for name in ("kept", "lent", "gone"))
    assert told(session) == {"kept": "n", "lent": "n", "gone": "n"}

    buy(session, collection, "new", week[1])
    count(session, lent, week[1], owned=5)
    assert told(session, week[1]) == {"lent": "c", "new": "n"}

    count(session, gone, week[2], owned=0)
    assert told(session, week[2]) == {"gone": "d"}
    assert told(session) == {"kept": "n", "lent": "n", "new": "n"}

    count(session, gone, week[3], owned=1)
    assert told(session, week[3]) == {"gone": "c"}
    assert told(session, week[1]) == {"lent": "c", "gone": "c", "new": "n"}

    with time_machine.travel(week[4], tick=False):
        mark_for_deletion(collection)
        session.commit()
    assert told(session, week[4]) == dict.fromkeys(("kept", "lent", "gone", "new"), "d")
    assert told(session) == {}
    assert kept.id < lent.id


def test_titles_without_a_purchase_record_are_in_the_file_with_how_they_are_filed(
    session: Session, collection: Collection
) -> None:
    buy(session, collection, "solaris", NOON)
    pool = make_pool(session, collection, "eden")
    people = (person("Lem, Stanisław"), person("Heine, Marc E."))
    headings = (subject("FICTION / Science Fiction"), subject("FICTION / Classics"))
    apply_titles(session, {pool.id: title_data("eden", contributors=people, subjects=headings)})
    session.commit()

    bought, made = _read(exported(session, FeedFilter()))

    assert str(bought["245"]) == "=245  10$aTitle solaris$h[electronic resource] :$cLem, Stanisław."
    assert str(made["100"]) == "=100  1\\$aLem, Stanisław,$eauthor."
    assert [str(field) for field in made.get_fields("700")] == ["=700  1\\$aHeine, Marc E.,$eauthor."]
    assert [str(field) for field in made.get_fields("650")] == [
        "=650  \\7$aFICTION / Science Fiction.$2bisacsh",
        "=650  \\7$aFICTION / Classics.$2bisacsh",
    ]


@pytest.mark.parametrize("form", ["marc21", "marcxml"])
def test_two_exports_of_the_same_catalogue_are_the_same_bytes(
    form: str, session: Session, collection: Collection
) -> None:
    for name in "abc":
        buy(session, collection, name, NOON)
    make_pool(session, collection, "d")
    first = exported(session, FeedFilter(), form, availability=True)

    with time_machine.travel(NOON + 99 * DAY, tick=False):
        assert exported(session, FeedFilter(), form, availability=True) == first


def test_both_forms_hold_the_same_records(session: Session, collection: Collection) -> None:
    for name in "abc":
        buy(session, collection, name, NOON)
    binary = [str(record).partition("\n")[2] for record in _read(exported(session, FeedFilter()))]
    xml = exported(session, FeedFilter(), "marcxml")

    in_xml = pymarc.parse_xml_to_array(BytesIO(xml))  # type: ignore[no-untyped-call]

    assert [str(record).partition("\n")[2] for record in in_xml] == binary
    assert etree.fromstring(xml).tag == f"{{{MARC_NAMESPACE}}}collection"


def test_a_file_can_be_of_some_collections(session: Session, collection: Collection) -> None:
    buy(session, collection, "a", NOON)
    for name in ("Birch Library", "Cedar Library"):
        buy(session, make_collection(session, name), name[0].lower(), NOON)

    wanted = wanted_titles(session, ["Cedar Library", "Alder Library"], None)

    assert [record["001"].data for record in _read(exported(session, wanted))] == ["a", "c"]
    with pytest.raises(NotFound, match="Dogwood"):
        wanted_titles(session, ["Dogwood Library"], None)


def test_an_empty_catalogue_is_an_empty_file(session: Session) -> None:
    assert exported(session, FeedFilter()) == b""
    assert len(etree.fromstring(exported(session, FeedFilter(), "marcxml"))) == 0


def test_options_that_cannot_be_used_are_refused_before_anything_is_written(session: Session) -> None:
    for options, said in (
        ({"colour": "red"}, "The option colour of a MARC export cannot be used"),
        ({"url_template": "https://ebook.example/"}, "The URL template cannot be used: .* no {identifier}"),
        ({"profile": "missing.toml"}, "The profile missing.toml cannot be read"),
    ):
        out = BytesIO()
        for form in FORMATS.values():
            if form.name.startswith("marc"):
                with pytest.raises(UserError, match=said):
                    form.write(session, FeedFilter(), out, options, lambda _: None)
        assert out.getvalue() == b""
    with pytest.raises(UserError, match='There is no format "epub": choose among marc21, marcxml'):
        find_format("epub")


def test_since_is_a_date_a_moment_or_a_span() -> None:
    with time_machine.travel(NOON, tick=False):
        assert since_of("7d") == NOON - 7 * DAY
        assert since_of("12h") == NOON - DAY / 2
        assert since_of("2w") == NOON - 14 * DAY
    assert since_of("2024-05-01T14:00+02:00") == NOON
    assert since_of("2024-05-01").isoformat() == "2024-05-01T00:00:00+00:00"
    for text in ("yesterday", "", "7", "0001-01-01T00:00+23:00", "999999d", "٧d"):
        with pytest.raises(UserError, match=re.escape(f'"{text}" is no moment')):
            since_of(text)
