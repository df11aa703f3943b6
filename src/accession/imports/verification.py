"""Verify past months: compare the purchases that the vendor lists with the stored ones, and repair them.

A step requests one page. As in an import, each page but the first of a listing begins with the last record of
the page before, and a listing starts again if it does not. An empty body proves nothing: a listing covers
stored purchases (`accession.imports.verification_spans`), and becomes wider if its first page is empty again.
A day is then compared by two listings: that of more days with purchases, less that of the others among them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.client import PAGE_SIZE, BibliothecaAPI
from accession.bibliotheca.errors import RemoteInitiatedServerError
from accession.bibliotheca.marc import MarcPage
from accession.catalog.findings import (
    Differences,
    is_moved_within_month,
    open_findings,
    remove_moved_purchases,
    update_findings,
)
from accession.catalog.listed_records import ListedRecords
from accession.catalog.purchase_records import (
    StoredPurchases,
    purchase_days,
    purchases_by_day,
    purchases_by_title,
)
from accession.catalog.rejected_records import find_rejected_hashes
from accession.catalog.verification import MonthView, list_verified_months, store_verified_months
from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.engine import begin_writing
from accession.db.models import Collection, FindingKind, Run
from accession.imports.purchases import BibliothecaPurchaseRecordImporter, check_restarts
from accession.imports.verification_spans import (
    VerificationSpan,
    make_span,
    next_month,
    plan_spans,
    select_due,
    widen_day,
    widen_span,
)
from accession.imports.verification_summary import select_spans, verifiable_until
from accession.imports.windows import Anchor, ImportCursor, ProbedSpan, Width
from accession.runs.ledger import RunCounters

log = structlog.get_logger(__name__)

MIN_AGE = timedelta(days=31)
"""Months that began later are covered by the check of the daily import."""

# For so long after it was found, a difference is repaired by each daily run.
_REPEATED_REPAIRS = timedelta(days=7)

# With more missing records than this, all days of a month are imported.
_MAX_LISTED_KEYS = 100

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class VerificationCursor:
    """The position of a verification between two requests.

    Attributes:
        months: a day of each span that is still to be verified; the first one is being verified.
        total: the number of spans to verify at the start.
        with_days: whether each day with purchases is compared too, before its month.
        repairs: whether missing purchases are imported, and moved ones removed from their old date.
        next_day: the day after the one being compared; the days of the span before it have been compared.
        start: the first day of the present listing; None between two listings.
        end: the day after the last of the present listing.
        is_of_days: whether the present listing is that of a day, and not of months.
        anchor: the last record of the present listing, or None before its first page.
        empty_bodies: the number of empty bodies in place of the first page.
        restarts: the number of times that the listing has started again.
        differences: the number of missing, moved and extra purchases of the span that is being repaired.
        repair: the import of missing purchases that is in progress.
    """

    months: tuple[date, ...]
    total: int
    with_days: bool = False
    repairs: bool = True
    next_day: date | None = None
    start: date | None = None
    end: date | None = None
    is_of_days: bool = False
    anchor: Anchor | None = None
    empty_bodies: int = 0
    restarts: int = 0
    differences: tuple[int, int, int] | None = None
    repair: ImportCursor | None = None

    @property
    def is_complete(self) -> bool:
        """Return whether nothing is left to verify."""
        return not self.months

    @property
    def day(self) -> date:
        """Return the day that is being compared."""
        if self.next_day is None:
            raise ValueError("No day is being compared.")
        return self.next_day - _ONE_DAY

    @property
    def lists_other_days(self) -> bool:
        """Return whether the present listing is that of other days, to be subtracted from the one before."""
        return (
            self.is_of_days and self.start is not None and not self.start <= self.day < (self.end or self.day)
        )

    def at_listing(self, span: VerificationSpan) -> "VerificationCursor":
        """Return the cursor at the first page of a listing of the span."""
        return replace(self, start=span.start, end=span.end, anchor=None, empty_bodies=0)

    def after_listing(self) -> "VerificationCursor":
        """Return the cursor between two listings."""
        return replace(
            self, start=None, end=None, anchor=None, empty_bodies=0, restarts=0, differences=None, repair=None
        )


@dataclass(frozen=True)
class VerificationStep:
    """The result of a step; `outbox_ids` are the outbox rows to apply after the commit."""

    next_cursor: VerificationCursor
    counters: RunCounters = field(default_factory=RunCounters)
    outbox_ids: tuple[int, ...] = ()


def begin_verification(
    session: Session,
    collection: Collection,
    *,
    first_month: date | None = None,
    last_month: date | None = None,
    with_days: bool = False,
    repairs: bool = False,
) -> VerificationCursor:
    """Return the cursor of a verification of these months, in their order; None for no limit."""
    spans = select_spans(session, collection, first_month, last_month)
    return _cursor(spans, with_days=with_days, repairs=repairs)


def begin_due_verification(session: Session, collection: Collection) -> VerificationCursor:
    """Return the cursor of a verification of the months that were verified longest ago.

    They are as many as the `verification_requests` of the settings allow, and at least one. Months that were
    verified recently are left out, except for those that were found to differ in the last days.
    """
    budget = get_settings().verification_requests
    if not budget:
        return _cursor([])
    now = utc_now()
    end = min(next_month((now - MIN_AGE).date()), verifiable_until(session, collection))
    purchases = purchases_by_day(session, collection)
    verified_at = {
        month: view.verified_at
        for month, view in list_verified_months(session, collection).items()
        if view.verified_at is not None
    }
    differing_days = {
        finding.first_day
        for finding in open_findings(session, collection)
        if finding.kind != FindingKind.EXTRA and now - finding.found_at < _REPEATED_REPAIRS
    }
    spans = plan_spans(purchases, end)
    due = select_due(spans, purchases, verified_at, now=now, budget=budget, differing_days=differing_days)
    return _cursor(due)


def _cursor(
    spans: Sequence[VerificationSpan], *, with_days: bool = False, repairs: bool = True
) -> VerificationCursor:
    return VerificationCursor(
        tuple(span.start for span in spans), len(spans), with_days=with_days, repairs=repairs
    )


class PurchaseVerifier:
    """Verifier of the purchases of one collection, page by page.

    It writes to the given session and leaves the commit to the caller: a page is one transaction, which
    begins after the last request of the page (`accession.db.engine.begin_writing`).
    """

    def __init__(self, session: Session, collection: Collection, api: BibliothecaAPI, run: Run) -> None:
        self._session = session
        self._collection = collection
        self._api = api
        self._listed = ListedRecords(session, run, is_verification=True)
        self._importer = BibliothecaPurchaseRecordImporter(session, collection, api, run)

    def verify_page(self, cursor: VerificationCursor, now: datetime) -> VerificationStep:
        """Request a page at the cursor, and compare or repair what it completes.

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        step = self._take_step(cursor, now)
        log.info("page verified", spans_left=len(step.next_cursor.months))
        return step

    def _take_step(self, cursor: VerificationCursor, now: datetime) -> VerificationStep:
        if cursor.repair is not None:
            return self._repair_page(cursor, cursor.repair, now)
        if cursor.start is None:
            cursor = self._begin_listing(cursor)
        if cursor.start is None or cursor.end is None:
            return VerificationStep(cursor, RunCounters(pages=0))
        span = make_span(cursor.start, cursor.end)
        page = self._fetch_page(cursor, span)
        begin_writing(self._session)
        return VerificationStep(self._read_page(cursor, span, page))

    def _begin_listing(self, cursor: VerificationCursor) -> VerificationCursor:
        """Return the cursor at the first page of the next listing, or between spans if there is none."""
        spans = self._spans(purchases_by_day(self._session, self._collection))
        month = cursor.months[0]
        span = next((span for span in spans if span.start <= month < span.end), None)
        if span is None:
            # Its purchases have been removed since the start.
            return replace(cursor, months=cursor.months[1:], next_day=None)
        if cursor.with_days:
            first = cursor.next_day or span.start
            days = purchase_days(self._session, self._collection, span.start, span.end)
            day = min((day for day in days if day >= first), default=None)
            if day is not None:
                at_day = replace(cursor, next_day=day + _ONE_DAY, is_of_days=True)
                return at_day.at_listing(make_span(day, day + _ONE_DAY))
        return replace(cursor, is_of_days=False).at_listing(span)

    def _spans(self, days: Iterable[date]) -> list[VerificationSpan]:
        return plan_spans(days, verifiable_until(self._session, self._collection))

    def _fetch_page(self, cursor: VerificationCursor, span: VerificationSpan) -> MarcPage:
        offset = 1 if cursor.anchor is None else cursor.anchor.position
        may_be_empty = cursor.anchor is None
        return self._api.fetch_marc_page(span.start_time, span.end_time, offset, may_be_empty=may_be_empty)

    def _read_page(
        self, cursor: VerificationCursor, span: VerificationSpan, page: MarcPage
    ) -> VerificationCursor:
        if page.is_blank:
            return self._after_empty_body(cursor, span)
        anchor = cursor.anchor
        if anchor is not None and (not page.records or page.records[0].key != anchor.key):
            return self._restart(cursor, span)
        if anchor is None and not cursor.lists_other_days:
            self._listed.clear()
        records = page.records if anchor is None else page.records[1:]
        listed = [(record.key, record.content_hash()) for record in records]
        self._listed.add(listed, times=-1 if cursor.lists_other_days else 1)
        if len(page.records) < PAGE_SIZE:
            return self._conclude(cursor, span)
        position = len(records) + (0 if anchor is None else anchor.position)
        return replace(cursor, anchor=Anchor(span.start_time, position, page.records[-1].key))

    def _after_empty_body(self, cursor: VerificationCursor, span: VerificationSpan) -> VerificationCursor:
        """Return the cursor at the same request again, and then at a wider one.

        The vendor may have moved all stored purchases of the span.
        """
        if not cursor.empty_bodies:
            return replace(cursor, empty_bodies=1)
        whole = _whole_span(cursor, span)
        days = sorted(purchases_by_day(self._session, self._collection))
        if cursor.is_of_days:
            wider = widen_day(whole, cursor.day, days)
        else:
            wider = widen_span(whole, self._spans(days))
        if (wider.start, wider.end) == (whole.start, whole.end):
            raise RemoteInitiatedServerError(
                "the vendor sent empty responses for a time span with purchases", self._collection.name
            )
        return cursor.at_listing(wider)

    def _restart(self, cursor: VerificationCursor, span: VerificationSpan) -> VerificationCursor:
        log.warning("page does not continue the one before, listing again", since=span.start.isoformat())
        restarts = cursor.restarts + 1
        check_restarts(restarts, self._collection)
        return replace(cursor.at_listing(_whole_span(cursor, span)), restarts=restarts)

    def _conclude(self, cursor: VerificationCursor, span: VerificationSpan) -> VerificationCursor:
        """Store the differences of a complete listing, and return the cursor at the repair or after it."""
        if cursor.is_of_days:
            return self._conclude_day(cursor, span)
        differences = self._compare(cursor, span)
        update = update_findings(self._session, self._collection, differences)
        kinds = (FindingKind.MISSING, FindingKind.MOVED, FindingKind.EXTRA)
        missing, moved, extra = (update.purchases[kind] for kind in kinds)
        if missing or moved or extra:
            log.warning(
                "purchases differ from those of the vendor",
                since=span.start.isoformat(),
                until=span.end.isoformat(),
                missing=missing,
                moved=moved,
                extra=extra,
            )
        cursor = replace(cursor, differences=(missing, moved, extra))
        if cursor.repairs and (titles := {*differences.missing, *self._moved_within(span)}):
            return replace(cursor, repair=self._import_of(titles, span))
        return self._end_span(cursor, span)

    def _conclude_day(self, cursor: VerificationCursor, span: VerificationSpan) -> VerificationCursor:
        day, next_day = cursor.day, cursor.day + _ONE_DAY
        if not cursor.lists_other_days and (span.start, span.end) != (day, next_day):
            others = (span.start, day) if span.start < day else (next_day, span.end)
            return cursor.at_listing(make_span(*others))
        differences = self._compare(cursor, make_span(day, next_day))
        update_findings(self._session, self._collection, differences)
        self._listed.clear()
        return cursor.after_listing()

    def _moved_within(self, span: VerificationSpan) -> set[str]:
        """Return the titles with a purchase that was moved to another day of its month."""
        return {
            finding.identifier
            for finding in open_findings(self._session, self._collection)
            if span.start <= finding.first_day < span.end and is_moved_within_month(finding)
        }

    def _import_of(self, titles: set[str], span: VerificationSpan) -> ImportCursor:
        """Return the import of the days that have these titles."""
        listed = self._listed.read()
        # A title that is listed several times may be missing on any of its days.
        keys = [key for key in sorted(titles) if key in listed for _ in range(listed[key].listed)]
        known_keys = tuple(keys) if len(keys) <= _MAX_LISTED_KEYS else None
        start, end = span.start_time, span.end_time
        probed = ProbedSpan(start, end, known_keys)
        return ImportCursor(start, confirmed=start, probed=(probed,), until=end)

    def _repair_page(
        self, cursor: VerificationCursor, repair: ImportCursor, now: datetime
    ) -> VerificationStep:
        if cursor.start is None or cursor.end is None:
            raise ValueError("A repair belongs to a listing.")
        page = self._importer.import_page(repair, now, Width(get_settings().purchase_window))
        next_cursor = replace(cursor, repair=page.next_cursor)
        if page.next_cursor.is_complete(now):
            next_cursor = self._end_span(next_cursor, make_span(cursor.start, cursor.end))
        return VerificationStep(next_cursor, page.counters, page.outbox_ids)

    def _end_span(self, cursor: VerificationCursor, span: VerificationSpan) -> VerificationCursor:
        """Complete the repair, and return the cursor at the next span."""
        listed = sum(record.listed for record in self._listed.read().values())
        numbers = cursor.differences or (0, 0, 0)
        if cursor.repairs and any(numbers):
            differences = self._compare(cursor, span)
            update = update_findings(self._session, self._collection, differences)
            remove_moved_purchases(
                self._session, self._collection, differences, imported=update.no_longer_missing
            )
        self._listed.clear()
        self._store_verified(span, listed, numbers)
        remaining = tuple(month for month in cursor.months[1:] if not span.start <= month < span.end)
        return replace(cursor.after_listing(), months=remaining, next_day=None)

    def _store_verified(self, span: VerificationSpan, listed: int, differences: tuple[int, int, int]) -> None:
        """Store the result under the month that has the span's purchases, and none for the empty ones."""
        now, days = utc_now(), purchases_by_day(self._session, self._collection)
        first_day = min((day for day in days if span.start <= day < span.end), default=span.start)
        months = [
            MonthView(month, now, listed, *differences)
            if month == first_day.replace(day=1)
            else MonthView(month, now)
            for month in span.months
        ]
        store_verified_months(self._session, self._collection, months)

    def _compare(self, cursor: VerificationCursor, span: VerificationSpan) -> Differences:
        """Return the differences between what the vendor has listed and what is stored."""
        listed = self._listed.read()
        stored = purchases_by_title(self._session, self._collection, span.start, span.end)
        missing = {
            key: number
            for key, record in listed.items()
            if (number := record.listed - (stored[key].purchases if key in stored else 0)) > 0
        }
        hashes = [listed[key].content_hash for key in missing]
        rejected = find_rejected_hashes(self._session, self._collection, hashes) if hashes else set()
        extra = {
            key: StoredPurchases(number, purchases.first_day, purchases.last_day)
            for key, purchases in stored.items()
            if (number := purchases.purchases - (max(0, listed[key].listed) if key in listed else 0)) > 0
        }
        return Differences(
            span.start,
            span.end,
            {key: number for key, number in missing.items() if listed[key].content_hash not in rejected},
            extra,
            is_of_days=cursor.is_of_days,
            days_were_compared=cursor.with_days and not cursor.is_of_days,
        )


def _whole_span(cursor: VerificationCursor, span: VerificationSpan) -> VerificationSpan:
    """Return the span of the listing from which the present one is subtracted, or else the span itself."""
    if not cursor.lists_other_days:
        return span
    return make_span(min(span.start, cursor.day), max(span.end, cursor.day + _ONE_DAY))
