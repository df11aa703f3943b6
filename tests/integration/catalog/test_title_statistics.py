"""Statistics of titles: what the refresh stores, and that it writes only differences."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, literal_column, select, table
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.title_statistics import is_refresh_due, last_refreshed_at
from accession.db.models import (
    Collection,
    CollectionOverlap,
    Identifier,
    LicensePool,
    Link,
    TitleGroup,
    TitleStatistics,
)
from tests.fixtures.factories import NOON, make_collection, make_pool, subject
from tests.fixtures.statistics import refresh_statistics, store_title_in_use

LOAN = ("CHECKOUT", NOON)
TODAY = NOON.date()


@pytest.fixture
def birch(session: Session, collection: Collection) -> Collection:
    return make_collection(session, "Birch Library")


def statistics(session: Session) -> Mapping[str, TitleStatistics]:
    query = select(Identifier.identifier, TitleStatistics).join(
        LicensePool, LicensePool.identifier_id == Identifier.id
    )
    query = query.join(TitleStatistics, TitleStatistics.license_pool_id == LicensePool.id)
    return dict(session.execute(query).all())


def groups(session: Session, kind: str, collection: Collection | None) -> Mapping[str, tuple[int, ...]]:
    """Return titles, copies, holds and loans by value."""
    group = TitleGroup
    query = select(group.value, group.titles, group.copies, group.holds, group.loans_last_year).where(
        group.kind == kind, group.collection_id.is_not_distinct_from(collection and collection.id)
    )
    return {value: tuple(numbers) for value, *numbers in session.execute(query)}


def overlaps(session: Session) -> Mapping[tuple[int, int], int]:
    rows = session.execute(
        select(CollectionOverlap.collection_id, CollectionOverlap.other_id, CollectionOverlap.titles)
    )
    return {(one, other): titles for one, other, titles in rows}


def test_statistics_show_first_purchase_and_last_use(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "lent", purchased_on=date(2020, 5, 1), events=[LOAN] * 2)
    store_title_in_use(session, collection, "unused", purchased_on=date(2021, 2, 3))
    store_title_in_use(session, collection, "unused", purchased_on=date(2019, 1, 2))
    store_title_in_use(session, collection, "no copies", purchased_on=date(2020, 1, 1), licenses_owned=0)
    refresh_statistics(session)

    rows = statistics(session)
    assert (rows["lent"].first_purchased_on, rows["lent"].unused_since) == (date(2020, 5, 1), TODAY)
    assert rows["lent"].loans_last_year == 2
    assert (rows["unused"].first_purchased_on, rows["unused"].unused_since) == (date(2019, 1, 2),) * 2
    assert rows["no copies"].unused_since is None


def test_statistics_show_what_titles_lack(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "complete")
    store_title_in_use(session, collection, "no cover", links=())
    store_title_in_use(session, collection, "no subject", subjects=())
    make_pool(session, collection, "nothing")
    refresh_statistics(session)

    rows = statistics(session)
    assert {name: (row.has_metadata, row.has_cover, row.has_subject) for name, row in rows.items()} == {
        "complete": (True, True, True),
        "no cover": (True, False, True),
        "no subject": (True, True, False),
        "nothing": (False, False, False),
    }


def test_groups_sum_titles_of_collection_and_of_all(
    session: Session, collection: Collection, birch: Collection
) -> None:
    store_title_in_use(
        session,
        collection,
        "a",
        language="eng",
        purchased_on=date(2020, 5, 1),
        events=[LOAN] * 3,
        licenses_owned=4,
    )
    store_title_in_use(
        session, collection, "b", language="ger", purchased_on=date(2020, 5, 9), licenses_owned=1
    )
    store_title_in_use(session, birch, "c", language="eng", patrons_in_hold_queue=7, licenses_owned=2)
    refresh_statistics(session)

    assert groups(session, "language", collection) == {"eng": (1, 4, 0, 3), "ger": (1, 1, 0, 0)}
    assert groups(session, "language", None) == {"eng": (2, 6, 7, 3), "ger": (1, 1, 0, 0)}
    assert groups(session, "month", collection) == {"2020-05": (2, 5, 0, 3)}
    assert groups(session, "month", birch) == {"": (1, 2, 7, 0)}


def test_title_is_counted_in_each_of_its_subjects(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "a", subjects=(subject("ART"), subject("FICTION")))
    store_title_in_use(session, collection, "b", subjects=())
    refresh_statistics(session)

    expected = {"ART": (1, 2, 0, 0), "FICTION": (1, 2, 0, 0), "": (1, 2, 0, 0)}
    assert groups(session, "subject", collection) == expected


def test_changed_groups_replace_the_former_ones(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "a", language="eng")
    refresh_statistics(session)
    store_title_in_use(session, collection, "a", language="ger", as_of=NOON + timedelta(days=1))
    refresh_statistics(session)

    assert set(groups(session, "language", collection)) == {"ger"}
    assert set(groups(session, "language", None)) == {"ger"}


def test_unchanged_titles_are_not_written_again(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "a", purchased_on=TODAY, events=[LOAN])
    refresh_statistics(session)
    before = row_versions(session)
    refresh_statistics(session)
    assert row_versions(session) == before


def row_versions(session: Session) -> list[Any]:
    """Return the transaction that last wrote each row of titles, groups and overlaps."""
    names = ("title_statistics", "title_groups", "collection_overlaps")
    return [
        sorted(session.scalars(select(literal_column(f"{name}.xmin::text")).select_from(table(name))))
        for name in names
    ]


def test_lost_cover_is_noticed(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "a")
    refresh_statistics(session)
    session.execute(delete(Link))
    refresh_statistics(session)
    assert not statistics(session)["a"].has_cover


def test_overlap_counts_titles_of_both_collections(
    session: Session, collection: Collection, birch: Collection
) -> None:
    for name in ("a", "b"):
        store_title_in_use(session, collection, name)
    for name in ("b", "c", "d"):
        store_title_in_use(session, birch, name)
    refresh_statistics(session)

    one, other = collection.id, birch.id
    assert overlaps(session) == {(one, one): 2, (one, other): 1, (other, one): 1, (other, other): 3}


def test_removed_collection_is_in_no_total(
    session: Session, collection: Collection, birch: Collection
) -> None:
    store_title_in_use(session, collection, "a")
    store_title_in_use(session, birch, "a")
    refresh_statistics(session)
    mark_for_deletion(birch)
    refresh_statistics(session)

    assert overlaps(session) == {(collection.id, collection.id): 1}
    assert groups(session, "format", None) == {"epub": (1, 2, 0, 0)}


def test_refresh_uses_at_most_one_percent_of_the_time(session: Session) -> None:
    assert is_refresh_due(session, NOON)
    refresh_statistics(session)

    assert last_refreshed_at(session) == NOON
    assert not is_refresh_due(session, NOON + timedelta(seconds=49))
    assert is_refresh_due(session, NOON + timedelta(seconds=50))


def test_loan_after_refresh_ends_the_unused_time(session: Session, collection: Collection) -> None:
    store_title_in_use(session, collection, "a", purchased_on=date(2020, 1, 1))
    refresh_statistics(session)
    store_title_in_use(session, collection, "a", events=[LOAN])
    session.expire_all()
    assert statistics(session)["a"].unused_since == TODAY
