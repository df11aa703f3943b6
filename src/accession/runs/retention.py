"""Retention: how long each kind of row is kept, and the deletion of older ones in small batches.

What has been added up, such as runs per day, is kept for years after its details. The last run of each
state, of each collection and workflow, is kept for ever.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy import Select, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, aliased

from accession.catalog.event_retention import OldEvents
from accession.core.errors import UserError
from accession.core.settings import Settings
from accession.core.vocabulary import EventType
from accession.core.workflow import Workflow
from accession.db.aged_rows import AgedRows, RowsByBlockRange, limit_lock_waits
from accession.db.blocking import is_lock_timeout
from accession.db.engine import transaction
from accession.db.models import (
    AuditEntry,
    Base,
    CirculationEvent,
    CirculationTotal,
    DeliveryState,
    DigestIssue,
    DigestMail,
    Notification,
    NotificationIncident,
    Pruning,
    RejectedRecord,
    Run,
    RunDay,
    RunLogLine,
    RunRequests,
    RunRetry,
    RunSample,
    RunStep,
    RunStepTotals,
    RunTitle,
    TitleChange,
    VerificationFinding,
    Webhook,
    WebhookDelivery,
    WebhookDeliveryState,
)

log = structlog.get_logger(__name__)

BATCH_SIZE = 1000
# Others need the disks, too: a pause is as long as the batch before it, within these limits.
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.01, 1.0


class OldRows(Protocol):
    """Rows of one kind."""

    def select_all(self) -> Select[Any]:
        """Return a query for the rows of any age."""

    def select_old(self, before: datetime) -> Select[Any]:
        """Return a query for the rows from before a time that may be deleted."""

    def oldest(self, session: Session) -> datetime | date | None:
        """Return the earliest time or day of all rows; None without rows."""

    def delete_batch(self, session: Session, before: datetime, limit: int) -> int:
        """Delete about `limit` rows from before a time, and return their number; 0 if there are no more."""


@dataclass(frozen=True)
class RetentionKind:
    """Rows that are deleted at some age.

    Attributes:
        name: Name on the command line and in the API.
        description: Description for people.
        setting: Setting with the number of days for which they are kept; 0 means for ever.
        tables: Their table, and those of rows that are deleted with them.
        rows: The rows.
    """

    name: str
    description: str
    setting: str
    tables: Sequence[type[Base]]
    rows: OldRows

    def days(self, settings: Settings) -> int:
        """Return the number of days for which the rows are kept; 0 means for ever."""
        days: int = getattr(settings, self.setting)
        return days

    def kept_since(self, settings: Settings, now: datetime) -> datetime | None:
        """Return the time (UTC) before which rows are deleted; None if they are kept for ever."""
        days = self.days(settings)
        return now - timedelta(days=days) if days else None


def _deletable_runs() -> Iterator[Any]:
    """Yield the conditions of runs that nothing needs: not the next run, and not the dashboard."""
    newer = aliased(Run)
    is_of_same_state = (
        (newer.collection_id == Run.collection_id)
        & (newer.workflow == Run.workflow)
        & (newer.state == Run.state)
    )
    yield select(literal(1)).where(is_of_same_state, newer.id > Run.id).exists()
    yield ~select(literal(1)).where(NotificationIncident.run_id == Run.id).exists()
    # The next run of the collection takes them over.
    yield ~select(literal(1)).where(RunTitle.run_id == Run.id, RunTitle.is_pending).exists()


def _deletable_findings() -> Iterator[Any]:
    """Yield the condition of findings that do not explain one that is open, such as a moved purchase."""
    other = aliased(VerificationFinding)
    is_of_same_title = (other.collection_id == VerificationFinding.collection_id) & (
        other.identifier == VerificationFinding.identifier
    )
    yield ~select(literal(1)).where(is_of_same_title, other.resolved_at.is_(None)).exists()


def _is_for_paused_webhook() -> Any:
    is_paused = (Webhook.id == WebhookDelivery.webhook_id) & Webhook.paused_at.is_not(None)
    return select(literal(1)).where(is_paused).exists()


_is_event = RejectedRecord.workflow == Workflow.EVENTS.value

KINDS = (
    RetentionKind(
        "runs",
        "Ended runs, with their steps, log lines, requests, retries and samples",
        "retention_days_runs",
        (Run, RunStep, RunStepTotals, RunLogLine, RunRequests, RunRetry, RunSample),
        AgedRows(Run, Run.finished_at, deletable=tuple(_deletable_runs())),
    ),
    RetentionKind(
        "run-totals",
        "Totals of runs per day",
        "retention_days_run_totals",
        (RunDay,),
        AgedRows(RunDay, RunDay.day),
    ),
    RetentionKind("events", "Circulation events", "retention_days_events", (CirculationEvent,), OldEvents()),
    RetentionKind(
        "event-totals",
        "Totals of circulation events per title and day",
        "retention_days_event_totals",
        (CirculationTotal,),
        # Removals are few, and the report on them covers more years.
        RowsByBlockRange(
            CirculationTotal, CirculationTotal.day, (CirculationTotal.event_type != EventType.REMOVED,)
        ),
    ),
    RetentionKind(
        "availability-changes",
        "History of titles: availability",
        "retention_days_availability",
        (TitleChange,),
        AgedRows(TitleChange, TitleChange.changed_at, (TitleChange.license_pool_id.is_not(None),)),
    ),
    RetentionKind(
        "metadata-changes",
        "History of titles: metadata",
        "retention_days_metadata",
        (TitleChange,),
        AgedRows(TitleChange, TitleChange.changed_at, (TitleChange.edition_id.is_not(None),)),
    ),
    RetentionKind(
        "rejected-events",
        "Resolved rejected events",
        "retention_days_rejects",
        (RejectedRecord,),
        AgedRows(
            RejectedRecord,
            RejectedRecord.resolved_at,
            (RejectedRecord.resolved_at.is_not(None), RejectedRecord.raw_xml != "", _is_event),
        ),
    ),
    RetentionKind(
        # The row stays, so that a later verification does not report the record again.
        "rejected-records",
        "XML of resolved rejected records",
        "retention_days_rejects",
        (RejectedRecord,),
        AgedRows(
            RejectedRecord,
            RejectedRecord.resolved_at,
            (RejectedRecord.resolved_at.is_not(None), RejectedRecord.raw_xml != "", ~_is_event),
            cleared={"raw_xml": ""},
        ),
    ),
    RetentionKind(
        "findings",
        "Resolved findings of verifications",
        "retention_days_findings",
        (VerificationFinding,),
        AgedRows(
            VerificationFinding,
            VerificationFinding.resolved_at,
            (VerificationFinding.resolved_at.is_not(None),),
            deletable=tuple(_deletable_findings()),
        ),
    ),
    RetentionKind(
        "notifications",
        "Notifications that were sent or given up",
        "retention_days_notifications",
        (Notification,),
        AgedRows(Notification, Notification.created_at, (Notification.state != DeliveryState.PENDING.value,)),
    ),
    RetentionKind(
        "webhook-deliveries",
        "Events of webhooks that were delivered or skipped, or whose webhook is paused",
        "retention_days_webhooks",
        (WebhookDelivery,),
        AgedRows(
            WebhookDelivery,
            WebhookDelivery.created_at,
            (or_(WebhookDelivery.state != WebhookDeliveryState.PENDING.value, _is_for_paused_webhook()),),
        ),
    ),
    RetentionKind(
        "digests",
        "Issues of digests, with the log of their mails",
        "retention_days_digests",
        (DigestIssue, DigestMail),
        AgedRows(DigestIssue, DigestIssue.created_at),
    ),
    RetentionKind(
        "audit-log",
        "Audit log",
        "retention_days_audit_log",
        (AuditEntry,),
        AgedRows(AuditEntry, AuditEntry.at),
    ),
)


def find_kinds(names: Sequence[str]) -> Sequence[RetentionKind]:
    """Return the kinds with these names; all without names.

    Raises:
        UserError: there is no such kind.
    """
    by_name = {kind.name: kind for kind in KINDS}
    for name in names:
        if name not in by_name:
            raise UserError(f'There is no kind of data "{name}" to prune: use {", ".join(by_name)}.')
    return [by_name[name] for name in names] or KINDS


def prune(
    kinds: Sequence[RetentionKind], settings: Settings, now: datetime, *, seconds: float | None = None
) -> dict[str, int]:
    """Delete the rows of these kinds that are too old, and return their number by the name of the kind.

    Each batch is a transaction of its own, followed by a pause, so that nobody waits for long. With `seconds`
    no batch begins later than that; the next call continues. A kind that somebody else is pruning, or whose
    rows are locked, is left to the next call.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    return {kind.name: _prune_kind(kind, settings, now, deadline) for kind in kinds}


def _prune_kind(kind: RetentionKind, settings: Settings, now: datetime, deadline: float | None) -> int:
    before = kind.kept_since(settings, now)
    total = 0
    while before is not None and (deadline is None or time.monotonic() < deadline):
        start = time.monotonic()
        try:
            with transaction() as session:
                deleted = prune_batch(session, kind, before, now)
        except OperationalError as error:
            if not is_lock_timeout(error):
                raise
            log.info("rows to delete are locked", kind=kind.name)
            break
        if not deleted:
            break
        total += deleted
        time.sleep(min(max(time.monotonic() - start, _MIN_PAUSE_SECONDS), _MAX_PAUSE_SECONDS))
    if total:
        log.info("old rows deleted", kind=kind.name, rows=total)
    return total


def prune_batch(session: Session, kind: RetentionKind, before: datetime, now: datetime) -> int:
    """Delete about 1,000 rows of a kind from before a time, and return their number.

    It is 0 when there are no more, and while another transaction prunes the kind.
    """
    limit_lock_waits(session)
    session.execute(insert(Pruning).values(kind=kind.name, rows=0).on_conflict_do_nothing())
    query = select(Pruning).where(Pruning.kind == kind.name).with_for_update(skip_locked=True)
    pruning = session.scalars(query).one_or_none()
    if pruning is None:
        return 0
    deleted = kind.rows.delete_batch(session, before, BATCH_SIZE)
    pruning.pruned_at = now
    pruning.rows += deleted
    return deleted


def pruned_rows(session: Session) -> dict[str, int]:
    """Return the number of rows deleted so far, by the name of each kind."""
    rows = dict(session.execute(select(Pruning.kind, Pruning.rows)).all())
    return {kind.name: rows.get(kind.name, 0) for kind in KINDS}
