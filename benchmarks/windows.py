"""Count the requests of a first import for each width of its windows, without a vendor.

The catalogues have purchases on some or all weekdays of 4,700 days. All requests count, for pages and for the
metadata of titles. The lower bound has the pages that are needed to list all records and titles once, and
those that are needed to tell the days. Prints a table and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.windows
"""

from collections import Counter
from dataclasses import dataclass
from datetime import date
from math import ceil, comb, log2

from accession.bibliotheca.client import MAX_ITEMS, PAGE_SIZE
from accession.imports.windows import Width, count_requests
from benchmarks.processes import run_in_subprocesses
from benchmarks.purchase_days import DAYS, Habit
from benchmarks.report import print_json, print_table
from benchmarks.simulated_vendors import days_ago

HABITS = tuple(Habit(titles, share) for titles in (400, 2_000) for share in (2, 8, 20)) + tuple(
    Habit(20_000, share) for share in (2, 8, 20, None)
)

# A page can begin and end anywhere among its records.
_BITS_OF_A_PAGE = log2(comb(PAGE_SIZE + 1, 2))


@dataclass(frozen=True)
class Figures:
    """Number of requests of first imports.

    `share_of_pages` compares adaptive windows with days, without the look-ups, which are as many in both.
    """

    titles: int
    days_with_purchases: str
    plain: int
    days: int
    months: int
    adaptive: int
    lower_bound: int
    share_of_pages: float


def count(habit: Habit) -> Figures:
    """Count the requests of each method of importing."""
    purchases = habit.purchases_by_day()
    lookups = ceil(purchases.total() / MAX_ITEMS)
    counts = {width: count_requests(purchases, days_ago(DAYS), days_ago(0), width) for width in Width}
    return Figures(
        titles=habit.titles,
        days_with_purchases=habit.days_with_purchases,
        plain=_count_plainly(purchases),
        days=counts[Width.DAY],
        months=counts[Width.MONTH],
        adaptive=counts[Width.ADAPTIVE],
        lower_bound=_lower_bound(purchases),
        share_of_pages=round((counts[Width.ADAPTIVE] - lookups) / (counts[Width.DAY] - lookups), 2),
    )


def _count_plainly(purchases: Counter[date]) -> int:
    """Return the requests of an import with one for each day, for each further page, and for each title."""
    further_pages = sum(titles // PAGE_SIZE for titles in purchases.values())
    return DAYS + further_pages + purchases.total()


def _lower_bound(purchases: Counter[date]) -> int:
    titles = purchases.total()
    bits = log2(comb(DAYS, len(purchases)))
    return ceil(titles / PAGE_SIZE) + ceil(titles / MAX_ITEMS) + ceil(bits / _BITS_OF_A_PAGE)


def main() -> None:
    """Count and print the figures."""
    figures = run_in_subprocesses(count, HABITS)
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
