"""What happens in the stand-in vendor's library, and when."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.sandbox.activity import PATRON, Activity, Event, EventType, Stock
from accession.sandbox.catalogue import Catalogue, Purchase, build_catalogue
from tests.fixtures.sandbox import OPENING, SINCE, UNTIL

HOUR = timedelta(hours=1)
MOMENTS = st.timedeltas(timedelta(), 2 * HOUR).map(lambda late: OPENING + late)


@dataclass(frozen=True)
class Library:
    """A library that is open from `OPENING` on, and what it had bought by then."""

    catalogue: Catalogue
    before: Sequence[Purchase]
    activity: Activity

    def events(self) -> Sequence[Event]:
        return self.activity.between(SINCE, datetime.max.replace(tzinfo=OPENING.tzinfo))

    def stocks(self) -> dict[str, Stock]:
        return {purchase.item_id: self.activity.stock(purchase) for purchase in self.catalogue.purchases}


def library(
    per_hour: int, *, titles: int = 40, seed: int = 0, opening: datetime = OPENING, until: datetime = UNTIL
) -> Library:
    catalogue = build_catalogue(titles, SINCE, until, seed=seed)
    before = list(catalogue.purchases)
    return Library(catalogue, before, Activity(catalogue, per_hour, opening, seed=seed))


@dataclass(frozen=True)
class Shelf:
    """The copies of a title by where they are, reckoned anew from what the events say."""

    free: int
    reserved: int
    lent: int
    waiting: int

    @property
    def copies(self) -> int:
        return self.free + self.reserved + self.lent

    def then(self, event_type: EventType) -> "Shelf":
        match event_type:
            case EventType.PURCHASE:
                # While somebody waits it goes to the first of them, which RESERVED says.
                return (
                    replace(self, lent=self.lent + 1) if self.waiting else replace(self, free=self.free + 1)
                )
            case EventType.CHECKOUT if self.free:
                return replace(self, free=self.free - 1, lent=self.lent + 1)
            case EventType.CHECKOUT:
                return replace(self, reserved=self.reserved - 1, lent=self.lent + 1)
            case EventType.CHECKIN:
                assert self.lent
                return self if self.waiting else replace(self, free=self.free + 1, lent=self.lent - 1)
            case EventType.HOLD:
                assert self.copies
                return replace(self, waiting=self.waiting + 1)
            case EventType.RESERVED:
                return replace(self, waiting=self.waiting - 1, reserved=self.reserved + 1, lent=self.lent - 1)
            case EventType.REMOVED:
                place = next(place for place in ("free", "lent", "reserved") if getattr(self, place))
                left = replace(self, **{place: getattr(self, place) - 1})
                return left if left.copies else Shelf(0, 0, 0, 0)

    def assert_sound(self) -> None:
        assert min(self.free, self.reserved, self.lent, self.waiting) >= 0
        assert not (self.free and self.waiting)
        assert self.copies or not self.waiting


def shelf(purchase: Purchase) -> Shelf:
    return Shelf(purchase.available, 0, purchase.copies - purchase.available, purchase.holds)


# The copies


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), per_hour=st.integers(0, 1500), titles=st.integers(0, 50))
def test_every_event_is_possible_and_together_they_lead_to_the_copies_there_are(
    seed: int, per_hour: int, titles: int
) -> None:
    open_library = library(per_hour, titles=titles, seed=seed)
    open_library.activity.advance(OPENING + 2 * HOUR)
    shelves = {purchase.item_id: shelf(purchase) for purchase in open_library.before}
    for event in open_library.events():
        known = shelves.setdefault(event.item_id, Shelf(0, 0, 0, 0))
        shelves[event.item_id] = known.then(event.event_type)
        shelves[event.item_id].assert_sound()
    assert shelves == {
        item_id: Shelf(stock.available, stock.reserved, stock.loans, stock.holds)
        for item_id, stock in open_library.stocks().items()
    }


def test_a_copy_that_comes_in_while_patrons_wait_is_reserved_in_the_same_second() -> None:
    open_library = library(2000)
    open_library.activity.advance(OPENING + 3 * HOUR)
    events = open_library.events()
    reserved = [number for number, event in enumerate(events) if event.event_type is EventType.RESERVED]
    assert len(reserved) > 100
    came_in = {events[number - 1].event_type for number in reserved}
    assert came_in == {EventType.CHECKIN, EventType.PURCHASE}
    for number in reserved:
        copy, reservation = events[number - 1 : number + 1]
        assert (copy.item_id, copy.moment) == (reservation.item_id, reservation.moment)


def test_a_title_without_a_copy_has_left_for_good_and_nobody_waits_for_it() -> None:
    open_library = library(2000)
    open_library.activity.advance(OPENING + 5 * HOUR)
    gone = [item_id for item_id, stock in open_library.stocks().items() if not stock.copies]
    assert len(gone) > 10
    last = {event.item_id: event.event_type for event in open_library.events()}
    for item_id in gone:
        assert last[item_id] is EventType.REMOVED
        assert open_library.stocks()[item_id] == Stock(0, 0, 0, 0)


def test_new_titles_join_the_catalogue_with_one_copy_when_they_are_sold() -> None:
    open_library = library(1000)
    open_library.activity.advance(OPENING + 2 * HOUR)
    first = {event.item_id: event for event in reversed(open_library.events())}
    known = {purchase.item_id for purchase in open_library.before}
    new = [purchase for purchase in open_library.catalogue.purchases if purchase.item_id not in known]
    assert {purchase.item_id for purchase in new} == first.keys() - known
    assert len(new) > 5
    for purchase in new:
        event = first[purchase.item_id]
        assert (event.event_type, event.moment, event.isbn) == (
            EventType.PURCHASE,
            purchase.purchased_at,
            purchase.isbn,
        )
        assert (purchase.copies, purchase.available, purchase.holds) == (1, 1, 0)


def test_nothing_happens_to_titles_that_are_unusable_unlisted_or_not_bought_yet() -> None:
    open_library = library(3000, titles=200, until=OPENING + 300 * HOUR)
    open_library.activity.advance(OPENING + 10 * HOUR)
    told = {event.item_id for event in open_library.events()}
    odd = {p.item_id for p in open_library.before if p.flaw or not p.listed or p.purchased_at >= OPENING}
    assert len(odd) > 4
    assert told.isdisjoint(odd)
    assert {p.item_id for p in open_library.before} - odd <= told


def test_a_withdrawn_title_takes_no_part_any_more() -> None:
    open_library = library(1000)
    open_library.activity.advance(OPENING + HOUR)
    [(popular, _)] = Counter(event.item_id for event in open_library.events()[-50:]).most_common(1)
    open_library.activity.withdraw(popular, OPENING + HOUR)
    open_library.activity.advance(OPENING + 3 * HOUR)
    later = open_library.activity.between(OPENING + HOUR + timedelta(seconds=1), OPENING + 4 * HOUR)
    assert len(later) > 1000
    assert popular not in {event.item_id for event in later}


# The events


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    per_hour=st.integers(1, 1000),
    calls=st.lists(MOMENTS, max_size=12).map(sorted),
)
def test_the_same_happens_whenever_it_is_asked_for(seed: int, per_hour: int, calls: list[datetime]) -> None:
    asked_often, asked_once = library(per_hour, seed=seed), library(per_hour, seed=seed)
    known = []
    for now in calls:
        asked_often.activity.advance(now)
        known.append((now, len(asked_often.events())))
    for one in (asked_often, asked_once):
        one.activity.advance(OPENING + 2 * HOUR)
    assert asked_often.events() == asked_once.events()
    assert asked_often.stocks() == asked_once.stocks()
    assert asked_often.catalogue.purchases == asked_once.catalogue.purchases
    for now, events in known:
        assert len(asked_once.activity.between(OPENING, now, end_included=True)) == events


def test_another_seed_has_other_things_happen_and_another_opening_makes_other_events() -> None:
    first, other, later = library(200), library(200, seed=1), library(200, opening=OPENING + HOUR)
    for one in (first, other, later):
        one.activity.advance(OPENING + 3 * HOUR)
    assert [event.item_id for event in first.events()] != [event.item_id for event in other.events()]
    assert not {event.event_id for event in first.events()} & {event.event_id for event in later.events()}


def test_events_are_unique_and_come_in_the_order_of_their_whole_seconds() -> None:
    open_library = library(5000)
    open_library.activity.advance(OPENING + HOUR)
    events = open_library.events()
    moments = [event.moment for event in events]
    assert len({event.event_id for event in events}) == len(events)
    assert moments == sorted(moments)
    assert OPENING < moments[0] < moments[-1] <= OPENING + HOUR
    assert {moment.microsecond for moment in moments} == {0}
    assert events == sorted(events, key=lambda event: (event.moment, event.event_id))


def test_patrons_are_made_up_and_have_no_part_in_purchases_and_removals() -> None:
    open_library = library(2000)
    open_library.activity.advance(OPENING + HOUR)
    for event in open_library.events():
        of_the_library = event.event_type in (EventType.PURCHASE, EventType.REMOVED)
        assert event.patron == "" if of_the_library else event.patron.startswith(PATRON)


def test_most_of_it_is_lending_and_a_few_titles_have_most_of_the_readers() -> None:
    open_library = library(5000, titles=300)
    open_library.activity.advance(OPENING + 4 * HOUR)
    events = open_library.events()
    share = {kind: count / len(events) for kind, count in Counter(e.event_type for e in events).items()}
    assert share.keys() == set(EventType)
    assert share[EventType.CHECKOUT] + share[EventType.CHECKIN] > 0.75
    assert share[EventType.HOLD] > 0.03
    assert share[EventType.PURCHASE] + share[EventType.REMOVED] < 0.1
    most_read = Counter(event.item_id for event in events).most_common(10)
    assert sum(count for _, count in most_read) > len(events) / 4
    assert max(stock.holds for stock in open_library.stocks().values()) > 3


def test_a_hundred_thousand_events_take_seconds() -> None:
    open_library = library(100_000, titles=2000)
    started = perf_counter()
    open_library.activity.advance(OPENING + HOUR)
    assert len(open_library.events()) > 90_000
    assert perf_counter() - started < 20


# The rate


@pytest.mark.parametrize("per_hour", [60, 4000])
def test_there_are_as_many_events_an_hour_as_asked_for(per_hour: int) -> None:
    open_library = library(per_hour)
    open_library.activity.advance(OPENING + 24 * HOUR)
    counts = open_library.activity.statistics()["events"]
    # A reservation comes with the copy that came in.
    assert sum(counts.values()) - counts["RESERVED"] == pytest.approx(24 * per_hour, rel=0.1)


def test_without_a_rate_nothing_ever_happens() -> None:
    open_library = library(0)
    open_library.activity.advance(OPENING + 1000 * HOUR)
    assert open_library.activity.statistics() == {"per_hour": 0, "events": dict.fromkeys(EventType, 0)}
    assert {item_id: stock.copies for item_id, stock in open_library.stocks().items()} == {
        purchase.item_id: purchase.copies for purchase in open_library.before
    }


def test_standing_still_is_not_made_up_for() -> None:
    activity = library(600).activity
    closing, reopening = OPENING + HOUR, OPENING + 100 * HOUR
    activity.change_rate(0, closing)
    activity.change_rate(100, reopening)
    activity.advance(reopening + HOUR)
    assert activity.per_hour == 100
    assert 500 < len(activity.between(OPENING, closing, end_included=True)) < 750
    assert not activity.between(closing + timedelta(seconds=1), reopening)
    assert 70 < len(activity.between(reopening, reopening + 2 * HOUR)) < 140


def test_a_library_without_titles_begins_by_buying_one() -> None:
    open_library = library(60, titles=0)
    open_library.activity.advance(OPENING + HOUR)
    assert open_library.events()[0].event_type is EventType.PURCHASE
    assert len(open_library.catalogue) > 0
