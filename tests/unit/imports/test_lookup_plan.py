"""Tests of when the titles of an import are looked up."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from accession.imports.lookup_plan import MAX_PENDING_PAGES, PendingLookups

REQUEST_SIZE = 25
TITLES_BY_PAGE = st.lists(st.integers(0, 50) | st.just(0) | st.integers(0, 3), min_size=1, max_size=200)


@dataclass(frozen=True)
class Lookup:
    """The look-up after a page: its number of requests, and the page that each of its titles was on."""

    page: int
    requests: int
    titles: Sequence[int]


def lookups_of(titles_by_page: Sequence[int]) -> list[Lookup]:
    """Return the look-ups of an import with so many new titles on each page, and check what is pending."""
    pending, waiting, lookups = PendingLookups(), list[int](), list[Lookup]()
    for page, titles in enumerate(titles_by_page, 1):
        waiting += [page] * titles
        plan = pending.plan(page, titles, is_last=page == len(titles_by_page))
        if plan.due:
            lookups.append(Lookup(page, plan.requests, waiting[: plan.due]))
        waiting = waiting[plan.due :]
        pending = plan.remaining
        assert pending == PendingLookups(len(waiting), waiting[0] if waiting else 0)
    return lookups


@given(TITLES_BY_PAGE)
def test_every_title_is_looked_up_by_the_end(titles_by_page: list[int]) -> None:
    lookups = lookups_of(titles_by_page)
    assert sum(len(lookup.titles) for lookup in lookups) == sum(titles_by_page)


@given(TITLES_BY_PAGE)
def test_no_title_waits_for_more_than_50_pages(titles_by_page: list[int]) -> None:
    for lookup in lookups_of(titles_by_page):
        assert lookup.page - lookup.titles[0] <= MAX_PENDING_PAGES


@given(TITLES_BY_PAGE)
def test_requests_are_full_unless_a_title_has_waited(titles_by_page: list[int]) -> None:
    for lookup in lookups_of(titles_by_page):
        is_full = len(lookup.titles) == lookup.requests * REQUEST_SIZE
        has_waited = lookup.page - lookup.titles[0] == MAX_PENDING_PAGES
        assert is_full or has_waited or lookup.page == len(titles_by_page)


@given(TITLES_BY_PAGE)
def test_fewer_than_25_titles_are_pending(titles_by_page: list[int]) -> None:
    pending = PendingLookups()
    for page, titles in enumerate(titles_by_page, 1):
        pending = pending.plan(page, titles, is_last=False).remaining
        assert pending.titles < REQUEST_SIZE


def test_titles_of_earlier_runs_are_looked_up_with_the_next() -> None:
    """Several runs may have left more titles than one request has room for."""
    plan = PendingLookups(48).plan(1, 5, is_last=False)
    assert (plan.due, plan.remaining) == (50, PendingLookups(3, 1))
