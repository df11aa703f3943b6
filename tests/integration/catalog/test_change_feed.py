"""The catalogue as others take it."""

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
from tests.fixtures.factories import NOON, apply_titles, make_collection, make_pool, title_data

HOUR = timedelta(hours=1)


@pytest.fixture
def pools(session: Session, collection: Collection) -> list[LicensePool]:
    """Three titles, described an hour after another, the first at noon."""
    pools = []
    for number, name in enumerate("abc"):
        with time_machine.travel(NOON + number * HOUR, tick=False):
            pools.append(make_pool(session, collection, name))
            apply_titles(session, {pools[-1].id: title_data(name)})
            session.commit()
    return pools


def record_of(pool: LicensePool, marc: bytes) -> PurchaseRecordData:
    return PurchaseRecordData(pool, lambda: marc, marc.decode())


def told(session: Session, wanted: FeedFilter, **how: Any) -> dict[str, datetime]:
    """The titles wanted and when each was modified, in their order."""
    return {found.title.identifier: found.modified_at for found in read_feed(session, wanted, **how)}


def test_titles_are_told_in_a_lasting_order_and_from_any_place_on(
    session: Session, pools: list[LicensePool]
) -> None:
    everything = FeedFilter()
    assert told(session, everything) == {"a": NOON, "b": NOON + HOUR, "c": NOON + 2 * HOUR}
    assert list(told(session, everything, limit=2)) == ["a", "b"]
    assert list(told(session, everything, after=pools[1].id)) == ["c"]
    assert count_feed(session, everything) == 3


def test_what_has_changed_since_is_told_whatever_it_was(
    session: Session, collection: Collection, pools: list[LicensePool]
) -> None:
    later = NOON + 5 * HOUR
    with time_machine.travel(later, tick=False):
        apply_titles(session, {pools[0].id: title_data("a", title="Another", as_of=later)})
        apply_titles(session, {pools[1].id: title_data("b", licenses_available=0, as_of=later)})
        store_purchase_records(session, PurchaseDate(NOON.date()), [record_of(pools[2], b"marc")])
        store_purchase_records(session, PurchaseDate(NOON.date()), [record_of(pools[2], b"another")])
    session.commit()
    changed = FeedFilter(since=later)
    assert told(session, changed) == {"a": later, "b": later, "c": later}
    assert [found.marc for found in read_feed(session, changed, with_marc=True)] == [None, None, b"another"]
    assert told(session, FeedFilter(since=later + HOUR)) == {}
    assert told(session, FeedFilter(until=NOON + HOUR)) == {}


def test_what_is_gone_is_told_as_removed_to_whoever_asks_for_it(
    session: Session, collection: Collection, pools: list[LicensePool]
) -> None:
    later = NOON + 5 * HOUR
    with time_machine.travel(later, tick=False):
        gone = title_data("b", licenses_owned=0, licenses_available=0, as_of=later)
        apply_titles(session, {pools[1].id: gone})
        other = make_collection(session, "Birch Library")
        make_pool(session, other, "a")
        mark_for_deletion(other)
    session.commit()
    assert list(told(session, FeedFilter())) == ["a", "c"]
    everything = FeedFilter(with_removed=True)
    removed = {
        (t.title.collection, t.title.identifier) for t in read_feed(session, everything) if t.is_removed
    }
    assert removed == {("Alder Library", "b"), ("Birch Library", "a")}
    assert told(session, FeedFilter(with_removed=True, since=later)) == {"b": later, "a": later}
    assert list(told(session, FeedFilter(collections=(collection.id,), with_removed=True))) == ["a", "b", "c"]


def test_a_feed_is_complete_only_until_what_is_being_written_began(
    session: Session, pools: list[LicensePool]
) -> None:
    session.commit()
    with Session(engine()) as writing:
        began = utc_now()
        writing.get(LicensePool, pools[0].id)
        assert complete_until(session) < began
        before = complete_until(session)
        writing.rollback()
    session.commit()
    assert complete_until(session) > before


def test_the_last_change_is_told_once_none_can_follow_in_its_second(
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


def test_nothing_has_changed_where_nothing_is(session: Session) -> None:
    assert last_modification(session) is None
