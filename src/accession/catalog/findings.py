"""Findings of a verification: keep those of a time span up to date, and recognise moved purchases."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import format_days
from accession.catalog.purchase_records import StoredPurchases, purchases_by_title, remove_purchases
from accession.core.clock import utc_now
from accession.db.bulk import in_array
from accession.db.models import Collection, FindingKind, VerificationFinding, VerifiedMonth

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Differences:
    """Differences between the vendor's purchases in the days `[start, end)` and the stored ones.

    Attributes:
        missing: the number of purchases that are not stored, by the vendor's id of the title.
        extra: the stored purchases that the vendor does not list. Their days are those of all purchases of
            the title within the span.
        is_of_days: whether single days were compared, and not months.
        days_were_compared: whether the days of these months were compared before.
    """

    start: date
    end: date
    missing: Mapping[str, int]
    extra: Mapping[str, StoredPurchases]
    is_of_days: bool = False
    days_were_compared: bool = False

    def covers(self, finding: VerificationFinding) -> bool:
        """Return whether the days of the finding were compared."""
        is_one_day = finding.first_day == finding.last_day
        return self.start <= finding.first_day < self.end and (is_one_day or not self.is_of_days)


@dataclass(frozen=True)
class FindingUpdate:
    """The number of purchases of each kind within the span, and the titles no longer missing there."""

    purchases: Mapping[FindingKind, int]
    no_longer_missing: frozenset[str]


def open_findings(session: Session, collection: Collection) -> Sequence[VerificationFinding]:
    """Return the open findings of the collection, oldest first."""
    row = VerificationFinding
    query = select(row).where(row.collection_id == collection.id, row.resolved_at.is_(None))
    return session.scalars(query.order_by(row.id)).all()


def update_findings(session: Session, collection: Collection, differences: Differences) -> FindingUpdate:
    """Update the open findings by the differences of a span: add new ones, resolve the others.

    An extra purchase is one that was moved if a purchase of the same title is or was missing elsewhere.
    """
    known: set[tuple[bool, str]] = set()
    no_longer_missing: set[str] = set()
    for finding in open_findings(session, collection):
        if not differences.covers(finding):
            continue
        is_missing, identifier = finding.kind == FindingKind.MISSING, finding.identifier
        purchases = _purchases_of(differences, identifier, is_missing=is_missing)
        if purchases:
            finding.purchases = purchases
            known.add((is_missing, identifier))
        elif is_missing:
            _resolve_missing(session, collection, finding)
            no_longer_missing.add(identifier)
        else:
            _update_unlisted_day(finding, differences)
    session.add_all(_new_findings(collection, differences, known))
    session.flush()
    _recognise_moved(session, collection)
    session.flush()
    return FindingUpdate(_count(session, collection, differences), frozenset(no_longer_missing))


def _purchases_of(differences: Differences, identifier: str, *, is_missing: bool) -> int:
    if is_missing:
        return differences.missing.get(identifier, 0)
    extra = differences.extra.get(identifier)
    return 0 if extra is None else extra.purchases


def _update_unlisted_day(finding: VerificationFinding, differences: Differences) -> None:
    """Update an extra purchase whose title is not extra in the span."""
    if differences.days_were_compared:
        # It is extra on its day, but not in its month.
        finding.kind = FindingKind.MOVED.value
        finding.moved_to = finding.moved_to or format_days(differences.start, differences.end - _ONE_DAY)
    elif differences.is_of_days or not is_moved_within_month(finding):
        finding.resolved_at = utc_now()


def is_moved_within_month(finding: VerificationFinding) -> bool:
    """Return whether the vendor lists the purchase under another day of the same month."""
    return finding.moved_to is not None and finding.moved_to.startswith(f"{finding.first_day:%Y-%m}")


def _resolve_missing(session: Session, collection: Collection, finding: VerificationFinding) -> None:
    """Resolve the finding, with the days under which the title is stored now."""
    finding.resolved_at = utc_now()
    end = finding.last_day + _ONE_DAY
    stored = purchases_by_title(session, collection, finding.first_day, end, [finding.identifier])
    if purchases := stored.get(finding.identifier):
        finding.first_day, finding.last_day = purchases.first_day, purchases.last_day


def _new_findings(
    collection: Collection, differences: Differences, known: set[tuple[bool, str]]
) -> list[VerificationFinding]:
    last_day = differences.end - _ONE_DAY
    missing = [
        (FindingKind.MISSING, identifier, StoredPurchases(number, differences.start, last_day))
        for identifier, number in sorted(differences.missing.items())
    ]
    extra = [
        (FindingKind.EXTRA, identifier, purchases)
        for identifier, purchases in sorted(differences.extra.items())
    ]
    return [
        VerificationFinding(
            collection_id=collection.id,
            kind=kind.value,
            identifier=identifier,
            first_day=purchases.first_day,
            last_day=purchases.last_day,
            purchases=purchases.purchases,
            found_at=utc_now(),
        )
        for kind, identifier, purchases in [*missing, *extra]
        if (kind is FindingKind.MISSING, identifier) not in known
    ]


def _recognise_moved(session: Session, collection: Collection) -> None:
    """Change the kind of extra purchases whose title the vendor lists under another date.

    It does so if a purchase of the title is missing, or was found to be missing and imported since the extra
    one was last verified.
    """
    extra = [finding for finding in open_findings(session, collection) if finding.kind == FindingKind.EXTRA]
    if not extra:
        return
    row = VerificationFinding
    query = select(row).where(row.collection_id == collection.id, row.kind == FindingKind.MISSING)
    titles = {finding.identifier for finding in extra}
    missing = defaultdict(list)
    for finding in session.scalars(query.where(in_array(row.identifier, titles)).order_by(row.id)):
        missing[finding.identifier].append(finding)
    verified = select(VerifiedMonth.month, VerifiedMonth.verified_at)
    months = [finding.first_day.replace(day=1) for finding in extra]
    verified = verified.where(VerifiedMonth.collection_id == collection.id)
    verified_at: dict[date, datetime] = dict(
        session.execute(verified.where(in_array(VerifiedMonth.month, months))).all()
    )
    for finding in extra:
        last_verified = verified_at.get(finding.first_day.replace(day=1))
        for other in missing[finding.identifier]:
            is_recent = last_verified is None or other.found_at > last_verified
            is_elsewhere = (other.first_day, other.last_day) != (finding.first_day, finding.last_day)
            if is_elsewhere and (other.resolved_at is None or is_recent):
                finding.kind = FindingKind.MOVED.value
                finding.moved_to = format_days(other.first_day, other.last_day)


def _count(session: Session, collection: Collection, differences: Differences) -> dict[FindingKind, int]:
    counts = dict.fromkeys(FindingKind, 0)
    for finding in open_findings(session, collection):
        if differences.start <= finding.first_day < differences.end:
            counts[FindingKind(finding.kind)] += finding.purchases
    return counts


def remove_moved_purchases(
    session: Session, collection: Collection, differences: Differences, imported: frozenset[str]
) -> int:
    """Remove purchases from the date under which the vendor does not list them any more; return how many.

    Those are removed that are stored under their new date too: their title was `imported` just now, or their
    month, to which the `differences` belong, has them as extra.
    """
    findings = open_findings(session, collection)
    missing = {finding.identifier for finding in findings if finding.kind == FindingKind.MISSING}
    removed = 0
    for finding in findings:
        is_stored = finding.identifier in (differences.extra if differences.covers(finding) else imported)
        is_one_day = finding.first_day == finding.last_day
        if (
            finding.kind != FindingKind.MOVED
            or not is_one_day
            or not is_stored
            or finding.identifier in missing
        ):
            continue
        removed += remove_purchases(
            session, collection, finding.identifier, finding.first_day, finding.purchases
        )
        finding.resolved_at = utc_now()
    session.flush()
    return removed
