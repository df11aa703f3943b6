"""Content of a digest: what was purchased, removed and expired in a period, and its numbers."""

from datetime import date
from typing import Any

import time_machine
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from accession.catalog.circulation import record_events
from accession.catalog.circulation_totals import roll_up_events
from accession.catalog.data import ApplyData
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.db.engine import engine
from accession.db.models import Collection
from accession.digests.content import DigestContent, Period, SectionKind, read_content, read_section
from tests.fixtures.factories import (
    apply_titles,
    counts_data,
    day,
    event_data,
    make_collection,
    make_pool,
    title_data,
)

WEEK = Period(date(2024, 4, 22), date(2024, 4, 28))


def purchase(
    session: Session, collection: Collection, identifier: str, on: date, *, month_only: bool = False
) -> None:
    """Store a purchase of a title with two copies."""
    pool = make_pool(session, collection, identifier)
    apply_titles(session, {pool.id: title_data(identifier)})
    record = PurchaseRecordData(pool, lambda: b"marc", f"{identifier} {on}")
    store_purchase_records(session, {PurchaseDate(on, month_only): [record]})
    session.commit()


def set_copies(session: Session, collection: Collection, identifier: str, owned: int, at: date) -> None:
    """Let the vendor state the number of copies at noon of a day."""
    noon = day(at.year, at.month, at.day, 12)
    pool = make_pool(session, collection, identifier)
    with time_machine.travel(noon, tick=False):
        counts = ApplyData(circulation=counts_data(owned, owned, 0, as_of=noon))
        apply_titles(session, {pool.id: counts})
    session.commit()


def content_of(session: Session, collection: Collection, **options: object) -> DigestContent:
    values = {"purchases": WEEK, "imported_until": WEEK.last, "max_titles": 20} | options
    return read_content(session, collection, WEEK, **values)  # type: ignore[arg-type]


def titles_in(content: DigestContent) -> dict[str, list[tuple[str, str]]]:
    """Return the identifiers and notes of the titles in each section."""
    return {
        section.kind.value: [(title.identifier, title.note) for title in section.titles]
        for section in content.sections
    }


def test_purchases_of_period_are_listed_latest_first(session: Session, collection: Collection) -> None:
    purchase(session, collection, "before", date(2024, 4, 21))
    purchase(session, collection, "first", date(2024, 4, 22))
    purchase(session, collection, "last", date(2024, 4, 28))
    purchase(session, collection, "after", date(2024, 4, 29))
    purchase(session, make_collection(session, "Birch Library"), "other", date(2024, 4, 23))
    content = content_of(session, collection)
    assert titles_in(content) == {
        "purchased": [("last", "Purchased on 28 April"), ("first", "Purchased on 22 April")],
        "removed": [],
        "expired": [],
    }
    title = content.sections[0].titles[0]
    assert (title.title, title.authors, title.cover_url) == (
        "Title last",
        ("Stanisław Lem",),
        "https://images.example/1",
    )


def test_purchases_of_a_month_are_listed_with_its_first_day(session: Session, collection: Collection) -> None:
    """Imported by months, a purchase has no day; the digest that covers part of the month lists it."""
    purchase(session, collection, "of the month", date(2024, 4, 1), month_only=True)
    purchase(session, collection, "of the day", date(2024, 4, 1))
    assert titles_in(content_of(session, collection))["purchased"] == [
        ("of the month", "Purchased in April 2024")
    ]


def test_second_purchase_of_a_title_is_listed_once(session: Session, collection: Collection) -> None:
    for number in (23, 25):
        purchase(session, collection, "abc", date(2024, 4, number))
    assert titles_in(content_of(session, collection))["purchased"] == [("abc", "Purchased on 25 April")]


def test_lost_copies_are_removed_or_expired(session: Session, collection: Collection) -> None:
    for identifier in ("removed", "expired", "unchanged", "back", "earlier", "more"):
        set_copies(session, collection, identifier, 3, date(2024, 4, 1))
    set_copies(session, collection, "earlier", 1, date(2024, 4, 21))
    set_copies(session, collection, "removed", 2, date(2024, 4, 22))
    set_copies(session, collection, "removed", 0, date(2024, 4, 28))
    set_copies(session, collection, "expired", 2, date(2024, 4, 23))
    set_copies(session, collection, "back", 0, date(2024, 4, 24))
    set_copies(session, collection, "back", 3, date(2024, 4, 25))
    set_copies(session, collection, "more", 5, date(2024, 4, 25))
    set_copies(session, collection, "unchanged", 0, date(2024, 4, 29))
    assert titles_in(content_of(session, collection)) == {
        "purchased": [],
        "removed": [("removed", "All 3 copies removed")],
        "expired": [("expired", "1 copy expired or removed, 2 left")],
    }


def test_section_lists_some_titles_and_counts_all(session: Session, collection: Collection) -> None:
    for number in range(5):
        purchase(session, collection, f"title {number}", date(2024, 4, 22 + number))
    (section, *_) = content_of(session, collection, max_titles=2).sections
    assert ([title.identifier for title in section.titles], section.total, section.not_listed) == (
        ["title 4", "title 3"],
        5,
        3,
    )
    rest = read_section(session, collection, SectionKind.PURCHASED, WEEK, limit=2, offset=4)
    assert [title.identifier for title in rest.titles] == ["title 0"]


def test_numbers_compare_the_period_with_the_one_before(session: Session, collection: Collection) -> None:
    set_copies(session, collection, "abc", 2, date(2024, 4, 1))
    set_copies(session, collection, "gone", 1, date(2024, 4, 1))
    set_copies(session, collection, "gone", 0, date(2024, 4, 2))
    pools = {"abc": make_pool(session, collection, "abc")}
    kinds = [("CHECKOUT", 14), ("CHECKOUT", 15), ("CHECKOUT", 22), ("CHECKIN", 23), ("CHECKOUT", 28)]
    kinds += [("HOLD", 21), ("HOLD", 25), ("CHECKOUT", 29)]
    events = [
        event_data(str(number), kind, "abc", at=day(2024, 4, of_month))
        for number, (kind, of_month) in enumerate(kinds)
    ]
    record_events(session, collection, pools, events)
    roll_up_events(session, day(2024, 4, 30))
    session.commit()
    numbers = content_of(session, collection).numbers
    assert (numbers.titles, numbers.copies, numbers.exhausted, numbers.holds) == (1, 2, 1, 2)
    assert (numbers.loans, numbers.loans_before) == (2, 1)
    assert (numbers.holds_placed, numbers.holds_placed_before) == (1, 1)


def test_content_without_titles_is_empty(session: Session, collection: Collection) -> None:
    purchase(session, collection, "before", date(2024, 4, 21))
    content = content_of(session, collection)
    assert content.is_empty
    assert not content.is_behind


def test_purchases_that_are_not_imported_yet_are_left_out(session: Session, collection: Collection) -> None:
    purchase(session, collection, "abc", date(2024, 4, 27))
    content = content_of(session, collection, purchases=None, imported_until=date(2024, 4, 21))
    assert titles_in(content)["purchased"] == []
    assert content.is_behind


def test_lost_copies_are_found_by_their_index(session: Session, collection: Collection) -> None:
    """Changes of availability are many, and few of them concern the copies owned."""
    executed: list[tuple[str, Any]] = []

    def remember(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        executed.append((statement, parameters))

    event.listen(engine(), "before_cursor_execute", remember)
    try:
        read_section(session, collection, SectionKind.REMOVED, WEEK, limit=1)
    finally:
        event.remove(engine(), "before_cursor_execute", remember)
    session.execute(text("SET LOCAL enable_seqscan = off"))
    plans = [
        "\n".join(row[0] for row in session.connection().exec_driver_sql(f"EXPLAIN {statement}", parameters))
        for statement, parameters in executed
        if "title_changes" in statement
    ]
    assert len(plans) == 2
    assert all("ix_title_changes_licenses_owned" in plan for plan in plans)


def test_content_is_stored_and_read_unchanged(session: Session, collection: Collection) -> None:
    purchase(session, collection, "abc", date(2024, 4, 27))
    content = content_of(session, collection)
    assert DigestContent.from_json(content.to_json()) == content
