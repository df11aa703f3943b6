"""Changes of the simulated vendor's purchase records: late, backdated, and shifted between two pages."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

from accession.sandbox.catalogue import Catalogue, NewTitles
from accession.sandbox.faults import Faults
from accession.sandbox.vendor import Sandbox
from tests.fixtures.running_sandbox import running_sandbox
from tests.fixtures.sandbox import Clock, SandboxClient, subfields

DAY = timedelta(days=1)
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
SECOND = FIRST + DAY
END = FIRST + 3 * DAY
LATE_DAYS = 10


@dataclass(frozen=True)
class PurchaseFeed:
    """A sandbox with 60 purchases on 1 January and 5 on 2 January, and its clock."""

    client: SandboxClient
    clock: Clock

    def page(self, start: datetime, end: datetime, offset: int = 1, limit: int = 50) -> list[str]:
        """Return the ids of the records in order."""
        window = f"startdate={start:%Y-%m-%dT%H:%M:%S}&enddate={end:%Y-%m-%dT%H:%M:%S}"
        records = self.client.records(f"{window}&offset={offset}&limit={limit}")
        return [subfields(record, "037", "a")[0] for record in records]

    def all_records(self) -> list[str]:
        """Return the ids of all records, page by page and without faults of single requests."""
        shares = self.client.running.sandbox.faults.shares
        faults = ",".join(f"{fault}={share}" for fault, share in shares.items() if fault == "late")
        self.client.set_faults(faults)
        ids: list[str] = []
        while page := self.page(FIRST - 100 * DAY, END, len(ids) + 1):
            ids += page
        return ids

    def titles(self) -> list[dict[str, Any]]:
        titles: list[dict[str, Any]] = self.client.sandbox_state("titles")
        return titles

    def statistics(self) -> dict[str, Any]:
        statistics: dict[str, Any] = self.client.sandbox_state("statistics")
        return statistics

    def assert_titles_tell_the_records(self) -> None:
        records = self.all_records()
        assert [title["id"] for title in self.titles() if title["has_record"]] == records
        assert self.statistics()["titles_purchased"] == len(records)


FeedFactory = Callable[..., PurchaseFeed]


@pytest.fixture
def open_feed(http: httpx.Client) -> Iterator[FeedFactory]:
    """Factory of sandboxes with a faults specification; the clock shows the end of 3 January."""
    with ExitStack() as stack:

        def create(faults: str = "", seed: int = 0) -> PurchaseFeed:
            new_titles = NewTitles(Catalogue([]), 0)
            moments = [FIRST + timedelta(minutes=20 * (number + 1)) for number in range(60)]
            moments += [SECOND + timedelta(hours=hour) for hour in (1, 2, 3, 4, 5)]
            catalogue = Catalogue(new_titles.next_purchase(moment) for moment in moments)
            clock = Clock(END)
            sandbox = Sandbox(catalogue, faults=Faults.parse(faults, seed), late_days=LATE_DAYS, clock=clock)
            return PurchaseFeed(SandboxClient(stack.enter_context(running_sandbox(sandbox)), http), clock)

        yield create


# Late purchases


def test_late_purchase_gets_its_record_later(open_feed: FeedFactory) -> None:
    feed = open_feed("late=0.4")
    counts = []
    for days in range(LATE_DAYS + 1):
        feed.clock.now = END + days * DAY
        counts.append(len(feed.all_records()))
        feed.assert_titles_tell_the_records()
        assert feed.statistics()["late_records"] == 65 - counts[-1]
    assert counts == sorted(counts)
    assert counts[0] < 60
    assert len(set(counts)) > 4, "not all at once"
    assert counts[-1] == 65
    assert feed.all_records() == [title["id"] for title in feed.titles()]


def test_late_purchases_depend_on_the_seed(open_feed: FeedFactory) -> None:
    first, same, other = (open_feed("late=0.4", seed).all_records() for seed in (1, 1, 2))
    assert first == same
    assert first != other


def test_late_purchase_is_owned_without_a_record(open_feed: FeedFactory) -> None:
    feed = open_feed("late=1")
    feed.clock.now = FIRST + timedelta(hours=1)
    late = next(title for title in feed.titles() if not title["has_record"])
    assert late["listed"]
    assert len(feed.client.items(late["id"])) == 1
    assert len(feed.client.documents(f"data/marc/{late['id']}")) == 0
    feed.clock.now = END + LATE_DAYS * DAY
    assert len(feed.client.documents(f"data/marc/{late['id']}")) == 1


# Backdated purchases


def test_backdated_purchase_is_in_its_day(open_feed: FeedFactory) -> None:
    feed = open_feed("late=1")
    before = feed.all_records()
    url = f"{feed.client.running.base_url}/sandbox/purchase"
    title = feed.client.http.post(f"{url}/2023-12-24T10:30:00").json()
    assert title["purchased_at"] == "2023-12-24T10:30:00+00:00"
    assert title in feed.titles()
    assert (title["copies"], title["usable"], title["listed"], title["has_record"]) == (1, True, True, True)
    day = datetime(2023, 12, 24, tzinfo=UTC)
    assert feed.page(day, day + DAY) == [title["id"]]
    assert len(feed.client.items(title["id"])) == 1
    assert feed.all_records() == [title["id"], *before]
    feed.assert_titles_tell_the_records()


def test_backdated_purchase_shifts_later_offsets(open_feed: FeedFactory) -> None:
    feed = open_feed()
    before = feed.page(FIRST, SECOND, offset=51)
    added = feed.client.running.sandbox.purchase(FIRST)
    assert feed.page(FIRST, SECOND)[0] == added["id"]
    assert feed.page(FIRST, SECOND, offset=52) == before


def test_purchase_at_an_invalid_time_is_rejected(open_feed: FeedFactory) -> None:
    feed = open_feed()
    response = feed.client.http.post(f"{feed.client.running.base_url}/sandbox/purchase/yesterday")
    assert response.status_code == 400
    assert response.text.startswith('"yesterday" is not a time')
    assert len(feed.titles()) == 65


# Records that are withdrawn or added between two pages


def test_first_shift_withdraws_the_first_record(open_feed: FeedFactory) -> None:
    feed = open_feed("shift-page=1")
    page = feed.page(FIRST, SECOND)
    others = feed.page(FIRST, SECOND, offset=51)
    assert feed.all_records() == [*page[1:], *feed.all_records()[49:]]
    assert len(others) == 9, "the record at offset 51 is now at offset 50"
    withdrawn = next(title for title in feed.titles() if title["id"] == page[0])
    assert (withdrawn["has_record"], withdrawn["listed"]) == (False, True)
    assert len(feed.client.documents(f"data/marc/{page[0]}")) == 0
    assert feed.statistics()["withdrawn_records"] == 1
    assert feed.statistics()["late_records"] == 0
    assert feed.statistics()["faults"] == {"shift-page": 1}
    feed.assert_titles_tell_the_records()


def test_second_shift_adds_a_record_at_the_start(open_feed: FeedFactory) -> None:
    feed = open_feed("shift-page=1")
    known = {title["id"] for title in feed.titles()}
    page = feed.page(FIRST, SECOND)
    feed.page(FIRST, SECOND, offset=51)
    assert feed.page(FIRST, SECOND, offset=51)[0] not in page
    first, *others = feed.all_records()
    assert first not in known
    assert others[:49] == page[1:]
    [added] = [title for title in feed.titles() if title["id"] not in known]
    assert (added["id"], added["purchased_at"]) == (first, FIRST.isoformat())
    assert feed.statistics()["faults"] == {"shift-page": 2}
    feed.assert_titles_tell_the_records()


def test_shift_changes_the_day_of_the_offset(open_feed: FeedFactory) -> None:
    feed = open_feed("shift-page=1")
    second_day = feed.page(SECOND, END)
    feed.page(FIRST, END, offset=62)
    withdrawn = [title["id"] for title in feed.titles() if not title["has_record"]]
    assert withdrawn == second_day[:1]
    feed.page(FIRST, END, offset=62)
    dates = [date.fromisoformat(title["purchased_at"][:10]) for title in feed.titles()]
    assert (dates.count(FIRST.date()), dates.count(SECOND.date())) == (60, 6)


@pytest.mark.parametrize(
    ("start", "offset"),
    [(FIRST, 1), (FIRST, 60), (FIRST, 61), (FIRST, 65), (FIRST, 66), (SECOND, 5), (SECOND, 90)],
    ids=["first page", "anchor", "next day", "last", "after last", "last of day", "far after last"],
)
def test_shift_does_not_apply_at_the_end_of_a_day(
    open_feed: FeedFactory, start: datetime, offset: int
) -> None:
    feed = open_feed("shift-page=1")
    feed.page(start, END, offset)
    assert feed.statistics()["faults"] == {}
    assert len(feed.all_records()) == 65
