"""Simulated circulation of the sandbox."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.sandbox.activity import PATRON_PREFIX, Activity, CopyState, Event, EventType
from accession.sandbox.catalogue import Catalogue, Purchase, build_catalogue
from tests.fixtures.sandbox import OPENING, SINCE, UNTIL

HOUR = timedelta(hours=1)
MOMENTS = st.timedeltas(timedelta(), 2 * HOUR).map(lambda delay: OPENING + delay)


@dataclass(frozen=True)
class Library:
    """A library with activity from `OPENING` on, and its purchases before."""

    catalogue: Catalogue
    before: Sequence[Purchase]
    activity: Activity

    def events(self) -> Sequence[Event]:
        return self.activity.between(SINCE, datetime.max.replace(tzinfo=OPENING.tzinfo))

    def stocks(self) -> dict[str, CopyState]:
        return {purchase.item_id: self.activity.copy_state(purchase) for purchase in self.catalogue.purchases}


def library(
    per_hour: int, *, titles: int = 40, seed: int = 0, opening: datetime = OPENING, until: datetime = UNTIL
) -> Library:
    catalogue = build_catalogue(titles, SINCE, until, seed=seed)
    before = list(catalogue.purchases)
    return Library(catalogue, before, Activity(catalogue, per_hour, opening, seed=seed))


@dataclass(frozen=True)
class ExpectedCopies:
    """State of a title's copies, computed independently from its events."""

    available: int
    reserved: int
    on_loan: int
    holds: int

    @property
    def copies(self) -> int:
        return self.available + self.reserved + self.on_loan

    def after(self, event_type: EventType) -> "ExpectedCopies":
        match event_type:
            case EventType.PURCHASE:
                # With holds the copy goes to the first patron; a RESERVED event follows.
                return (
                    replace(self, on_loan=self.on_loan + 1)
                    if self.holds
                    else replace(self, available=self.available + 1)
                )
            case EventType.CHECKOUT if self.available:
                return replace(self, available=self.available - 1, on_loan=self.on_loan + 1)
            case EventType.CHECKOUT:
                return replace(self, reserved=self.reserved - 1, on_loan=self.on_loan + 1)
            case EventType.CHECKIN:
                assert self.on_loan
                return (
                    self
                    if self.holds
                    else replace(self, available=self.available + 1, on_loan=self.on_loan - 1)
                )
            case EventType.HOLD:
                assert self.copies
                return replace(self, holds=self.holds + 1)
            case EventType.RESERVED:
                return replace(
                    self, holds=self.holds - 1, reserved=self.reserved + 1, on_loan=self.on_loan - 1
                )
            case EventType.REMOVED:
                state = next(name for name in ("available", "on_loan", "reserved") if getattr(self, name))
                remaining = replace(self, **{state: getattr(self, state) - 1})
                return remaining if remaining.copies else ExpectedCopies(0, 0, 0, 0)

    def assert_valid(self) -> None:
        assert min(self.available, self.reserved, self.on_loan, self.holds) >= 0
        assert not (self.available and self.holds)
        assert self.copies or not self.holds


def expected_copies(purchase: Purchase) -> ExpectedCopies:
    return ExpectedCopies(purchase.available, 0, purchase.copies - purchase.available, purchase.holds)


# Copies


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), per_hour=st.integers(0, 1500), titles=st.integers(0, 50))
def test_events_are_possible_and_explain_copies(seed: int, per_hour: int, titles: int) -> None:
    open_library = library(per_hour, titles=titles, seed=seed)
    open_library.activity.advance(OPENING + 2 * HOUR)
    states = {purchase.item_id: expected_copies(purchase) for purchase in open_library.before}
    for event in open_library.events():
        current = states.setdefault(event.item_id, ExpectedCopies(0, 0, 0, 0))
        states[event.item_id] = current.after(event.event_type)
        states[event.item_id].assert_valid()
    assert states == {
        item_id: ExpectedCopies(copy_state.available, copy_state.reserved, copy_state.loans, copy_state.holds)
        for item_id, copy_state in open_library.stocks().items()
    }


def test_copy_returned_with_holds_is_reserved_at_once() -> None:
    open_library = library(2000)
    open_library.activity.advance(OPENING + 3 * HOUR)
    events = open_library.events()
    reserved = [number for number, event in enumerate(events) if event.event_type is EventType.RESERVED]
    assert len(reserved) > 100
    preceding = {events[number - 1].event_type for number in reserved}
    assert preceding == {EventType.CHECKIN, EventType.PURCHASE}
    for number in reserved:
        copy, reservation = events[number - 1 : number + 1]
        assert (copy.item_id, copy.moment) == (reservation.item_id, reservation.moment)


def test_withdrawn_title_never_returns_and_has_no_holds() -> None:
    open_library = library(2000)
    open_library.activity.advance(OPENING + 3 * HOUR)
    withdrawn = [item_id for item_id, copy_state in open_library.stocks().items() if not copy_state.copies]
    assert len(withdrawn) > 10
    last = {event.item_id: event.event_type for event in open_library.events()}
    for item_id in withdrawn:
        assert last[item_id] is EventType.REMOVED
        assert open_library.stocks()[item_id] == CopyState(0, 0, 0, 0)


def test_new_title_joins_catalogue_with_one_copy() -> None:
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


def test_unusable_unlisted_and_future_titles_have_no_events() -> None:
    open_library = library(1000, titles=100, until=OPENING + 300 * HOUR)
    open_library.activity.advance(OPENING + 10 * HOUR)
    with_events = {event.item_id for event in open_library.events()}
    excluded = {
        p.item_id
        for p in open_library.before
        if p.flaw or not p.is_listed or p.purchased_at >= OPENING or p.on_sale or p.available > p.copies
    }
    assert len(excluded) > 4
    assert with_events.isdisjoint(excluded)
    assert {p.item_id for p in open_library.before} - excluded <= with_events


def test_title_withdrawn_by_hand_has_no_more_events() -> None:
    open_library = library(1000)
    open_library.activity.advance(OPENING + HOUR)
    [(popular, _)] = Counter(event.item_id for event in open_library.events()[-50:]).most_common(1)
    open_library.activity.withdraw(popular, OPENING + HOUR)
    open_library.activity.advance(OPENING + 3 * HOUR)
    later = open_library.activity.between(OPENING + HOUR + timedelta(seconds=1), OPENING + 4 * HOUR)
    assert len(later) > 1000
    assert popular not in {event.item_id for event in later}


# Events


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    per_hour=st.integers(1, 1000),
    calls=st.lists(MOMENTS, max_size=12).map(sorted),
)
def test_events_do_not_depend_on_when_they_are_requested(
    seed: int, per_hour: int, calls: list[datetime]
) -> None:
    advanced_often, advanced_once = library(per_hour, seed=seed), library(per_hour, seed=seed)
    known = []
    for now in calls:
        advanced_often.activity.advance(now)
        known.append((now, len(advanced_often.events())))
    for instance in (advanced_often, advanced_once):
        instance.activity.advance(OPENING + 2 * HOUR)
    assert advanced_often.events() == advanced_once.events()
    assert advanced_often.stocks() == advanced_once.stocks()
    assert advanced_often.catalogue.purchases == advanced_once.catalogue.purchases
    for now, events in known:
        assert len(advanced_once.activity.between(OPENING, now, end_included=True)) == events


def test_other_seed_or_start_gives_other_events() -> None:
    first, other, later = library(200), library(200, seed=1), library(200, opening=OPENING + HOUR)
    for instance in (first, other, later):
        instance.activity.advance(OPENING + 3 * HOUR)
    assert [event.item_id for event in first.events()] != [event.item_id for event in other.events()]
    assert not {event.event_id for event in first.events()} & {event.event_id for event in later.events()}


def test_events_are_unique_and_ordered_by_whole_seconds() -> None:
    open_library = library(5000)
    open_library.activity.advance(OPENING + HOUR)
    events = open_library.events()
    moments = [event.moment for event in events]
    assert len({event.event_id for event in events}) == len(events)
    assert moments == sorted(moments)
    assert OPENING < moments[0] < moments[-1] <= OPENING + HOUR
    assert {moment.microsecond for moment in moments} == {0}
    assert events == sorted(events, key=lambda event: (event.moment, event.event_id))


def test_only_patron_events_have_a_simulated_patron() -> None:
    open_library = library(2000)
    open_library.activity.advance(OPENING + HOUR)
    for event in open_library.events():
        is_library_event = event.event_type in (EventType.PURCHASE, EventType.REMOVED)
        assert event.patron == "" if is_library_event else event.patron.startswith(PATRON_PREFIX)


def test_loans_dominate_and_few_titles_are_popular() -> None:
    open_library = library(5000, titles=300)
    open_library.activity.advance(OPENING + 2 * HOUR)
    events = open_library.events()
    share = {kind: count / len(events) for kind, count in Counter(e.event_type for e in events).items()}
    assert share.keys() == set(EventType)
    assert share[EventType.CHECKOUT] + share[EventType.CHECKIN] > 0.75
    assert share[EventType.HOLD] > 0.03
    assert share[EventType.PURCHASE] + share[EventType.REMOVED] < 0.1
    most_read = Counter(event.item_id for event in events).most_common(10)
    assert sum(count for _, count in most_read) > len(events) / 4
    assert max(copy_state.holds for copy_state in open_library.stocks().values()) > 3


# Rate


@pytest.mark.parametrize(("per_hour", "hours"), [(60, 24), (4000, 2)])
def test_rate_gives_expected_number_of_events(per_hour: int, hours: int) -> None:
    open_library = library(per_hour)
    open_library.activity.advance(OPENING + hours * HOUR)
    counts = open_library.activity.statistics()["events"]
    # RESERVED events accompany returns and purchases and do not count towards the rate.
    assert sum(counts.values()) - counts["RESERVED"] == pytest.approx(hours * per_hour, rel=0.1)


def test_zero_rate_gives_no_events() -> None:
    open_library = library(0)
    open_library.activity.advance(OPENING + 1000 * HOUR)
    assert open_library.activity.statistics() == {"per_hour": 0, "events": dict.fromkeys(EventType, 0)}
    assert {item_id: copy_state.copies for item_id, copy_state in open_library.stocks().items()} == {
        purchase.item_id: purchase.copies for purchase in open_library.before
    }


def test_paused_activity_is_not_made_up_later() -> None:
    activity = library(600).activity
    closing, reopening = OPENING + HOUR, OPENING + 100 * HOUR
    activity.change_rate(0, closing)
    activity.change_rate(100, reopening)
    activity.advance(reopening + HOUR)
    assert activity.per_hour == 100
    assert 500 < len(activity.between(OPENING, closing, end_included=True)) < 750
    assert not activity.between(closing + timedelta(seconds=1), reopening)
    assert 70 < len(activity.between(reopening, reopening + 2 * HOUR)) < 140


def test_library_without_titles_starts_with_a_purchase() -> None:
    open_library = library(60, titles=0)
    open_library.activity.advance(OPENING + HOUR)
    assert open_library.events()[0].event_type is EventType.PURCHASE
    assert len(open_library.catalogue) > 0
