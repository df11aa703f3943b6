"""Circulation events of the sandbox over HTTP."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from lxml import etree

from accession.sandbox.activity import PATRON_PREFIX, Activity, EventType
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.vendor import Sandbox
from tests.fixtures.running_sandbox import running_sandbox
from tests.fixtures.sandbox import OPENING, SINCE, Clock, SandboxClient, item_ids, subfields

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
Titles = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class OpenLibrary:
    """A sandbox with activity since `OPENING`, a client, and the clock of the sandbox."""

    client: SandboxClient
    clock: Clock

    def at(self, moment: datetime) -> SandboxClient:
        self.clock.now = moment
        return self.client

    def events(self, start: datetime, end: datetime) -> list[dict[str, str]]:
        return self.client.events(f"startdate={second(start)}&enddate={second(end)}")

    def titles(self) -> Titles:
        return {title["id"]: title for title in self.client.sandbox_state("titles")}


LibraryFactory = Callable[..., OpenLibrary]


@pytest.fixture
def open_library(http: httpx.Client) -> Iterator[LibraryFactory]:
    """Factory of sandboxes with a number of events per hour."""
    with ExitStack() as stack:

        def create(per_hour: int, *, titles: int = 120, end_included: bool = False) -> OpenLibrary:
            catalogue = build_catalogue(titles, SINCE, OPENING, seed=5)
            clock = Clock(OPENING)
            activity = Activity(catalogue, per_hour, OPENING, seed=5)
            sandbox = Sandbox(catalogue, activity=activity, clock=clock, end_included=end_included)
            return OpenLibrary(SandboxClient(stack.enter_context(running_sandbox(sandbox)), http), clock)

        yield create


def second(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}"


def ids(events: list[dict[str, str]]) -> list[str]:
    return [event["EventId"] for event in events]


# Events and copies


def test_five_minute_windows_return_each_event_once(
    open_library: LibraryFactory,
) -> None:
    library = open_library(240)
    before = library.titles()
    events: list[dict[str, str]] = []
    for number in range(288):
        start = OPENING + 5 * number * MINUTE
        library.at(start + 5 * MINUTE)
        events += library.events(start, start + 5 * MINUTE)
    after = library.titles()

    assert len(ids(events)) == len(set(ids(events))) > 5000
    counts = library.client.sandbox_state("statistics")["activity"]["events"]
    assert Counter(event["EventType"] for event in events) == counts
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
    impossible = [item_id for item_id, title in before.items() if title["available"] > title["copies"]]
    assert len(impossible) == 1
    assert impossible[0] not in {event["ItemId"] for event in events}
    for item_id, title in after.items():
        assert item_id in impossible or 0 <= title["available"] + title["reserved"] <= title["copies"]
        assert not (title["available"] and title["holds"])


def test_items_show_current_copies(open_library: LibraryFactory) -> None:
    library = open_library(1000)
    for moment in (OPENING, OPENING + 2 * HOUR):
        library.at(moment)
        titles = library.titles()
        listed = [item_id for item_id, title in titles.items() if title["listed"]]
        items = [
            item
            for number in range(0, len(listed), 25)
            for item in library.client.items(*listed[number : number + 25])
        ]
        assert [item.findtext("ItemId") for item in items] == listed
        for item, title in zip(items, (titles[item_id] for item_id in listed), strict=True):
            assert item.findtext("TotalCopies") == str(title["copies"])
            assert int(item.findtext("AvailableCopies", "0")) == title["available"]
            assert item.findtext("OnHoldCount") == str(title["holds"])
            assert item.findtext("CanCheckout") == str(title["available"] > 0).upper()


def test_new_title_is_returned_by_all_endpoints(open_library: LibraryFactory) -> None:
    library = open_library(1000)
    known = library.titles()
    library.at(OPENING + HOUR)
    new = next(title for title in library.titles().values() if title["id"] not in known and title["listed"])
    purchased = datetime.fromisoformat(new["purchased_at"])
    window = f"startdate={second(purchased)}&enddate={second(purchased + timedelta(seconds=1))}"
    assert [item_ids(record) for record in library.client.records(window)] == [[new["id"]]]
    assert len(library.client.records(f"startdate={second(OPENING)}")) == len(library.titles()) - len(known)
    assert len(library.client.documents(f"data/marc/{new['id']}")) == 1
    assert len(library.client.items(new["id"])) == 1
    assert [
        (event["EventType"], event["ISBN"])
        for event in library.events(purchased, purchased + timedelta(seconds=1))
        if event["ItemId"] == new["id"]
    ] == [("PURCHASE", new["isbn"])]
    assert library.client.sandbox_state("statistics")["titles_purchased"] == len(library.titles())


def test_withdrawn_title_remains_in_window_only(
    open_library: LibraryFactory,
) -> None:
    library = open_library(1000)
    listed = {item_id for item_id, title in library.titles().items() if title["listed"]}
    library.at(OPENING + 5 * HOUR)
    withdrawn = next(
        title for title in library.titles().values() if title["id"] in listed and not title["listed"]
    )
    assert (withdrawn["copies"], withdrawn["available"], withdrawn["reserved"], withdrawn["holds"]) == (
        0,
        0,
        0,
        0,
    )
    assert library.client.items(withdrawn["id"]) == []
    assert len(library.client.documents(f"data/marc/{withdrawn['id']}")) == 0
    purchased = datetime.fromisoformat(withdrawn["purchased_at"])
    window = f"startdate={second(purchased)}&enddate={second(purchased + timedelta(seconds=1))}"
    assert [withdrawn["id"]] in [subfields(record, "037", "a") for record in library.client.records(window)]


def test_title_removed_by_hand_has_no_events(open_library: LibraryFactory) -> None:
    library = open_library(1000)
    library.at(OPENING + HOUR)
    popular, _ = Counter(
        event["ItemId"] for event in library.events(OPENING + 56 * MINUTE, OPENING + HOUR)
    ).most_common(1)[0]
    before = library.titles()[popular]
    assert library.client.running.sandbox.remove(popular)
    library.at(OPENING + 2 * HOUR)
    assert library.titles()[popular] == {**before, "listed": False}
    later = [
        event
        for number in range(12)
        for event in library.events(
            OPENING + HOUR + 5 * number * MINUTE + timedelta(seconds=1),
            OPENING + HOUR + 5 * (number + 1) * MINUTE,
        )
    ]
    assert len(later) > 900
    assert popular not in {event["ItemId"] for event in later}


# Windows


def test_events_without_dates_are_of_last_day(open_library: LibraryFactory) -> None:
    library = open_library(3)
    library.at(OPENING + 30 * HOUR)
    last_day = library.events(OPENING + 6 * HOUR, OPENING + 30 * HOUR)
    assert len(last_day) > 20
    assert ids(library.client.events()) == ids(last_day)
    assert library.events(OPENING, OPENING + 6 * HOUR)


def test_window_with_one_date_gets_default_end_or_start(open_library: LibraryFactory) -> None:
    library = open_library(1)
    client = library.at(OPENING + 100 * HOUR)
    start = OPENING + 70 * HOUR
    assert ids(client.events(f"startdate={second(start)}")) == ids(library.events(start, library.clock()))
    first_days = library.events(OPENING, OPENING + 72 * HOUR)
    assert ids(client.events(f"startdate={second(OPENING)}")) == ids(first_days)
    day_before = library.events(start - 24 * HOUR, start)
    assert ids(client.events(f"enddate={second(start)}")) == ids(day_before) != []


def test_window_longer_than_three_days_is_rejected(open_library: LibraryFactory) -> None:
    library = open_library(1)
    client = library.at(OPENING + 100 * HOUR)
    assert library.events(OPENING, OPENING + 72 * HOUR)
    window = f"startdate={second(OPENING)}&enddate={second(OPENING + 72 * HOUR + timedelta(seconds=1))}"
    response = client.get(f"data/cloudevents?{window}")
    assert response.status_code == 400
    assert etree.fromstring(response.content).findtext("Message") == "at most 72 hours"
    assert client.get("data/cloudevents?startdate=soon").status_code == 400


@pytest.mark.parametrize("end_included", [False, True])
def test_window_excludes_its_end_unless_configured(open_library: LibraryFactory, end_included: bool) -> None:
    library = open_library(100, end_included=end_included)
    library.at(OPENING + HOUR)
    edge = datetime.fromisoformat(library.events(OPENING, OPENING + HOUR)[20]["EventStartDateTimeInUTC"])
    edge = edge.replace(tzinfo=OPENING.tzinfo)
    moments = {event["EventStartDateTimeInUTC"] for event in library.events(OPENING, edge)}
    assert (second(edge) in moments) == end_included
    assert second(edge) in {event["EventStartDateTimeInUTC"] for event in library.events(edge, edge + HOUR)}


def test_long_event_response_is_truncated(
    open_library: LibraryFactory,
) -> None:
    library = open_library(2000)
    library.at(OPENING + HOUR)
    minutes = [
        event
        for number in range(10)
        for event in library.events(OPENING + number * MINUTE, OPENING + (number + 1) * MINUTE)
    ]
    sizes = set()
    for number in range(10, 40):
        events = library.events(OPENING, OPENING + number * MINUTE)
        assert ids(events) == ids(minutes)[: len(events)]
        assert ids(library.events(OPENING, OPENING + number * MINUTE)) == ids(events)
        sizes.add(len(events))
    assert 100 <= min(sizes) < max(sizes) <= 150
    assert len(sizes) > 5


# Documents


def test_event_elements_match_vendor_format(open_library: LibraryFactory) -> None:
    library = open_library(1000)
    library.at(OPENING + HOUR)
    titles = library.titles()
    windows = [(OPENING + number * MINUTE, OPENING + (number + 1) * MINUTE) for number in range(60)]
    batches = [events for window in windows if (events := library.events(*window))]
    for event in (event for events in batches for event in events):
        kind = EventType(event["EventType"])
        assert titles[event["ItemId"]]["isbn"] == event["ISBN"]
        assert (event["EventEndDateTimeInUTC"] == "") == (kind is EventType.PURCHASE)
        is_library_event = kind in (EventType.PURCHASE, EventType.REMOVED)
        assert event["PatronId"].startswith(PATRON_PREFIX) != is_library_event
        if "PatronLibraryId" in event:
            assert (PATRON_PREFIX in event["PatronLibraryId"]) != is_library_event
    with_library = [{"LibraryId" in event for event in events} for events in batches]
    assert {True} in with_library
    assert {False} in with_library
    assert {True, False} not in with_library


def test_shuffled_events_are_out_of_order(open_library: LibraryFactory) -> None:
    library = open_library(600)
    library.at(OPENING + HOUR)
    ordered = library.events(OPENING, OPENING + 5 * MINUTE)
    moments = [event["EventStartDateTimeInUTC"] for event in ordered]
    assert moments == sorted(moments)
    library.client.set_faults("shuffle-events=1")
    shuffled = library.events(OPENING, OPENING + 5 * MINUTE)
    assert ids(shuffled) != ids(ordered)
    assert sorted(ids(shuffled)) == sorted(ids(ordered))


def test_repeated_events_appear_twice(open_library: LibraryFactory) -> None:
    library = open_library(600)
    library.at(OPENING + HOUR)
    usual = library.events(OPENING, OPENING + 5 * MINUTE)
    library.client.set_faults("repeat-events=1")
    times = Counter(ids(library.events(OPENING, OPENING + 5 * MINUTE)))
    assert times.keys() == set(ids(usual))
    assert set(times.values()) == {1, 2}
    assert library.client.sandbox_state("statistics")["faults"] == {"repeat-events": 1}


def test_empty_window_gives_empty_root_or_empty_body(open_library: LibraryFactory) -> None:
    library = open_library(600)
    library.at(OPENING + HOUR)
    empty_window = f"startdate={second(OPENING - HOUR)}&enddate={second(OPENING)}"
    batch = library.client.documents(f"data/cloudevents?{empty_window}")
    assert (batch.tag, len(batch)) == ("LibraryEventBatch", 0)
    library.client.set_faults("blank-when-empty=1")
    assert [library.client.get(f"data/cloudevents?{empty_window}").content for _ in range(2)] == [b"", b""]
    assert library.events(OPENING, OPENING + HOUR)


# Rate


def test_activity_rate_can_be_changed_and_stopped(open_library: LibraryFactory) -> None:
    library = open_library(600)
    url = f"{library.client.running.base_url}/sandbox/activity"
    library.at(OPENING + HOUR)
    response = library.client.http.post(f"{url}/0")
    assert response.status_code == 200
    assert response.json() == library.client.sandbox_state("statistics")["activity"]
    assert response.json()["per_hour"] == 0
    assert sum(response.json()["events"].values()) > 400

    titles = library.titles()
    library.at(OPENING + 9 * HOUR)
    assert library.events(OPENING + HOUR + timedelta(seconds=1), OPENING + 9 * HOUR) == []
    assert library.titles() == titles

    assert library.client.http.post(f"{url}/100").json()["per_hour"] == 100
    library.at(OPENING + 10 * HOUR)
    assert len(library.events(OPENING + 9 * HOUR, OPENING + 10 * HOUR)) > 60


@pytest.mark.parametrize("wrong", ["-1", "many", "1.5", "nan"])
def test_invalid_rate_is_explained_and_ignored(open_library: LibraryFactory, wrong: str) -> None:
    library = open_library(7)
    response = library.client.http.post(f"{library.client.running.base_url}/sandbox/activity/{wrong}")
    assert response.status_code == 400
    assert response.text.startswith(f'"{wrong}" is not a number of events per hour')
    assert library.client.sandbox_state("statistics")["activity"]["per_hour"] == 7


def test_sandbox_without_activity_shows_titles(vendor: SandboxClient) -> None:
    assert vendor.sandbox_state("statistics")["activity"] == {
        "per_hour": 0,
        "events": dict.fromkeys(EventType, 0),
    }
    purchased = {p.item_id: (p.copies, p.available, p.holds) for p in vendor.running.catalogue.purchases}
    titles = vendor.sandbox_state("titles")
    assert purchased == {t["id"]: (t["copies"], t["available"], t["holds"]) for t in titles}
    assert {title["reserved"] for title in titles} == {0}
