"""Purchases of a library on a share of the days since 2014."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from random import Random

from accession.sandbox.catalogue import Purchase
from benchmarks.simulated_vendors import VendorSpec, days_ago

DAYS = 4_700
"""Days from 2014 to about the end of 2026."""


@dataclass(frozen=True)
class Habit:
    """Purchases of so many titles, on random days or on every weekday.

    `share` is the share of days with purchases, in percent; None for every weekday.
    """

    titles: int
    share: int | None

    def purchases_by_day(self) -> Counter[date]:
        """Return the number of purchases on each day with any, until today's midnight (UTC)."""
        rng = Random(1)  # noqa: S311
        first = days_ago(DAYS).date()
        days = [first + timedelta(days=number) for number in range(DAYS)]
        if self.share is None:
            days = [day for day in days if day.weekday() < 5]
        else:
            days = sorted(rng.sample(days, DAYS * self.share // 100))
        return Counter([*days, *rng.choices(days, k=self.titles - len(days))])

    @property
    def days_with_purchases(self) -> str:
        """Return a description of the days."""
        return "every weekday" if self.share is None else f"{self.share}%"


@dataclass(frozen=True)
class HabitualVendorSpec(VendorSpec):
    """A simulated vendor from which a library purchases on 8% of the days."""

    def purchases(self) -> Iterable[Purchase]:
        """Return the purchases in order, each at noon (UTC)."""
        days = sorted(Habit(self.titles, share=8).purchases_by_day().elements())
        for purchase, day in zip(super().purchases(), days, strict=True):
            yield replace(purchase, purchased_at=datetime.combine(day, time(12), UTC))
