"""Purchase records: stored once for each pool and purchase date."""

from dataclasses import replace
from datetime import date

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import (
    PurchaseRecordData,
    StoredPurchases,
    count_purchases_since,
    purchase_days,
    purchases_by_day,
    purchases_by_title,
    remove_purchases,
    store_purchase_records,
)
from accession.db.engine import engine
from accession.db.models import Collection, LicensePool, PurchaseRecord
from tests.fixtures.factories import make_pool, record_statements

MARCH_1, MAY_2 = PurchaseDate(date(2014, 3, 1)), PurchaseDate(date(2016, 5, 2))
MARCH = PurchaseDate(date(2014, 3, 1), month_only=True)
MARCH_9, MARCH_20 = PurchaseDate(date(2014, 3, 9)), PurchaseDate(date(2014, 3, 20))


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    return make_pool(session, collection, "abc")


def stored_purchases(session: Session, *pools: LicensePool) -> list[tuple[PurchaseDate, int, bytes]]:
    """Return date, listings and record of each purchase: those of some pools, or all."""
    rows = session.scalars(select(PurchaseRecord).order_by(PurchaseRecord.purchased_on))
    return [
        (PurchaseDate(row.purchased_on, row.month_only), row.listed, row.marc)
        for row in rows
        if not pools or row.license_pool_id in {pool.id for pool in pools}
    ]


def stored_records(session: Session) -> list[tuple[PurchaseDate, bytes]]:
    return [(purchase_date, marc) for purchase_date, _, marc in stored_purchases(session)]


def record(pool: LicensePool, content: str, listed: int | None = 1) -> PurchaseRecordData:
    return PurchaseRecordData(pool, f"marc of {content}".encode, f"hash of {content}", listed)


def stored_listings(session: Session) -> list[tuple[PurchaseDate, int]]:
    return [(purchase_date, listed) for purchase_date, listed, _ in stored_purchases(session)]


def test_title_purchased_on_two_days_has_two_records(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, {MAY_2: [record(pool, "b")]})
    store_purchase_records(session, {MARCH_1: [record(pool, "a")]})

    assert stored_records(session) == [(MARCH_1, b"marc of a"), (MAY_2, b"marc of b")]


def test_first_record_of_pool_is_stored_with_one_statement(session: Session, pool: LicensePool) -> None:
    with record_statements(engine()) as statements:
        store_purchase_records(session, {MARCH_1: [replace(record(pool, "a"), is_first=True)]})

    assert [each.split()[0] for each in statements if "purchase_records" in each] == ["INSERT"]
    assert stored_records(session) == [(MARCH_1, b"marc of a")]


def test_unchanged_record_is_not_serialised_or_written(session: Session, pool: LicensePool) -> None:
    def serialise() -> bytes:
        raise AssertionError("an unchanged record must not be serialised")

    store_purchase_records(session, {MARCH_1: [record(pool, "a")]})

    with record_statements(engine()) as statements:
        store_purchase_records(session, {MARCH_1: [PurchaseRecordData(pool, serialise, "hash of a")]})

    assert [statement[:6] for statement in statements] == ["SELECT"]
    assert stored_records(session) == [(MARCH_1, b"marc of a")]


def test_changed_record_replaces_the_one_of_the_same_day(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, {MARCH_1: [record(pool, "a")]})
    store_purchase_records(session, {MARCH_1: [record(pool, "b"), record(pool, "c")]})

    assert stored_records(session) == [(MARCH_1, b"marc of c")]


def test_empty_list_of_records_stores_nothing(session: Session, collection: Collection) -> None:
    store_purchase_records(session, {MARCH_1: []})

    assert stored_records(session) == []


def test_purchase_with_month_only_gets_its_day_later(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, {MARCH: [record(pool, "a")]})
    assert stored_records(session) == [(MARCH, b"marc of a")]

    store_purchase_records(session, {MARCH_9: [record(pool, "a")]})
    assert stored_records(session) == [(MARCH_9, b"marc of a")]

    store_purchase_records(session, {MARCH_20: [record(pool, "a")]})
    assert stored_records(session) == [(MARCH_9, b"marc of a"), (MARCH_20, b"marc of a")]


@pytest.mark.parametrize("days", [[MARCH_1], [MARCH_9], [MARCH_20, MARCH_9]])
def test_month_import_keeps_days_that_are_known(
    session: Session, pool: LicensePool, days: list[PurchaseDate]
) -> None:
    for day in days:
        store_purchase_records(session, {day: [record(pool, "a")]})
    before = stored_records(session)

    with record_statements(engine()) as statements:
        store_purchase_records(session, {MARCH: [record(pool, "a")]})

    assert [statement[:6] for statement in statements] == ["SELECT"]
    assert stored_records(session) == before


def test_month_import_updates_record_under_its_day(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, {MARCH_9: [record(pool, "a")]})
    store_purchase_records(session, {MARCH: [record(pool, "b")]})

    assert stored_records(session) == [(MARCH_9, b"marc of b")]


def test_first_day_of_month_replaces_month_only_date(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, {MARCH: [record(pool, "a")]})
    store_purchase_records(session, {MARCH_1: [record(pool, "a")]})

    assert stored_records(session) == [(MARCH_1, b"marc of a")]


def test_purchases_of_adjacent_months_stay_separate(session: Session, pool: LicensePool) -> None:
    april = PurchaseDate(date(2014, 4, 1), month_only=True)
    last_of_march = PurchaseDate(date(2014, 3, 31))

    for purchase_date in (last_of_march, april, MARCH, last_of_march, april):
        store_purchase_records(session, {purchase_date: [record(pool, "a")]})

    assert stored_records(session) == [(last_of_march, b"marc of a"), (april, b"marc of a")]


@pytest.mark.parametrize(
    ("before", "listed", "after"), [(1, 2, 2), (2, 1, 1), (2, 2, 2), (2, None, 2), (1, None, 1)]
)
def test_number_of_listings_is_that_of_the_latest_import(
    session: Session, pool: LicensePool, before: int, listed: int | None, after: int
) -> None:
    store_purchase_records(session, {MARCH_1: [record(pool, "a", before)]})
    store_purchase_records(session, {MARCH_1: [record(pool, "a", listed)]})

    assert stored_listings(session) == [(MARCH_1, after)]


def test_listings_of_a_month_include_those_of_its_days(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, {MARCH: [record(pool, "a", 3)]})
    store_purchase_records(session, {MARCH_9: [record(pool, "a", 1)]})
    store_purchase_records(session, {MARCH_20: [record(pool, "a", 2)]})

    store_purchase_records(session, {MARCH: [record(pool, "a", 3)]})

    assert stored_listings(session) == [(MARCH_9, 1), (MARCH_20, 2)]


def test_second_purchase_of_a_month_stays_with_the_month(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, {MARCH: [record(pool, "a", 2)]})

    for purchase_date, listed in ((MARCH_20, 1), (MARCH, 2), (MARCH_20, 1)):
        store_purchase_records(session, {purchase_date: [record(pool, "a", listed)]})
        assert stored_listings(session) == [(MARCH, 1), (MARCH_20, 1)]

    store_purchase_records(session, {MARCH_1: [record(pool, "a", 1)]})
    assert stored_listings(session) == [(MARCH_1, 1), (MARCH_20, 1)]


def test_first_day_of_a_month_with_two_purchases_loses_none(session: Session, pool: LicensePool) -> None:
    store_purchase_records(session, {MARCH: [record(pool, "a", 2)]})

    store_purchase_records(session, {MARCH_1: [record(pool, "a", 1)]})
    assert stored_listings(session) == [(MARCH, 2)]

    store_purchase_records(session, {MARCH_20: [record(pool, "a", 1)]})
    store_purchase_records(session, {MARCH_1: [record(pool, "a", 1)]})
    assert stored_listings(session) == [(MARCH_1, 1), (MARCH_20, 1)]


@pytest.mark.parametrize(
    "before",
    [{}, {MARCH: 1}, {MARCH: 2}, {MARCH: 3}, {MARCH_9: 1, MAY_2: 4}, {MARCH_20: 1, MARCH: 3}],
    ids=lambda before: " ".join(f"{purchase_date}:{listed}" for purchase_date, listed in before.items()),
)
@pytest.mark.parametrize(
    "purchases",
    [{MARCH_9: 1, MARCH_20: 1}, {MARCH_20: 2, MARCH_1: 1}, {MARCH_20: 1, MAY_2: 1}, {MARCH: 2, MAY_2: 1}],
    ids=lambda purchases: " ".join(map(str, purchases)),
)
def test_purchases_are_stored_at_once_as_one_after_another(
    session: Session,
    collection: Collection,
    before: dict[PurchaseDate, int],
    purchases: dict[PurchaseDate, int],
) -> None:
    def of(pool: LicensePool, purchase_date: PurchaseDate, listed: int) -> list[PurchaseRecordData]:
        return [record(pool, str(purchase_date), listed)]

    pools = one, other = [make_pool(session, collection, identifier) for identifier in ("one", "other")]
    for purchase_date, listed in before.items():
        store_purchase_records(
            session, {purchase_date: [each for pool in pools for each in of(pool, purchase_date, listed)]}
        )
    for purchase_date, listed in purchases.items():
        store_purchase_records(session, {purchase_date: of(one, purchase_date, listed)})
    store_purchase_records(session, {each: of(other, each, listed) for each, listed in purchases.items()})

    assert stored_purchases(session, other) == stored_purchases(session, one)


def test_purchases_of_several_days_take_two_statements(session: Session, collection: Collection) -> None:
    one, other = (make_pool(session, collection, identifier) for identifier in ("one", "other"))

    with record_statements(engine()) as statements:
        store_purchase_records(session, {MARCH_9: [record(one, "a")], MAY_2: [record(other, "b")]})

    assert [each.split()[0] for each in statements if "purchase_records" in each] == ["SELECT", "INSERT"]


def test_purchases_of_a_title_listed_twice_count_twice(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    store_purchase_records(session, {MARCH_9: [record(pool, "a", 2)]})
    store_purchase_records(session, {MAY_2: [record(pool, "a", 1)]})

    counted = [
        count_purchases_since(session, collection, ["abc"], since)["abc"]
        for since in (MARCH_9.day, MARCH_20.day)
    ]

    assert counted == [3, 1]
    assert purchases_by_day(session, collection) == {MARCH_9.day: 2, MAY_2.day: 1}
    assert purchases_by_title(session, collection, MARCH_1.day, MARCH_20.day) == {
        "abc": StoredPurchases(2, MARCH_9.day, MARCH_9.day)
    }


@pytest.mark.parametrize(("purchases", "left"), [(1, [(MARCH_9, 1)]), (2, []), (3, [])])
def test_removed_purchases_are_no_longer_stored(
    session: Session,
    collection: Collection,
    pool: LicensePool,
    purchases: int,
    left: list[tuple[PurchaseDate, int]],
) -> None:
    store_purchase_records(session, {MARCH_9: [record(pool, "a", 2)]})
    session.commit()
    updated_at = pool.updated_at

    removed = remove_purchases(session, collection, "abc", MARCH_9.day, purchases)

    assert (removed, stored_listings(session)) == (min(2, purchases), left)
    session.refresh(pool)
    assert pool.updated_at > updated_at


def test_only_months_with_known_days_have_purchase_days(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    store_purchase_records(session, {MARCH: [record(pool, "a")]})
    store_purchase_records(session, {MARCH_9: [record(make_pool(session, collection, "b"), "b")]})
    store_purchase_records(session, {MAY_2: [record(pool, "a")]})

    assert purchase_days(session, collection, date(2014, 1, 1), date(2020, 1, 1)) == [MAY_2.day]
