"""Availability of titles: the status of a license pool, the counts to show, and filters.

A pool keeps its counts as the vendor returned them, with the effect of the events since. No copy of a title
on order counts as available, and there are never more copies available than owned.
"""

from collections.abc import Mapping

from sqlalchemy import ARRAY, ColumnElement, Text, and_, case, func, or_
from sqlalchemy.dialects.postgresql import array

from accession.core.clock import utc_now
from accession.core.errors import InvalidInput
from accession.db.models import CopyCounts, Edition, LicensePool, PoolStatus


def pool_status(counts: CopyCounts, on_sale: str | None, *, is_known: bool) -> PoolStatus:
    """Return the status of a pool with these counts, whose title is on sale from a date on.

    Without any copy a title is not on order, even if it is not on sale yet: the collection has none to come.

    Args:
        counts: Copies of the collection.
        on_sale: Day, month or year; None if it is not known.
        is_known: Whether the vendor has returned counts, or an event has changed the copies owned.
    """
    if counts.owned:
        return PoolStatus.ON_ORDER if is_before_sale(on_sale) else PoolStatus.ACTIVE
    return PoolStatus.EXHAUSTED if is_known else PoolStatus.UNKNOWN


def is_before_sale(on_sale: str | None) -> bool:
    """Return whether the day (UTC) is still to come; a month or a year counts as its first day."""
    return on_sale is not None and on_sale > _today()


def edition_is_before_sale() -> ColumnElement[bool]:
    """Return the condition that an edition is not on sale yet."""
    return Edition.on_sale > _today()


def _today() -> str:
    # As text a month precedes all its days, and follows those of the month before; a year likewise.
    return utc_now().date().isoformat()


def shown_counts(counts: CopyCounts, status: str) -> CopyCounts:
    """Return the counts to show for a pool with this status."""
    if status == PoolStatus.ON_ORDER:
        counts = CopyCounts(counts.owned, 0, counts.reserved, counts.holds)
    return counts.limited_to_owned()


_available = case(
    (LicensePool.status == PoolStatus.ON_ORDER, 0),
    else_=func.least(LicensePool.licenses_available, LicensePool.licenses_owned),
)

SHOWN_COUNTS: Mapping[str, ColumnElement[int]] = {
    "licenses_owned": LicensePool.licenses_owned.expression,
    "licenses_available": _available,
    "licenses_reserved": func.least(LicensePool.licenses_reserved, LicensePool.licenses_owned - _available),
    "patrons_in_hold_queue": LicensePool.patrons_in_hold_queue.expression,
}
"""The same as expressions, by the name of the count."""


AVAILABILITIES: Mapping[str, ColumnElement[bool]] = {
    "available": and_(LicensePool.status == PoolStatus.ACTIVE, LicensePool.licenses_available > 0),
    "on_hold": and_(
        LicensePool.status == PoolStatus.ACTIVE,
        or_(LicensePool.licenses_available == 0, LicensePool.patrons_in_hold_queue > 0),
    ),
    "on_order": LicensePool.status == PoolStatus.ON_ORDER,
    "withdrawn": LicensePool.status == PoolStatus.EXHAUSTED,
}
"""Conditions on license pools, by the name of the availability."""

NAMES_OF_AVAILABILITIES: ColumnElement[list[str]] = func.array_remove(
    array([case((condition, name)) for name, condition in AVAILABILITIES.items()]), None, type_=ARRAY(Text)
)
"""The names of all availabilities that a license pool has, as an array."""


def has_availability(name: str) -> ColumnElement[bool]:
    """Return the condition that a license pool has this availability.

    Raises:
        InvalidInput: the availability does not exist.
    """
    if name not in AVAILABILITIES:
        raise InvalidInput(f'There is no availability "{name}": choose one of {", ".join(AVAILABILITIES)}.')
    return AVAILABILITIES[name]
