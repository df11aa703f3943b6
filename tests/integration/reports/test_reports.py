"""Reports: which rows they have, in which order, and the lists behind their numbers."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import (
    RejectedRecordData,
    rejected_record_views,
    resolve_rejected_record,
    store_rejected_records,
)
from accession.catalog.search import find_titles, match_titles
from accession.catalog.title_filter import TitleFilter
from accession.core.errors import InvalidInput, NotFound
from accession.db.models import Collection
from accession.reports.model import ListKind, ListLink, ReportResult, Row
from accession.reports.registry import REPORTS, find_report
from tests.fixtures.factories import NOON, make_account, make_collection, make_pool, subject
from tests.fixtures.statistics import refresh_statistics, store_title_in_use

DAY = timedelta(days=1)
TODAY = NOON.date()
LOAN = ("CHECKOUT", NOON)
HOLD = ("HOLD", NOON)
GROUPINGS = ("format", "language", "subject", "year")
NO_VALUES: Mapping[str, Any] = {"format": None, "language": None, "subjects": ()}


@pytest.fixture(autouse=True)
def _first_of_may() -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def birch(session: Session, collection: Collection) -> Collection:
    return make_collection(session, "Birch Library")


def read(session: Session, name: str, *, limit: int | None = None, **options: Any) -> ReportResult:
    """Read a report; options other than collection, sort and offset are its parameters."""
    report = find_report(name)
    own = {key: options.pop(key) for key in ("collection", "sort", "offset") if key in options}
    return report.read(session, report.request(parameters=options, limit=limit, **own))


def rows(session: Session, name: str, **options: Any) -> Sequence[Row]:
    return list(read(session, name, **options).rows)


def values(session: Session, name: str, *columns: str, **options: Any) -> Sequence[tuple[Any, ...]]:
    return [tuple(row.values[column] for column in columns) for row in rows(session, name, **options)]


def identifiers(session: Session, name: str, **options: Any) -> Sequence[str]:
    return [row.values["identifier"] for row in rows(session, name, **options)]


def titles_behind(session: Session, link: ListLink) -> set[tuple[str, str]]:
    """Return collection and id of the titles in a list."""
    assert link.kind is ListKind.TITLES
    filters: Mapping[str, Any] = {
        name: date.fromisoformat(value) if name.endswith(("_since", "_from", "_until")) else value
        for name, value in link.filters.items()
    }
    page = find_titles(session, match_titles(session, TitleFilter(**filters)))
    return {(title.collection, title.identifier) for title in page.titles}


# Holds ratio


def test_holds_ratio_lists_titles_above_threshold(session: Session, collection: Collection) -> None:
    for name, owned, holds in (("at", 2, 8), ("above", 2, 9), ("far above", 1, 40), ("none", 5, 0)):
        store_title_in_use(session, collection, name, licenses_owned=owned, patrons_in_hold_queue=holds)

    columns = ("identifier", "holds_per_copy", "copies_to_buy")
    assert values(session, "holds-ratio", *columns) == [("far above", 40, 9), ("above", 4.5, 1)]
    assert identifiers(session, "holds-ratio", threshold="3.5") == ["far above", "above", "at"]


def test_holds_on_title_without_copies_come_first(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "one", licenses_owned=1, patrons_in_hold_queue=90)
    store_title_in_use(session, collection, "none", licenses_owned=0, patrons_in_hold_queue=3)

    columns = ("identifier", "holds_per_copy", "copies_to_buy")
    assert values(session, "holds-ratio", *columns) == [("none", None, 1), ("one", 90, 22)]


@pytest.mark.parametrize(
    ("recent", "before", "trend"), [(2, 1, "rising"), (1, 2, "falling"), (1, 1, "steady"), (0, 0, "steady")]
)
def test_holds_ratio_shows_trend_of_holds_placed(
    session: Session, collection: Collection, recent: int, before: int, trend: str
) -> None:
    events = [("HOLD", NOON - 29 * DAY)] * recent + [("HOLD", NOON - 30 * DAY)] * before
    older = [("HOLD", NOON - 60 * DAY)]
    # The vendor's counts are newer than the events.
    store_title_in_use(session, collection, "a", patrons_in_hold_queue=50, events=[*events, *older])

    columns = ("holds_placed", "holds_placed_before", "trend")
    assert values(session, "holds-ratio", *columns) == [(recent, before, trend)]


# Use


def test_most_borrowed_lists_loans_of_last_year(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "old", events=[("CHECKOUT", NOON - 400 * DAY)] * 5 + [LOAN])
    store_title_in_use(session, collection, "new", events=[LOAN] * 2, licenses_owned=4)
    store_title_in_use(session, collection, "never")

    columns = ("identifier", "loans_last_year", "loans")
    assert values(session, "most-borrowed", *columns) == [("new", 2, 2), ("old", 1, 6)]
    assert identifiers(session, "most-borrowed", sort="-loans") == ["old", "new"]
    assert values(session, "most-borrowed", "loans_per_copy", limit=1) == [(0.5,)]


def test_most_borrowed_draws_loans_of_each_month(
    session: Session, collection: Collection, birch: Collection
) -> None:
    store_title_in_use(session, collection, "a", events=[LOAN, ("CHECKOUT", NOON - 30 * DAY)])
    store_title_in_use(session, birch, "a", events=[LOAN, HOLD])

    of_one = read(session, "most-borrowed", collection="Alder Library").charts[0]
    assert of_one.points[-3:] == (("2024-03", 0), ("2024-04", 1), ("2024-05", 1))
    assert read(session, "most-borrowed").charts[0].points[-1] == ("2024-05", 2)
    assert len(of_one.points) == 24


def test_unused_lists_titles_without_loans_in_months(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "never", purchased_on=date(2020, 1, 1))
    store_title_in_use(
        session,
        collection,
        "long ago",
        purchased_on=date(2019, 1, 1),
        events=[("CHECKOUT", NOON - 367 * DAY)],
    )
    store_title_in_use(session, collection, "lent", purchased_on=date(2019, 1, 1), events=[LOAN])
    store_title_in_use(session, collection, "new", purchased_on=date(2023, 5, 1))
    store_title_in_use(session, collection, "gone", purchased_on=date(2019, 1, 1), licenses_owned=0)
    refresh_statistics(session)

    columns = ("identifier", "unused_since", "loans")
    assert values(session, "unused", *columns) == [
        ("never", date(2020, 1, 1), 0),
        ("long ago", date(2023, 4, 30), 1),
    ]
    assert identifiers(session, "unused", months="13") == ["never"]


def test_number_of_unused_titles_leads_to_them(
    session: Session, collection: Collection, birch: Collection
) -> None:
    store_title_in_use(session, collection, "never", purchased_on=date(2020, 1, 1))
    store_title_in_use(session, collection, "lent", purchased_on=date(2020, 1, 1), events=[LOAN])
    store_title_in_use(session, birch, "never", purchased_on=date(2020, 1, 1))
    refresh_statistics(session)

    for name, total in ((None, 2), ("Alder Library", 1)):
        result = read(session, "unused", collection=name)
        assert result.total == total
        assert result.list_link is not None
        assert titles_behind(session, result.list_link) == {
            (row.values["collection"], row.values["identifier"]) for row in result.rows
        }


# Groups


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("format", [("epub", 2), ("pdf", 1)]),
        ("language", [("eng", 2), ("ger", 1)]),
        ("subject", [("ART", 2), ("FICTION", 1)]),
        ("year", [("2020", 2), ("2019", 1)]),
    ],
)
def test_turnover_groups_titles(
    session: Session, collection: Collection, by: str, expected: list[tuple[str, int]]
) -> None:
    first: dict[str, Any] = {"language": "eng", "format": "epub", "subjects": (subject("ART"),)}
    second: dict[str, Any] = {"language": "ger", "format": "pdf", "subjects": (subject("FICTION"),)}
    store_title_in_use(
        session, collection, "a", purchased_on=date(2020, 1, 1), events=[LOAN] * 3, licenses_owned=4, **first
    )
    store_title_in_use(session, collection, "b", purchased_on=date(2020, 12, 31), licenses_owned=2, **first)
    store_title_in_use(session, collection, "c", purchased_on=date(2019, 12, 31), **second)
    refresh_statistics(session)

    assert values(session, "turnover", "value", "titles", by=by) == expected
    best = rows(session, "turnover", by=by)[0]
    assert (best.values["copies"], best.values["loans_last_year"], best.values["turnover"]) == (6, 3, 0.5)
    assert titles_behind(session, best.links["titles"]) == {("Alder Library", "a"), ("Alder Library", "b")}


@pytest.mark.parametrize(
    ("by", "codes", "labels"),
    [
        ("format", ["mp3", "epub"], ["Audiobook", "EPUB e-book"]),
        ("language", ["chi", "ger"], ["Chinese", "German"]),
    ],
)
def test_turnover_sorts_codes_by_their_labels(
    session: Session, collection: Collection, by: str, codes: list[str], labels: list[str]
) -> None:
    store_title_in_use(session, collection, "a", format="epub", language="ger", events=[LOAN])
    store_title_in_use(session, collection, "b", format="mp3", language="chi")
    refresh_statistics(session)
    listed = rows(session, "turnover", by=by, sort="value")
    assert [(row.values["value"], row.labels["value"]) for row in listed] == list(
        zip(codes, labels, strict=True)
    )
    reverse = rows(session, "turnover", by=by, sort="-value", limit=1)
    assert [row.values["value"] for row in reverse] == codes[1:]
    # The chart begins with the group that has the most loans.
    assert [label for label, _ in read(session, "turnover", by=by).charts[0].points] == labels[::-1]


def test_turnover_of_titles_without_copies_is_unknown(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "a", licenses_owned=0, language=None)
    refresh_statistics(session)
    row = rows(session, "turnover", by="language")[0]
    assert (row.values["value"], row.values["turnover"]) == ("(none)", None)


def row_without_value(session: Session, by: str, collection: str | None = None) -> Row:
    """Return the row of the titles without a value in the report Turnover."""
    listed = rows(session, "turnover", by=by, collection=collection)
    (row,) = (row for row in listed if row.values["value"] == "(none)")
    return row


@pytest.mark.parametrize("by", GROUPINGS)
def test_turnover_leads_to_titles_without_a_value(
    session: Session, collection: Collection, birch: Collection, by: str
) -> None:
    store_title_in_use(session, collection, "complete", purchased_on=TODAY)
    store_title_in_use(session, collection, "lent", events=[LOAN], **NO_VALUES)
    store_title_in_use(session, birch, "without values", **NO_VALUES)
    make_pool(session, birch, "without metadata")
    refresh_statistics(session)

    of_birch = {("Birch Library", "without values"), ("Birch Library", "without metadata")}
    for name, expected in ((None, {("Alder Library", "lent"), *of_birch}), ("Birch Library", of_birch)):
        row = row_without_value(session, by, name)
        assert row.values["titles"] == len(expected)
        assert titles_behind(session, row.links["titles"]) == expected


@pytest.mark.parametrize("by", GROUPINGS)
def test_title_newer_than_statistics_lacks_no_value(
    session: Session, collection: Collection, by: str
) -> None:
    """The roll-up of its loan has added its statistics, in which the refresh has still to set the rest."""
    store_title_in_use(session, collection, "without values", **NO_VALUES)
    refresh_statistics(session)
    store_title_in_use(session, collection, "new", purchased_on=TODAY, events=[LOAN])

    link = row_without_value(session, by).links["titles"]
    assert titles_behind(session, link) == {("Alder Library", "without values")}


def test_title_purchased_since_refresh_lacks_no_purchase(session: Session, collection: Collection) -> None:
    for name in ("a", "b"):
        store_title_in_use(session, collection, name)
    refresh_statistics(session)
    store_title_in_use(session, collection, "b", purchased_on=TODAY)

    link = row_without_value(session, "year").links["titles"]
    assert titles_behind(session, link) == {("Alder Library", "a")}


def test_turnover_of_collection_leaves_out_the_others(
    session: Session, collection: Collection, birch: Collection
) -> None:
    store_title_in_use(session, collection, "a", language="eng")
    store_title_in_use(session, birch, "b", language="ger")
    refresh_statistics(session)
    of_birch = values(session, "turnover", "value", by="language", collection="Birch Library")
    assert of_birch == [("ger",)]


def test_growth_counts_titles_and_loans_by_month(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "a", purchased_on=date(2010, 1, 1))
    store_title_in_use(session, collection, "b", purchased_on=date(2024, 4, 30), events=[LOAN])
    store_title_in_use(session, collection, "c", purchased_on=date(2024, 5, 1))
    store_title_in_use(session, collection, "without a purchase")
    refresh_statistics(session)

    expected = [("2024-05", 1, 3, 1), ("2024-04", 1, 2, 0), ("2024-03", 0, 1, 0)]
    columns = ("month", "titles_added", "titles", "loans")
    assert values(session, "growth", *columns, months="3") == expected
    april = rows(session, "growth", months="3")[1]
    assert titles_behind(session, april.links["titles_added"]) == {("Alder Library", "b")}
    assert titles_behind(session, april.links["titles"]) == {("Alder Library", "a"), ("Alder Library", "b")}


# Copies, metadata and covers


def test_exhausted_lists_titles_without_or_with_few_copies(session: Session, collection: Collection) -> None:
    recent, old = [("REMOVED", NOON - 9 * DAY)], [("REMOVED", NOON - 400 * DAY)]
    store_title_in_use(session, collection, "gone", licenses_owned=0, events=[LOAN])
    store_title_in_use(session, collection, "low", licenses_owned=1, events=recent)
    store_title_in_use(session, collection, "low for long", licenses_owned=1, events=old)
    store_title_in_use(session, collection, "some", licenses_owned=2, events=recent)
    store_title_in_use(session, collection, "never more", licenses_owned=1)

    columns = ("identifier", "state", "copies", "removed", "last_removed_on")
    assert values(session, "exhausted", *columns) == [
        ("gone", "exhausted", 0, 0, None),
        ("low", "low", 1, 1, TODAY - 9 * DAY),
    ]
    assert identifiers(session, "exhausted", show="low") == ["low"]
    assert set(identifiers(session, "exhausted", show="low", copies="2")) == {"low", "some"}
    assert set(identifiers(session, "exhausted", show="low", months="24")) == {"low", "low for long"}


def test_number_of_exhausted_titles_leads_to_them(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "gone", licenses_owned=0)
    store_title_in_use(session, collection, "held")
    result = read(session, "exhausted", show="exhausted")
    assert result.total == 1
    assert result.list_link is not None
    assert titles_behind(session, result.list_link) == {("Alder Library", "gone")}


@pytest.mark.parametrize(
    ("lacks", "expected"),
    [
        ("any", {"nothing": "metadata and cover", "no cover": "cover"}),
        ("metadata", {"nothing": "metadata and cover"}),
        ("cover", {"nothing": "metadata and cover", "no cover": "cover"}),
    ],
)
def test_incomplete_lists_what_titles_lack(
    session: Session, collection: Collection, lacks: str, expected: dict[str, str]
) -> None:
    store_title_in_use(session, collection, "complete")
    store_title_in_use(session, collection, "no cover", links=())
    make_pool(session, collection, "nothing")
    refresh_statistics(session)

    result = read(session, "incomplete", lacks=lacks)
    assert {row.values["identifier"]: row.values["missing"] for row in result.rows} == expected
    if result.list_link is not None:
        assert {name for _, name in titles_behind(session, result.list_link)} == set(expected)


# Rejected records


def reject(session: Session, collection: Collection, *reasons: str) -> None:
    records = [RejectedRecordData(reason, "<record/>", f"{reason}{TODAY}") for reason in reasons]
    store_rejected_records(session, collection, PurchaseDate(TODAY), records)
    session.commit()


def test_rejected_records_are_counted_by_reason(session: Session, collection: Collection) -> None:
    reject(
        session, collection, "Its ItemId is invalid: 'a'.", "Its ItemId is invalid: 'b'.", "It has no 001."
    )
    invalid = next(record for record in rejected_record_views(session) if "ItemId" in record.reason)
    resolve_rejected_record(session, invalid.id, "known")
    session.commit()

    columns = ("reason", "records", "open", "last_received_on")
    assert values(session, "rejected", *columns) == [
        ("Its ItemId is invalid: ….", 2, 1, TODAY),
        ("It has no 001.", 1, 1, TODAY),
    ]
    row = rows(session, "rejected")[0]
    for column, with_resolved in (("records", True), ("open", False)):
        filters = row.links[column].filters
        assert filters.get("resolved") == ("true" if with_resolved else None)
        listed = rejected_record_views(
            session,
            with_resolved=with_resolved,
            reason=filters["reason"],
            received_from=date.fromisoformat(filters["received_from"]),
        )
        assert len(listed) == row.values[column]


def test_rejected_records_are_drawn_by_month(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON - 40 * DAY, tick=False):
        reject(session, collection, "It has no title.")
    reject(session, collection, "It has no 001.")

    chart = read(session, "rejected", months="3").charts[0]
    assert chart.points == (("2024-03", 1), ("2024-04", 0), ("2024-05", 1))
    assert values(session, "rejected", "reason", months="1") == [("It has no 001.",)]


# Overlap


def test_overlap_lists_pairs_of_collections(
    session: Session, collection: Collection, birch: Collection
) -> None:
    for name in ("a", "b", "c", "d"):
        store_title_in_use(session, collection, name)
    for name in ("d", "e"):
        store_title_in_use(session, birch, name)
    refresh_statistics(session)

    columns = ("collection", "titles", "other_collection", "shared", "share", "same_copies")
    assert set(values(session, "overlap", *columns)) == {
        ("Alder Library", 4, "Birch Library", 1, 0.25, "no"),
        ("Birch Library", 2, "Alder Library", 1, 0.5, "no"),
    }
    (row,) = rows(session, "overlap", collection="Birch Library")
    assert titles_behind(session, row.links["shared"]) == {("Birch Library", "d")}


def test_overlap_tells_collections_with_the_same_copies(session: Session, collection: Collection) -> None:
    account = make_account("Alder Library")
    twin = make_collection(session, "Twin Library")
    twin.library_id, twin.base_url = account.library_id, account.base_url
    store_title_in_use(session, collection, "a")
    store_title_in_use(session, twin, "a")
    refresh_statistics(session)
    assert values(session, "overlap", "same_copies") == [("yes",), ("yes",)]


# All reports


@pytest.mark.parametrize("name", REPORTS)
def test_report_of_empty_catalogue_has_no_titles(session: Session, collection: Collection, name: str) -> None:
    refresh_statistics(session)
    result = read(session, name)
    assert [row for row in result.rows if row.values.get("titles") or "identifier" in row.values] == []
    assert result.as_of == NOON


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("is_descending", [False, True])
def test_report_can_be_sorted_by_each_sortable_column(
    session: Session, collection: Collection, birch: Collection, name: str, is_descending: bool
) -> None:
    for holder in (collection, birch):
        for number in range(3):
            store_title_in_use(
                session,
                holder,
                f"t{number}",
                purchased_on=date(2020 + number % 2, 1, 1),
                events=[("CHECKOUT", NOON - 400 * DAY), ("REMOVED", NOON)],
                licenses_owned=number % 2,
                patrons_in_hold_queue=9 * number + 9,
                links=(),
            )
        reject(session, holder, "It has no 001.", "It has no title.")
    refresh_statistics(session)

    report = find_report(name)
    for column in report.columns:
        if not column.is_sortable:
            continue
        order = f"-{column.name}" if is_descending else column.name
        everything = [row.values for row in rows(session, name, sort=order)]
        known = [row[column.name] for row in everything if row[column.name] is not None]
        assert known == sorted(known, reverse=is_descending)
        pages = [rows(session, name, sort=order, limit=2, offset=offset) for offset in range(0, 60, 2)]
        assert [row.values for page in pages for row in page] == everything


@pytest.mark.parametrize("name", REPORTS)
def test_report_has_a_value_for_each_column(session: Session, collection: Collection, name: str) -> None:
    store_title_in_use(
        session,
        collection,
        "a",
        purchased_on=date(2020, 1, 1),
        events=[("CHECKOUT", NOON - 400 * DAY), ("REMOVED", NOON)],
        licenses_owned=1,
        patrons_in_hold_queue=9,
        links=(),
    )
    reject(session, collection, "It has no 001.")
    refresh_statistics(session)
    for row in rows(session, name):
        assert set(row.values) == {column.name for column in find_report(name).columns}


def test_statistics_not_computed_yet_are_reported(session: Session, collection: Collection) -> None:
    assert read(session, "turnover").as_of is None


def test_unknown_report_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match='There is no report "x": choose one of holds-ratio, most-borrowed'):
        find_report("x")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("turnover", {"parameters": {"by": "size"}}, '"size" is no by: choose one of format'),
        ("turnover", {"parameters": {"months": "3"}}, "no parameter months: it has by"),
        ("unused", {"parameters": {"months": "1.5"}}, "enter a whole number from 1 to 240"),
        ("unused", {"parameters": {"months": "0"}}, "enter a whole number from 1 to 240"),
        ("holds-ratio", {"parameters": {"threshold": "nan"}}, "enter a number from 0.5 to 100"),
        ("holds-ratio", {"sort": "title"}, 'cannot be sorted by "title": choose one of holds, copies'),
    ],
)
def test_invalid_request_is_rejected_with_reason(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        find_report(name).request(**options)
