"""Import the purchases of a range of past days again, as they are requested by the backfill workflow.

The checkpoint of the purchase import stays where it is: a backfill neither moves it back nor past days that
have not been imported.
"""

from dataclasses import replace
from datetime import date, datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from accession.bibliotheca.client import BibliothecaAPI
from accession.catalog.purchase_records import purchases_by_day
from accession.core.clock import utc_now
from accession.core.errors import InvalidInput
from accession.core.settings import get_settings
from accession.db.models import Collection, Run
from accession.imports.page_result import DayImportResult
from accession.imports.prefetch import PrefetchCache
from accession.imports.purchases import (
    DEFAULT_PURCHASE_RECORD_START_TIME,
    BibliothecaPurchaseRecordImporter,
    check_restarts,
)
from accession.imports.windows import ImportCursor, Width, count_requests, midnight

log = structlog.get_logger(__name__)

_ONE_DAY = timedelta(days=1)


def check_days(first_day: date, last_day: date) -> None:
    """Check that the days from the first to the last can be imported.

    Raises:
        InvalidInput: the last day is before the first, or the range is not between 2014 and today.
    """
    earliest, today = DEFAULT_PURCHASE_RECORD_START_TIME.date(), utc_now().date()
    if last_day < first_day:
        raise InvalidInput(
            f"The last day {last_day} is before the first day {first_day}: enter a later last day."
        )
    if first_day < earliest or last_day > today:
        raise InvalidInput(
            f"The days {first_day} to {last_day} are not between {earliest}, before which there are no "
            f"purchases, and today ({today}, UTC): enter days within."
        )


def count_backfill_requests(session: Session, collection: Collection, first_day: date, last_day: date) -> int:
    """Return how many requests a backfill makes if the vendor has the purchases that are stored.

    Raises:
        InvalidInput: the days cannot be imported.
    """
    check_days(first_day, last_day)
    titles_by_day = purchases_by_day(session, collection)
    return count_requests(titles_by_day, midnight(first_day), _end(last_day, utc_now()), _width())


def first_backfill_cursor(first_day: date, last_day: date, now: datetime) -> ImportCursor:
    """Return where a backfill of the days starts."""
    return ImportCursor(midnight(first_day), until=_end(last_day, now))


def _end(last_day: date, now: datetime) -> datetime:
    return min(midnight(last_day + _ONE_DAY), now)


def _width() -> Width:
    """Return the width of the windows; a search for days is made for all past purchases only."""
    width = Width(get_settings().purchase_window)
    return Width.DAY if width is Width.ADAPTIVE else width


class PurchaseBackfiller:
    """Imports past days of one collection again, page by page, for a run.

    It writes to the given session and leaves the commit to the caller, as the importer of purchases does.
    """

    def __init__(
        self,
        session: Session,
        collection: Collection,
        api: BibliothecaAPI,
        run: Run,
        prefetch_cache: PrefetchCache | None = None,
    ) -> None:
        self._session = session
        self._collection = collection
        self._importer = BibliothecaPurchaseRecordImporter(session, collection, api, run, prefetch_cache)

    def import_page(self, cursor: ImportCursor, now: datetime) -> DayImportResult:
        """Import the page at the cursor.

        Raises:
            RemoteIntegrationException: the vendor failed; nothing is written then.
        """
        page = self._importer.import_page(cursor, now, _width())
        check_restarts(page.next_cursor.restarts, self._collection)
        return replace(page, next_cursor=self._check_at_end(page.next_cursor, now))

    def _check_at_end(self, cursor: ImportCursor, now: datetime) -> ImportCursor:
        """Return the cursor at a check of the range, if its end is requested but not confirmed.

        The vendor's empty bodies prove nothing, and a span with a known purchase does.
        """
        if not cursor.is_complete(now) or cursor.confirmed_until >= cursor.current_day:
            return cursor
        log.info("checking the end of the range", since=cursor.confirmed_until.isoformat())
        if cursor.anchor is not None:
            return cursor.end_with_check()
        days = purchases_by_day(self._session, self._collection)
        known = [day for day in days if midnight(day) < cursor.current_day]
        return cursor.begin_check(midnight(max(known)), cursor.current_day) if known else cursor
