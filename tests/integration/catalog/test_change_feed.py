"""Change feed: order, modification times, removed titles."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import update
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.change_feed import count_feed, read_feed
from accession.catalog.feed_filter import FeedFilter
from accession.catalog.modification_times import complete_until, last_modification
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.core.clock import utc_now
from accession.db.engine import engine
from accession.db.models import Collection, Edition, LicensePool
from tests.fixtures.factories import (
    NOON,
    apply_titles,
    make_collection,
    make_hourly_pools,
    make_pool,
    title_data,
)

HOUR = timedelta(hours=1)


@pytest.fixture
def pools(session: Session, collection: Collection) -> list[LicensePool]:
    """Three titles, added at noon and one and two hours later."""
    return make_hourly_pools(session, collection)


def record(pool: LicensePool, marc: bytes) -> PurchaseRecordData:
    return PurchaseRecordData(pool, lambda: marc, marc.decode())


def modification_times(session: Session, filters: FeedFilter, **arguments: Any) -> dict[str, datetime]:
    """Return the modification times of the feed's titles by identifier, in the order of the feed."""
    return {title.title.identifier: title.modified_at for title in read_feed(session, filters, **arguments)}


def test_feed_has_stable_order_and_continues_after_any_title(
    session: Session, pools: list[LicensePool]
) -> None:
    everything = FeedFilter()
    assert modification_times(session, everything) == {"a": NOON, "b": NOON + HOUR, "c": NOON + 2 * HOUR}
    assert list(modification_times(session, everything, limit=2)) == ["a", "b"]
    assert list(modification_times(session, everything, after=pools[1].id)) == ["c"]
    assert count_feed(session, everything) == 3


def test_feed_includes_every_kind_of_change(
    session: Session, collection: Collection, pools: list[LicensePool]
) -> None:
    later = NOON + 5 * HOUR
    with time_machine.travel(later, tick=False):
        apply_titles(session, {pools[0].id: title_data("a", title="Another", as_of=later)})
        apply_titles(session, {pools[1].id: title_data("b", licenses_available=0, as_of=later)})
        store_purchase_records(session, {PurchaseDate(NOON.date()): [record(pools[2], b"marc")]})
        store_purchase_records(session, {PurchaseDate(NOON.date()): [record(pools[2], b"another")]})
    session.commit()
    changed = FeedFilter(since=later)
    assert modification_times(session, changed) == {"a": later, "b": later, "c": later}
    assert [title.marc for title in read_feed(session, changed, with_marc=True)] == [None, None, b"another"]
    assert modification_times(session, FeedFilter(since=later + HOUR)) == {}
    assert modification_times(session, FeedFilter(until=NOON + HOUR)) == {}


def test_feed_includes_removed_titles_on_request(
    session: Session, collection: Collection, pools: list[LicensePool]
) -> None:
    later = NOON + 5 * HOUR
    with time_machine.travel(later, tick=False):
        withdrawn = title_data("b", licenses_owned=0, licenses_available=0, as_of=later)
        apply_titles(session, {pools[1].id: withdrawn})
        other = make_collection(session, "Birch Library")
        make_pool(session, other, "a")
        mark_for_deletion(other)
    session.commit()
    assert list(modification_times(session, FeedFilter())) == ["a", "c"]
    everything = FeedFilter(with_removed=True)
    removed = [title.title for title in read_feed(session, everything) if title.is_removed]
    assert {(title.collection, title.identifier) for title in removed} == {
        ("Alder Library", "b"),
        ("Birch Library", "a"),
    }
    since_then = FeedFilter(with_removed=True, since=later)
    assert modification_times(session, since_then) == {"b": later, "a": later}
    of_collection = FeedFilter(collections=(collection.id,), with_removed=True)
    assert list(modification_times(session, of_collection)) == ["a", "b", "c"]


def test_feed_is_complete_until_the_oldest_open_transaction(
    session: Session, pools: list[LicensePool]
) -> None:
    session.commit()
    with Session(engine()) as writer:
        started_at = utc_now()
        writer.get(LicensePool, pools[0].id)
        assert complete_until(session) < started_at
        before = complete_until(session)
        writer.rollback()
    session.commit()
    assert complete_until(session) > before


def test_last_modification_is_known_once_it_is_final(
    session: Session, pools: list[LicensePool], collection: Collection
) -> None:
    collection.created_at = NOON
    session.commit()
    assert last_modification(session) == NOON + 2 * HOUR
    apply_titles(session, {pools[0].id: title_data("a", title="Another", as_of=utc_now())})
    session.commit()
    assert last_modification(session) is None
    with time_machine.travel(NOON + 3 * HOUR, tick=False):
        mark_for_deletion(collection)
    session.execute(update(Edition).values(updated_at=NOON))
    session.execute(update(LicensePool).values(updated_at=NOON))
    session.commit()
    assert last_modification(session) == NOON + 3 * HOUR


def test_empty_catalogue_has_no_last_modification(session: Session) -> None:
    assert last_modification(session) is None
