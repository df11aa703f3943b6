"""Report on the records that could not be imported, by reason and month."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.catalog.rejected_records import reason_group
from accession.core.clock import utc_now
from accession.db.models import RejectedRecord
from accession.reports.loans import last_months
from accession.reports.model import (
    Chart,
    Column,
    ColumnKind,
    ListKind,
    Parameter,
    Report,
    ReportRequest,
    ReportResult,
    Row,
    list_link,
    page_of,
)


def read_rejected(session: Session, request: ReportRequest) -> ReportResult:
    """Return the number of records that were rejected in the last months, by reason."""
    months = last_months(request.parameters["months"])
    months_by_reason = _read_months(session, request.collection, months[0])
    rows = list(_rows_by_reason(months_by_reason, request.collection, months[0]))
    per_month: Counter[str] = Counter()
    for row in months_by_reason:
        per_month[row.month] += row.records
    points = tuple((month, per_month[month]) for month in (f"{first_day:%Y-%m}" for first_day in months))
    return ReportResult(
        rows=page_of(rows, request),
        total=len(rows),
        as_of=utc_now(),
        charts=(Chart("Rejected records per month", points, "records"),) if rows else (),
    )


def _read_months(session: Session, collection: str | None, since: date) -> list[Any]:
    record = RejectedRecord
    reason = reason_group()
    month = func.to_char(func.timezone("UTC", record.created_at), "YYYY-MM")
    query = (
        select(
            reason.label("reason"),
            month.label("month"),
            func.count().label("records"),
            func.count().filter(record.resolved_at.is_(None)).label("open"),
            func.max(record.created_at).label("last_received"),
        )
        .where(is_of_collection(record.collection_id, collection))
        .where(record.created_at >= datetime.combine(since, time(), UTC))
        .group_by("reason", "month")
        .order_by("reason", "month")
    )
    return list(session.execute(query))


def _rows_by_reason(months_by_reason: Iterable[Any], collection: str | None, since: date) -> Iterable[Row]:
    records: Counter[str] = Counter()
    still_open: Counter[str] = Counter()
    last: dict[str, datetime] = {}
    for row in months_by_reason:
        records[row.reason] += row.records
        still_open[row.reason] += row.open
        last[row.reason] = max(row.last_received, last.get(row.reason, row.last_received))
    for reason, number in records.items():
        filters = {"reason": reason, "received_from": since.isoformat()}
        values = {
            "reason": reason,
            "records": number,
            "open": still_open[reason],
            "last_received_on": last[reason].astimezone(UTC).date(),
        }
        links = {
            "records": list_link(ListKind.REJECTED_RECORDS, collection, resolved="true", **filters),
            "open": list_link(ListKind.REJECTED_RECORDS, collection, **filters),
        }
        yield Row(values, links)


REJECTED = Report(
    name="rejected",
    title="Rejected records",
    summary="Records that could not be imported, by reason, over time.",
    columns=(
        Column("reason", "Reason", is_sortable=True),
        Column("records", "Records", ColumnKind.NUMBER, is_sortable=True),
        Column("open", "Open", ColumnKind.NUMBER, is_sortable=True),
        Column("last_received_on", "Last received", ColumnKind.DAY, is_sortable=True),
    ),
    default_sort="-records",
    read=read_rejected,
    parameters=(
        Parameter(
            "months",
            "Months",
            12,
            "Records received in the last months, with the present one.",
            minimum=1,
            maximum=120,
        ),
    ),
)
