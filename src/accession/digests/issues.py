"""Issues of digests: made once for each time of the schedule, and listed with their mails.

An issue is committed with its mails, and with the record of what it covers. So a process that dies has made
it completely or not at all, and no other process makes it again.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from uuid import uuid4

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection
from accession.auth.audit import Actor, AuditAction, record
from accession.core.clock import utc_now
from accession.core.email_address import is_email_address
from accession.core.errors import InvalidInput, NotFound
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, Digest, DigestIssue, DigestMail, MailState
from accession.digests.content import ONE_DAY, DigestContent, Period, read_content
from accession.digests.options import DigestOptions, get_options, options_of
from accession.runs.ledger import find_confirmed_time

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Coverage:
    """Days that an issue covers, and those of its purchases; None where there is no day."""

    period: Period | None
    purchases: Period | None


@dataclass(frozen=True)
class Covered:
    """Last days that the issues so far have covered, and whose purchases they have; None before the first."""

    until: date | None = None
    purchases_until: date | None = None

    def after(self, issue: Coverage) -> "Covered":
        """Return what is covered after a further issue."""
        if issue.period is None:
            return self
        purchases_until = self.purchases_until or issue.period.first - ONE_DAY
        return Covered(issue.period.last, issue.purchases.last if issue.purchases else purchases_until)


@dataclass(frozen=True)
class MailView:
    """A mail of an issue; `due_at` is the time of the next try, None if there is none."""

    recipient: str
    state: str
    tries: int
    error: str | None
    due_at: datetime | None
    sent_at: datetime | None


@dataclass(frozen=True)
class IssueView:
    """An issue with its mails.

    `first_day` and `last_day` (UTC) are the days that it covers. One that a person has sent between those of
    the schedule is not `scheduled`. The numbers are those of titles in each section.
    """

    id: int
    scheduled: bool
    created_at: datetime
    first_day: date
    last_day: date
    purchased: int
    removed: int
    expired: int
    mails: tuple[MailView, ...]


def plan_coverage(covered: Covered, days: int, last: date, imported_until: date | None) -> Coverage:
    """Return what an issue covers that ends with the day `last`: all days since the issue before.

    The first issue covers `days` days. Purchases are covered as far as they have been imported; those of
    later days are left to a later issue, so that none is missed.
    """
    first = last - (days - 1) * ONE_DAY if covered.until is None else covered.until + ONE_DAY
    purchases_first = first if covered.purchases_until is None else covered.purchases_until + ONE_DAY
    purchases_last = None if imported_until is None else min(last, imported_until)
    period = _period(first, last)
    return Coverage(period, None if period is None else _period(purchases_first, purchases_last))


def _period(first: date, last: date | None) -> Period | None:
    return Period(first, last) if last is not None and first <= last else None


def make_due_issues() -> int:
    """Make the issues that are due by their schedules, each in a transaction; return how many.

    However many times of a schedule were missed, one issue covers all their days. One that fails does not
    keep the others from being made, and is due again with the next call.
    """
    now = utc_now()
    with transaction() as session:
        query = select(Digest).join(Collection, Digest.collection_id == Collection.id)
        digests = session.scalars(query.where(Collection.marked_for_deletion_at.is_(None)))
        due = [digest.collection_id for digest in digests if _latest_occurrence(digest, now) is not None]
    issues = 0
    for collection_id in due:
        try:
            with transaction() as session:
                issues += _make_due_issue(session, collection_id, now)
        except Exception:
            log.exception("digest failed", collection=collection_id)
    return issues


def _latest_occurrence(digest: Digest, now: datetime) -> datetime | None:
    """Return the latest time of the schedule whose issue has not been made; None if none is due."""
    latest = None
    for occurrence in options_of(digest).cron.occurrences(digest.issued_until):
        if occurrence > now:
            break
        latest = occurrence
    return latest


def _make_due_issue(session: Session, collection_id: int, now: datetime) -> bool:
    """Make the collection's issue, unless another process does; return whether it was made."""
    query = select(Digest).where(Digest.collection_id == collection_id).with_for_update(skip_locked=True)
    digest = session.scalars(query).one_or_none()
    occurrence = None if digest is None else _latest_occurrence(digest, now)
    if digest is None or occurrence is None:
        return False
    collection, options = get_collection(session, collection_id), options_of(digest)
    imported_until = find_imported_until(session, collection)
    covered = Covered(digest.covered_until, digest.purchases_until)
    last = occurrence.astimezone(UTC).date() - ONE_DAY
    coverage = plan_coverage(covered, options.frequency.days, last, imported_until)
    covered = covered.after(coverage)
    digest.covered_until, digest.purchases_until = covered.until, covered.purchases_until
    digest.issued_until = occurrence
    if coverage.period is None:
        # The clock was changed, or the schedule: no day has ended since the last issue.
        return False
    content = read_content(
        session,
        collection,
        coverage.period,
        purchases=coverage.purchases,
        imported_until=imported_until,
        max_titles=options.max_titles,
    )
    if content.is_empty and not options.send_empty:
        log.info("digest is empty", collection=collection_id)
        return False
    issue = _store_issue(session, content, options.recipients, scheduled=True, now=now)
    log.info("digest made", collection=collection_id, issue=issue.id, recipients=len(options.recipients))
    return True


def find_imported_until(session: Session, collection: Collection) -> date | None:
    """Return the last day (UTC) up to which all purchases are imported; None before the first import."""
    confirmed = find_confirmed_time(session, collection, Workflow.PURCHASES)
    return None if confirmed is None else confirmed.astimezone(UTC).date() - ONE_DAY


def _store_issue(
    session: Session,
    content: DigestContent,
    recipients: Sequence[str],
    *,
    scheduled: bool,
    now: datetime,
) -> DigestIssue:
    issue = DigestIssue(
        collection_id=content.collection_id, scheduled=scheduled, content=content.to_json(), created_at=now
    )
    session.add(issue)
    session.flush()
    session.add_all(
        DigestMail(
            issue_id=issue.id,
            recipient=recipient,
            message_id=uuid4().hex,
            state=MailState.PENDING.value,
            due_at=now,
        )
        for recipient in recipients
    )
    session.flush()
    return issue


def preview_content(session: Session, collection: Collection, options: DigestOptions) -> DigestContent:
    """Return what an issue would contain that is made now: the last day or week, up to yesterday (UTC)."""
    imported_until = find_imported_until(session, collection)
    days, yesterday = options.frequency.days, utc_now().date() - ONE_DAY
    coverage = plan_coverage(Covered(), days, yesterday, imported_until)
    return read_content(
        session,
        collection,
        Period(yesterday - (days - 1) * ONE_DAY, yesterday),
        purchases=coverage.purchases,
        imported_until=imported_until,
        max_titles=options.max_titles,
    )


def store_manual_issue(
    session: Session, actor: Actor, collection: Collection, recipients: Sequence[str] = ()
) -> int:
    """Store an issue of the last day or week, which is due to be mailed now; return its id.

    It goes to the recipients of the digest, or to others. The schedule stays as it is.

    Raises:
        NotFound: the collection has no digest.
        InvalidInput: there is no recipient, or an address is invalid.
    """
    options = get_options(session, collection)
    addresses = tuple(recipients) or options.recipients
    if not addresses:
        raise InvalidInput(
            f'The digest of "{collection.name}" has no recipients: add one, or name an address to send it to.'
        )
    for address in addresses:
        if not is_email_address(address):
            raise InvalidInput(
                f"The recipient {address[:100]!r} is invalid: enter an address as name@library.example."
            )
    content = preview_content(session, collection, options)
    record(session, actor, AuditAction.DIGEST_SEND, collection.name, {"recipients": list(addresses)})
    return _store_issue(session, content, addresses, scheduled=False, now=utc_now()).id


def issue_views(
    session: Session, collection: Collection, *, before_id: int | None = None, limit: int
) -> list[IssueView]:
    """Return issues of a collection, newest first; `before_id` continues an earlier listing."""
    query = select(DigestIssue).where(DigestIssue.collection_id == collection.id)
    if before_id is not None:
        query = query.where(DigestIssue.id < before_id)
    issues = session.scalars(query.order_by(DigestIssue.id.desc()).limit(limit)).all()
    mails = _read_mails(session, [issue.id for issue in issues])
    return [_issue_view(issue, mails[issue.id]) for issue in issues]


def get_issue_view(session: Session, issue_id: int) -> IssueView:
    """Return the issue with this id, which exists."""
    issue = session.get_one(DigestIssue, issue_id)
    return _issue_view(issue, _read_mails(session, [issue_id])[issue_id])


def latest_issues(session: Session, collection_ids: Sequence[int]) -> dict[int, IssueView]:
    """Return the latest issue of each collection that has any, by collection id."""
    row = DigestIssue
    of_collections = select(func.max(row.id)).where(row.collection_id.in_(collection_ids))
    query = select(row).where(row.id.in_(of_collections.group_by(row.collection_id)))
    issues = session.scalars(query).all()
    mails = _read_mails(session, [issue.id for issue in issues])
    return {issue.collection_id: _issue_view(issue, mails[issue.id]) for issue in issues}


def find_issue_content(session: Session, collection: Collection, issue_id: int) -> DigestContent:
    """Return the content of an issue of a collection's digest.

    Raises:
        NotFound: the collection has no such issue.
    """
    issue = session.get(DigestIssue, issue_id)
    if issue is None or issue.collection_id != collection.id:
        raise NotFound(f'The digest of "{collection.name}" has no issue {issue_id}.')
    return DigestContent.from_json(issue.content)


def _read_mails(session: Session, issue_ids: Sequence[int]) -> dict[int, list[DigestMail]]:
    mails = defaultdict(list)
    query = select(DigestMail).where(DigestMail.issue_id.in_(issue_ids)).order_by(DigestMail.id)
    for mail in session.scalars(query):
        mails[mail.issue_id].append(mail)
    return mails


def _issue_view(issue: DigestIssue, mails: Sequence[DigestMail]) -> IssueView:
    content = DigestContent.from_json(issue.content)
    return IssueView(
        id=issue.id,
        scheduled=issue.scheduled,
        created_at=issue.created_at,
        first_day=content.period.first,
        last_day=content.period.last,
        **{section.kind.value: section.total for section in content.sections},
        mails=tuple(
            MailView(
                recipient=mail.recipient,
                state=mail.state,
                tries=mail.tries,
                error=mail.error,
                due_at=mail.due_at if mail.state == MailState.PENDING else None,
                sent_at=mail.sent_at,
            )
            for mail in mails
        ),
    )
