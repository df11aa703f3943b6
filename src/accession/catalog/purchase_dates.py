"""Dates of purchases: a day, or a month where the import requested a whole month at once."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import date
from typing import Any


@dataclass(frozen=True)
class PurchaseDate:
    """A day (UTC), or a month if `month_only`; `day` is then the first of the month."""

    day: date
    month_only: bool = False

    def __str__(self) -> str:
        """Return `2019-03-17`, or `2019-03` for a month."""
        return f"{self.day:%Y-%m}" if self.month_only else self.day.isoformat()

    @property
    def days(self) -> tuple[date, date]:
        """Return the first and the last possible day of the purchase."""
        last = monthrange(self.day.year, self.day.month)[1]
        return self.day, self.day.replace(day=last) if self.month_only else self.day

    def overlaps(self, other: "PurchaseDate") -> bool:
        """Return whether the dates are the same, or one includes the other."""
        return self.days[0] <= other.days[1] and other.days[0] <= self.days[1]

    @property
    def columns(self) -> dict[str, Any]:
        """Return the columns that store the date."""
        return {"purchased_on": self.day, "month_only": self.month_only}


def format_days(first: date, last: date) -> str:
    """Return the days from the first to the last as a day, a month, or two months joined by " to "."""
    if first == last:
        return first.isoformat()
    first_month, last_month = f"{first:%Y-%m}", f"{last:%Y-%m}"
    return first_month if first_month == last_month else f"{first_month} to {last_month}"
