"""Verified months, and the differences that were found between the vendor's purchases and the stored ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Date, Interval, cast, exists, false, func, literal, select
from sqlalchemy.orm import Session

from accession.accounts.collections import is_of_collection
from accession.catalog.purchase_dates import PurchaseDate, format_days
from accession.core.clock import utc_now
from accession.core.vocabulary import IdentifierType
from accession.db.bulk import array_parameters, insert_statement
from accession.db.models import (
    Collection,
    Edition,
    FindingKind,
    Identifier,
    PurchaseRecord,
    VerificationFinding,
    VerifiedMonth,
    table_of,
)


@dataclass(frozen=True)
class MonthView:
    """A calendar month and its latest verification.

    `month` is its first day; `verified_at` is None before the first verification. `listed` is the number of
    records that the vendor listed, the others are the numbers of purchases that differed then, whether or not
    they have been repaired since.
    """

    month: date
    verified_at: datetime | None = None
    listed: int = 0
    missing: int = 0
    moved: int = 0
    extra: int = 0


@dataclass(frozen=True)
class FindingView:
    """A difference between the vendor's purchases of a title and the stored ones.

    `purchased_on` is the date under which the vendor lists a missing purchase, or under which another one is
    stored: a day, a month, or two months joined by " to " where the date is not known more precisely.
    `moved_to` is the date under which the vendor lists a moved one. `resolved_at` is None while it is open.
    """

    id: int
    collection: str
    kind: str
    identifier: str
    title: str | None
    purchased_on: str
    moved_to: str | None
    purchases: int
    found_at: datetime
    resolved_at: datetime | None


def list_verified_months(session: Session, collection: Collection) -> dict[date, MonthView]:
    """Return the verified months of the collection by their first day."""
    query = select(VerifiedMonth).where(VerifiedMonth.collection_id == collection.id)
    return {
        row.month: MonthView(row.month, row.verified_at, row.listed, row.missing, row.moved, row.extra)
        for row in session.scalars(query.order_by(VerifiedMonth.month))
    }


def store_verified_months(session: Session, collection: Collection, months: Iterable[MonthView]) -> None:
    """Store the latest verification of the months, in place of earlier ones."""
    rows = [{"collection_id": collection.id, **vars(month)} for month in months]
    if rows:
        statement = insert_statement(table_of(VerifiedMonth), *rows[0])
        new_values = {name: statement.excluded[name] for name in vars(MonthView(date.min)) if name != "month"}
        session.execute(
            statement.on_conflict_do_update(index_elements=["collection_id", "month"], set_=new_values),
            array_parameters(rows),
        )


def finding_views(
    session: Session,
    *,
    collection: str | None = None,
    with_resolved: bool = False,
    resolved_since: datetime | None = None,
    first_month: date | None = None,
    last_month: date | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[FindingView]:
    """Return the open findings of one collection, or of all in use, oldest first.

    `with_resolved` adds all resolved ones, `resolved_since` those resolved since then. The months from the
    first to the last limit the dates of the purchases.
    """
    row = VerificationFinding
    title = (
        select(Edition.title)
        .join(Identifier, Edition.identifier_id == Identifier.id)
        .where(Identifier.type == IdentifierType.BIBLIOTHECA, Identifier.identifier == row.identifier)
        .limit(1)
        .scalar_subquery()
    )
    query = select(row, Collection.name, title).join(Collection, row.collection_id == Collection.id)
    query = query.where(is_of_collection(row.collection_id, collection))
    if not with_resolved:
        is_recent = false() if resolved_since is None else row.resolved_at >= resolved_since
        query = query.where(row.resolved_at.is_(None) | is_recent)
    if first_month is not None:
        query = query.where(row.last_day >= first_month)
    if last_month is not None:
        query = query.where(row.first_day <= PurchaseDate(last_month, month_only=True).days[1])
    rows = session.execute(query.order_by(row.id).limit(limit).offset(offset))
    return [_finding_view(finding, name, title) for finding, name, title in rows]


def _finding_view(finding: VerificationFinding, collection: str, title: str | None) -> FindingView:
    return FindingView(
        id=finding.id,
        collection=collection,
        kind=finding.kind,
        identifier=finding.identifier,
        title=title,
        purchased_on=format_days(finding.first_day, finding.last_day),
        moved_to=finding.moved_to,
        purchases=finding.purchases,
        found_at=finding.found_at,
        resolved_at=finding.resolved_at,
    )


def count_open_findings(session: Session) -> dict[str, Mapping[FindingKind, int]]:
    """Return the number of open findings by kind, by the name of every collection in use."""
    row = VerificationFinding
    query = (
        select(Collection.name, row.kind, func.count(row.id))
        .outerjoin(row, (row.collection_id == Collection.id) & row.resolved_at.is_(None))
        .where(Collection.marked_for_deletion_at.is_(None))
        .group_by(Collection.name, row.kind)
    )
    counts: dict[str, dict[FindingKind, int]] = {}
    for name, kind, number in session.execute(query):
        of_collection = counts.setdefault(name, dict.fromkeys(FindingKind, 0))
        if kind is not None:
            of_collection[FindingKind(kind)] = number
    return {**counts}


def count_unrepaired_purchases(session: Session, found_before: datetime) -> dict[int, int]:
    """Return the number of missing and moved purchases that were found before a time (UTC), by collection id.

    Those that have been repaired are left out, and so are collections without any.
    """
    row = VerificationFinding
    query = select(row.collection_id, func.sum(row.purchases)).where(
        row.resolved_at.is_(None), row.kind != FindingKind.EXTRA, row.found_at < found_before
    )
    return dict(session.execute(query.group_by(row.collection_id)).all())


def oldest_verifications(session: Session, first_month: date, min_age: timedelta) -> dict[str, datetime]:
    """Return the time (UTC) of the oldest verification of a month, by the collection's name.

    The months are those from `first_month` that began at least `min_age` ago. One that was never verified
    counts from when it reached that age, or the collection was added. Collections without purchases, which
    cannot be verified, are left out.
    """
    last_month = (utc_now() - min_age).date()
    one_month = func.make_interval(0, 1)
    series = func.generate_series(cast(first_month, Date), cast(last_month, Date), one_month)
    months = select(cast(series, Date).label("month")).subquery()
    due = func.greatest(Collection.created_at, months.c.month + literal(min_age, Interval))
    is_same = (VerifiedMonth.collection_id == Collection.id) & (VerifiedMonth.month == months.c.month)
    oldest = func.min(func.coalesce(VerifiedMonth.verified_at, due))
    query = (
        select(Collection.name, oldest)
        .select_from(Collection)
        .join(months, literal(True))
        .outerjoin(VerifiedMonth, is_same)
        .where(Collection.marked_for_deletion_at.is_(None))
        .where(exists().where(PurchaseRecord.collection_id == Collection.id))
        .group_by(Collection.name)
    )
    return dict(session.execute(query).all())
