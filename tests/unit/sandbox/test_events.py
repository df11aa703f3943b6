"""A stand-in vendor whose library is open: what it tells of events, and what its titles say afterwards."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from lxml import etree

from accession.sandbox.activity import PATRON, Activity, EventType
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.server import Sandbox, running_sandbox
from tests.fixtures.sandbox import OPENING, SINCE, Caller, Clock, item_ids, subfields

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
Titles = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Open:
    """A vendor whose library opened at `OPENING`, somebody who asks it, and the hands of its clock."""

    caller: Caller
    clock: Clock

    def at(self, moment: datetime) -> Caller:
        self.clock.moment = moment
        return self.caller

    def told(self, start: datetime, end: datetime) -> list[dict[str, str]]:
        return self.caller.events(f"startdate={second(start)}&enddate={second(end)}")

    def titles(self) -> Titles:
        return {title["id"]: title for title in self.caller.behind("titles")}


OpenLibrary = Callable[..., Open]


@pytest.fixture
def open_library(http: httpx.Client) -> Iterator[OpenLibrary]:
    """Opens a library of so many events an hour."""
    with ExitStack() as stack:

        def opened(per_hour: int, *, titles: int = 120, end_included: bool = False) -> Open:
            catalogue = build_catalogue(titles, SINCE, OPENING, seed=5)
            clock = Clock(OPENING)
            activity = Activity(catalogue, per_hour, OPENING, seed=5)
            sandbox = Sandbox(catalogue, activity=activity, clock=clock, end_included=end_included)
            return Open(Caller(stack.enter_context(running_sandbox(sandbox)), http), clock)

        yield opened


def second(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


def ids(events: list[dict[str, str]]) -> list[str]:
    return [event["EventId"] for event in events]


# What the events explain


def test_a_day_in_windows_of_five_minutes_tells_each_event_once_and_explains_every_title(
    open_library: OpenLibrary,
) -> None:
    library = open_library(240)
    before = library.titles()
    events: list[dict[str, str]] = []
    for number in range(288):
        start = OPENING + 5 * number * MINUTE
        library.at(start + 5 * MINUTE)
        events += library.told(start, start + 5 * MINUTE)
    after = library.titles()

    assert len(ids(events)) == len(set(ids(events))) > 5000
    happened = library.caller.behind("statistics")["activity"]["events"]
    assert Counter(event["EventType"] for event in events) == happened
    copies = Counter({item_id: title["copies"] for item_id, title in before.items()})
    holds = Counter({item_id: title["holds"] for item_id, title in before.items()})
    for event in sorted(events, key=lambda event: (event["EventStartDateTimeInUTC"], event["EventId"])):
        item_id, kind = event["ItemId"], event["EventType"]
        copies[item_id] += (kind == "PURCHASE") - (kind == "REMOVED")
        holds[item_id] += (kind == "HOLD") - (kind == "RESERVED")
        if not copies[item_id]:
            holds[item_id] = 0
    assert len(after) > len(before)
    assert {item_id: (title["copies"], title["holds"]) for item_id, title in after.items()} == {
        item_id: (copies[item_id], holds[item_id]) for item_id in after
    }
    for title in after.values():
        assert 0 <= title["available"] + title["reserved"] <= title["copies"]
        assert not (title["available"] and title["holds"])


def test_items_say_how_the_copies_stand_now(open_library: OpenLibrary) -> None:
    library = open_library(1000)
    for moment in (OPENING, OPENING + 2 * HOUR):
        library.at(moment)
        titles = library.titles()
        listed = [item_id for item_id, title in titles.items() if title["listed"]]
        items = [
            item
            for number in range(0, len(listed), 25)
            for item in library.caller.items(*listed[number : number + 25])
        ]
        assert [item.findtext("ItemId") for item in items] == listed
        for item, title in zip(items, (titles[item_id] for item_id in listed), strict=True):
            assert item.findtext("TotalCopies") == str(title["copies"])
            assert int(item.findtext("AvailableCopies", "0")) == title["available"]
            assert item.findtext("OnHoldCount") == str(title["holds"])
            assert item.findtext("CanCheckout") == str(title["available"] > 0).upper()


def test_a_new_title_answers_everywhere_from_its_purchase_on(open_library: OpenLibrary) -> None:
    library = open_library(1000)
    known = library.titles()
    library.at(OPENING + HOUR)
    new = next(title for title in library.titles().values() if title["id"] not in known and title["listed"])
    bought = datetime.fromisoformat(new["purchased_at"])
    window = f"startdate={second(bought)}&enddate={second(bought + timedelta(seconds=1))}"
    assert [item_ids(record) for record in library.caller.records(window)] == [[new["id"]]]
    assert len(library.caller.records(f"startdate={second(OPENING)}")) == len(library.titles()) - len(known)
    assert len(library.caller.documents(f"data/marc/{new['id']}")) == 1
    assert len(library.caller.items(new["id"])) == 1
    assert [
        (event["EventType"], event["ISBN"])
        for event in library.told(bought, bought + timedelta(seconds=1))
        if event["ItemId"] == new["id"]
    ] == [("PURCHASE", new["isbn"])]
    assert library.caller.behind("statistics")["titles_bought"] == len(library.titles())


def test_a_title_that_has_left_is_gone_from_items_and_by_id_but_not_from_its_window(
    open_library: OpenLibrary,
) -> None:
    library = open_library(1000)
    there = {item_id for item_id, title in library.titles().items() if title["listed"]}
    library.at(OPENING + 5 * HOUR)
    left = next(title for title in library.titles().values() if title["id"] in there and not title["listed"])
    assert (left["copies"], left["available"], left["reserved"], left["holds"]) == (0, 0, 0, 0)
    assert library.caller.items(left["id"]) == []
    assert len(library.caller.documents(f"data/marc/{left['id']}")) == 0
    bought = datetime.fromisoformat(left["purchased_at"])
    window = f"startdate={second(bought)}&enddate={second(bought + timedelta(seconds=1))}"
    assert [left["id"]] in [subfields(record, "037", "a") for record in library.caller.records(window)]


def test_a_title_removed_by_hand_stays_as_it_was_and_no_event_tells_of_it(open_library: OpenLibrary) -> None:
    library = open_library(1000)
    library.at(OPENING + HOUR)
    popular, _ = Counter(
        event["ItemId"] for event in library.told(OPENING + 56 * MINUTE, OPENING + HOUR)
    ).most_common(1)[0]
    before = library.titles()[popular]
    assert library.caller.running.sandbox.remove(popular)
    library.at(OPENING + 2 * HOUR)
    assert library.titles()[popular] == {**before, "listed": False}
    later = [
        event
        for number in range(12)
        for event in library.told(
            OPENING + HOUR + 5 * number * MINUTE + timedelta(seconds=1),
            OPENING + HOUR + 5 * (number + 1) * MINUTE,
        )
    ]
    assert len(later) > 900
    assert popular not in {event["ItemId"] for event in later}


# The window


def test_without_dates_the_events_are_those_of_the_last_day(open_library: OpenLibrary) -> None:
    library = open_library(3)
    library.at(OPENING + 30 * HOUR)
    last_day = library.told(OPENING + 6 * HOUR, OPENING + 30 * HOUR)
    assert len(last_day) > 20
    assert ids(library.caller.events()) == ids(last_day)
    assert library.told(OPENING, OPENING + 6 * HOUR)


def test_a_window_with_one_date_ends_now_or_begins_a_day_before(open_library: OpenLibrary) -> None:
    library = open_library(1)
    caller = library.at(OPENING + 100 * HOUR)
    from_here = OPENING + 70 * HOUR
    assert ids(caller.events(f"startdate={second(from_here)}")) == ids(
        library.told(from_here, library.clock())
    )
    first_days = library.told(OPENING, OPENING + 72 * HOUR)
    assert ids(caller.events(f"startdate={second(OPENING)}")) == ids(first_days)
    day_before = library.told(from_here - 24 * HOUR, from_here)
    assert ids(caller.events(f"enddate={second(from_here)}")) == ids(day_before) != []


def test_a_window_of_more_than_three_days_is_refused(open_library: OpenLibrary) -> None:
    library = open_library(1)
    caller = library.at(OPENING + 100 * HOUR)
    assert library.told(OPENING, OPENING + 72 * HOUR)
    window = f"startdate={second(OPENING)}&enddate={second(OPENING + 72 * HOUR + timedelta(seconds=1))}"
    answer = caller.get(f"data/cloudevents?{window}")
    assert answer.status_code == 400
    assert etree.fromstring(answer.content).findtext("Message") == "at most 72 hours"
    assert caller.get("data/cloudevents?startdate=soon").status_code == 400


@pytest.mark.parametrize("end_included", [False, True])
def test_a_window_ends_before_its_end_unless_the_setting_says_otherwise(
    open_library: OpenLibrary, end_included: bool
) -> None:
    library = open_library(100, end_included=end_included)
    library.at(OPENING + HOUR)
    edge = datetime.fromisoformat(library.told(OPENING, OPENING + HOUR)[20]["EventStartDateTimeInUTC"])
    edge = edge.replace(tzinfo=OPENING.tzinfo)
    moments = {event["EventStartDateTimeInUTC"] for event in library.told(OPENING, edge)}
    assert (second(edge) in moments) == end_included
    assert second(edge) in {event["EventStartDateTimeInUTC"] for event in library.told(edge, edge + HOUR)}


def test_a_long_answer_is_cut_without_a_word_to_a_hundred_or_more_of_its_first_events(
    open_library: OpenLibrary,
) -> None:
    library = open_library(2000)
    library.at(OPENING + HOUR)
    minutes = [
        event
        for number in range(10)
        for event in library.told(OPENING + number * MINUTE, OPENING + (number + 1) * MINUTE)
    ]
    sizes = set()
    for number in range(10, 40):
        events = library.told(OPENING, OPENING + number * MINUTE)
        assert ids(events) == ids(minutes)[: len(events)]
        assert ids(library.told(OPENING, OPENING + number * MINUTE)) == ids(events)
        sizes.add(len(events))
    assert 100 <= min(sizes) < max(sizes) <= 150
    assert len(sizes) > 5


# The document


def test_events_look_like_the_vendors(open_library: OpenLibrary) -> None:
    library = open_library(1000)
    library.at(OPENING + HOUR)
    titles = library.titles()
    windows = [(OPENING + number * MINUTE, OPENING + (number + 1) * MINUTE) for number in range(60)]
    answers = [events for window in windows if (events := library.told(*window))]
    for event in (event for events in answers for event in events):
        kind = EventType(event["EventType"])
        assert titles[event["ItemId"]]["isbn"] == event["ISBN"]
        assert (event["EventEndDateTimeInUTC"] == "") == (kind is EventType.PURCHASE)
        of_the_library = kind in (EventType.PURCHASE, EventType.REMOVED)
        assert event["PatronId"].startswith(PATRON) != of_the_library
        if "PatronLibraryId" in event:
            assert (PATRON in event["PatronLibraryId"]) != of_the_library
    with_library = [{"LibraryId" in event for event in events} for events in answers]
    assert {True} in with_library
    assert {False} in with_library
    assert {True, False} not in with_library


def test_they_come_in_no_order_when_shuffled(open_library: OpenLibrary) -> None:
    library = open_library(600)
    library.at(OPENING + HOUR)
    ordered = library.told(OPENING, OPENING + 5 * MINUTE)
    moments = [event["EventStartDateTimeInUTC"] for event in ordered]
    assert moments == sorted(moments)
    library.caller.misbehave("shuffle-events=1")
    shuffled = library.told(OPENING, OPENING + 5 * MINUTE)
    assert ids(shuffled) != ids(ordered)
    assert sorted(ids(shuffled)) == sorted(ids(ordered))


def test_some_stand_there_twice_when_repeated(open_library: OpenLibrary) -> None:
    library = open_library(600)
    library.at(OPENING + HOUR)
    usual = library.told(OPENING, OPENING + 5 * MINUTE)
    library.caller.misbehave("repeat-events=1")
    times = Counter(ids(library.told(OPENING, OPENING + 5 * MINUTE)))
    assert times.keys() == set(ids(usual))
    assert set(times.values()) == {1, 2}
    assert library.caller.behind("statistics")["faults"] == {"repeat-events": 1}


def test_a_window_without_events_is_an_empty_root_or_blank_every_time(open_library: OpenLibrary) -> None:
    library = open_library(600)
    library.at(OPENING + HOUR)
    quiet = f"startdate={second(OPENING - HOUR)}&enddate={second(OPENING)}"
    batch = library.caller.documents(f"data/cloudevents?{quiet}")
    assert (batch.tag, len(batch)) == ("LibraryEventBatch", 0)
    library.caller.misbehave("blank-when-empty=1")
    assert [library.caller.get(f"data/cloudevents?{quiet}").content for _ in range(2)] == [b"", b""]
    assert library.told(OPENING, OPENING + HOUR)


# The rate


def test_the_rate_can_be_changed_and_stood_still(open_library: OpenLibrary) -> None:
    library = open_library(600)
    url = f"{library.caller.running.base_url}/sandbox/activity"
    library.at(OPENING + HOUR)
    answer = library.caller.http.post(f"{url}/0")
    assert answer.status_code == 200
    assert answer.json() == library.caller.behind("statistics")["activity"]
    assert answer.json()["per_hour"] == 0
    assert sum(answer.json()["events"].values()) > 400

    titles = library.titles()
    library.at(OPENING + 9 * HOUR)
    assert library.told(OPENING + HOUR + timedelta(seconds=1), OPENING + 9 * HOUR) == []
    assert library.titles() == titles

    assert library.caller.http.post(f"{url}/100").json()["per_hour"] == 100
    library.at(OPENING + 10 * HOUR)
    assert len(library.told(OPENING + 9 * HOUR, OPENING + 10 * HOUR)) > 60


@pytest.mark.parametrize("wrong", ["-1", "many", "1.5", "nan"])
def test_a_rate_that_is_none_is_explained_and_changes_nothing(open_library: OpenLibrary, wrong: str) -> None:
    library = open_library(7)
    answer = library.caller.http.post(f"{library.caller.running.base_url}/sandbox/activity/{wrong}")
    assert answer.status_code == 400
    assert answer.text.startswith(f'"{wrong}" is no number of events an hour')
    assert library.caller.behind("statistics")["activity"]["per_hour"] == 7


def test_a_closed_library_still_tells_what_it_has(vendor: Caller) -> None:
    assert vendor.behind("statistics")["activity"] == {"per_hour": 0, "events": dict.fromkeys(EventType, 0)}
    bought = {p.item_id: (p.copies, p.available, p.holds) for p in vendor.running.catalogue.purchases}
    titles = vendor.behind("titles")
    assert bought == {t["id"]: (t["copies"], t["available"], t["holds"]) for t in titles}
    assert {title["reserved"] for title in titles} == {0}
