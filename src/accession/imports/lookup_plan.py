"""Collect the titles of several pages until they fill a request for metadata.

A window has few new titles, and a request has room for 25. Titles therefore wait for those of the next
pages, as pending titles of their run, but not for long: see `PendingLookups.plan`.
"""

from dataclasses import dataclass

from accession.bibliotheca.client import MAX_ITEMS

# These take a few seconds. In simulations, 30 pages made up to 50% more requests for metadata, and 100
# pages hardly fewer, except for libraries with purchases on one day in twenty.
MAX_PENDING_PAGES = 50


@dataclass(frozen=True)
class PendingLookups:
    """The number of titles that are still to be looked up, and the page that the first of them was on.

    Without any, the page is 0.
    """

    titles: int = 0
    since_page: int = 0

    def plan(self, page: int, new_titles: int, *, is_last: bool) -> "LookupPlan":
        """Return how many titles to look up after a page (its number) with so many new ones.

        Requests are full, except after the last page, or if a title has been pending for too many pages.
        """
        titles = self.titles + new_titles
        due = titles - titles % MAX_ITEMS
        has_waited_long = self.titles > 0 and page - self.since_page >= MAX_PENDING_PAGES
        if is_last or (not due and has_waited_long):
            due = titles
        if due == titles:
            return LookupPlan(due, PendingLookups())
        since_page = self.since_page if self.titles and not due else page
        return LookupPlan(due, PendingLookups(titles - due, since_page))


@dataclass(frozen=True)
class LookupPlan:
    """The number of titles to look up now, and what remains pending.

    The titles that have been pending before are looked up first.
    """

    due: int
    remaining: PendingLookups

    @property
    def requests(self) -> int:
        """Return the number of requests for the titles that are due."""
        return -(-self.due // MAX_ITEMS)
