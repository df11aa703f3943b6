"""Summary of what has been verified for a collection, and what a verification costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

from sqlalchemy.orm import Session

from accession.catalog.purchase_records import purchases_by_day
from accession.catalog.verification import MonthView, count_open_findings, list_verified_months
from accession.core.errors import InvalidInput
from accession.core.workflow import Workflow
from accession.db.models import Collection, FindingKind
from accession.imports.verification_spans import (
    FIRST_MONTH,
    VerificationSpan,
    count_requests,
    make_span,
    plan_spans,
)
from accession.runs.ledger import find_checkpoint_time


@dataclass(frozen=True)
class VerificationSummary:
    """State of the verification of a collection's purchases.

    Attributes:
        months: the complete calendar months from January 2014 up to the checkpoint, oldest first.
        never_verified: the number of these months that have not been verified.
        oldest_verified_at: the time (UTC) of the oldest verification of a month; None before the first.
        last_verified_at: the time (UTC) of the newest verification of a month; None before the first.
        open_findings: the number of open findings by kind.
        requests: the number of requests for verifying the selected months; 0 if there are no purchases to
            verify.
        requests_with_days: the same, if each day with purchases is compared as well.
    """

    collection: str
    months: tuple[MonthView, ...]
    never_verified: int
    oldest_verified_at: datetime | None
    last_verified_at: datetime | None
    open_findings: Mapping[FindingKind, int]
    requests: int
    requests_with_days: int


def verification_summary(
    session: Session,
    collection: Collection,
    *,
    first_month: date | None = None,
    last_month: date | None = None,
) -> VerificationSummary:
    """Return what has been verified for the collection, and what a verification costs.

    The cost is that of the months from the first to the last; None for no limit.

    Raises:
        InvalidInput: the last month is before the first.
    """
    end = verifiable_until(session, collection)
    verified = list_verified_months(session, collection)
    months = [verified.get(month, MonthView(month)) for month in make_span(FIRST_MONTH, end).months]
    times = [month.verified_at for month in months if month.verified_at is not None]
    purchases = purchases_by_day(session, collection)
    spans = _select(plan_spans(purchases, end), first_month, last_month)
    return VerificationSummary(
        collection=collection.name,
        months=tuple(months),
        never_verified=len(months) - len(times),
        oldest_verified_at=min(times, default=None),
        last_verified_at=max(times, default=None),
        open_findings=count_open_findings(session)[collection.name],
        requests=count_requests(spans, purchases),
        requests_with_days=count_requests(spans, purchases, with_days=True),
    )


def verifiable_until(session: Session, collection: Collection) -> date:
    """Return the first day (UTC) of which not all purchases have been requested yet."""
    finish = find_checkpoint_time(session, collection, Workflow.PURCHASES)
    return FIRST_MONTH if finish is None else finish.astimezone(UTC).date()


def select_spans(
    session: Session, collection: Collection, first_month: date | None, last_month: date | None
) -> list[VerificationSpan]:
    """Return the spans that have a day of the months from the first to the last; None for no limit.

    Raises:
        InvalidInput: the last month is before the first.
    """
    spans = plan_spans(purchases_by_day(session, collection), verifiable_until(session, collection))
    return _select(spans, first_month, last_month)


def check_months(first_month: date | None, last_month: date | None) -> None:
    """Do nothing if the months are in order.

    Raises:
        InvalidInput: the last month is before the first.
    """
    if first_month is not None and last_month is not None and last_month < first_month:
        raise InvalidInput(
            f"The last month, {last_month:%Y-%m}, is before the first, {first_month:%Y-%m}: exchange them."
        )


def _select(
    spans: list[VerificationSpan], first_month: date | None, last_month: date | None
) -> list[VerificationSpan]:
    check_months(first_month, last_month)
    return [
        span
        for span in spans
        if (first_month is None or span.end > first_month)
        and (last_month is None or span.start <= last_month)
    ]
