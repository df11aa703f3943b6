"""Schedules of the workflows: when the runs of each collection start.

A schedule is a cron expression in a time zone, and a jitter window. Each run starts a delay after an
occurrence of the expression. The delay is always the same for a collection and a workflow, and shorter than
the window, so that many collections with one expression do not start at the same time. What a collection does
not set is inherited from the settings.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Self

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.libraries import collections_by_account
from accession.auth.audit import Actor, AuditAction, record
from accession.core.clock import utc_now
from accession.core.cron import Cron
from accession.core.errors import InvalidInput
from accession.core.settings import MAX_JITTER_MINUTES, get_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection, WorkflowSchedule
from accession.runs.pauses import list_pauses

# Key of the advisory lock that one starter of due runs holds; arbitrary, but fixed for all versions.
_STARTER_LOCK_KEY = 6_204_118_305_771
_MIN_STARTS_PER_MINUTE = 10
# After an outage, all workflows of all collections are started within half an hour, not at the same time.
_MINUTES_FOR_ALL_STARTS = 30
_SHOWN_STARTS = 5

# Most collections have the same few expressions.
_cron = lru_cache(Cron)


@dataclass(frozen=True)
class ScheduleOverride:
    """The parts of a schedule that a collection sets itself; None is inherited from the settings."""

    cron: str | None = None
    time_zone: str | None = None
    jitter_minutes: int | None = None


@dataclass(frozen=True)
class Schedule:
    """When the runs of a workflow of a collection start.

    Attributes:
        cron: Expression and time zone.
        jitter_minutes: Length of the jitter window.
        delay: Time between an occurrence of the expression and the start.
        override: What the collection sets itself.
        started_until: The runs of all occurrences up to this time have been started.
    """

    collection_id: int
    workflow: Workflow
    cron: Cron
    jitter_minutes: int
    delay: timedelta
    override: ScheduleOverride
    started_until: datetime

    @property
    def next_start(self) -> datetime:
        """Return when the next run starts (UTC); a time in the past if it is due."""
        return self.next_start_after(self.started_until + self.delay)

    def after_starting(self, now: datetime) -> Self:
        """Return the schedule as it is once all that is due has been started."""
        return replace(self, started_until=now - self.delay)

    def next_start_after(self, time: datetime) -> datetime:
        """Return the first start (UTC) after a time."""
        return self.cron.next_occurrence(time - self.delay) + self.delay

    def starts_after(self, time: datetime) -> Iterator[datetime]:
        """Yield the starts (UTC) after a time, in ascending order."""
        return (occurrence + self.delay for occurrence in self.cron.occurrences(time - self.delay))


@dataclass(frozen=True)
class ScheduleView:
    """A schedule as it is shown.

    `inherited` names the fields whose values are those of the settings; `description` is the expression in
    words. Each run starts within `jitter_minutes` after a time of the expression. `next_starts` are the next
    five starts (UTC), of which the first is in the past if it is due.
    """

    workflow: str
    cron: str
    time_zone: str
    jitter_minutes: int
    inherited: tuple[str, ...]
    description: str
    next_starts: tuple[datetime, ...]


@dataclass(frozen=True)
class _AccountShare:
    """The position of a collection among the `size` collections of its account at the vendor."""

    account: str
    position: int
    size: int

    def delay(self, workflow: Workflow, window_minutes: int) -> timedelta:
        """Return the collection's delay: those of an account's collections are distributed evenly."""
        if window_minutes == 0:
            return timedelta(0)
        digest = sha256(f"{self.account} {workflow}".encode()).digest()
        minutes = int.from_bytes(digest[:8], "big") + window_minutes * self.position // self.size
        return timedelta(minutes=minutes % window_minutes)


def list_schedules(session: Session, collection_id: int | None = None) -> list[Schedule]:
    """Return the schedules of all collections in use, or of one."""
    rows = {(row.collection_id, row.workflow): row for row in session.scalars(select(WorkflowSchedule))}
    return [
        _stored_schedule(collection, workflow, rows.get((collection.id, workflow.value)), share)
        for collection, share in _account_shares(session)
        if collection_id in (None, collection.id)
        for workflow in SCHEDULED_WORKFLOWS
    ]


def _account_shares(session: Session) -> list[tuple[Collection, _AccountShare]]:
    return [
        (collection, _AccountShare(str(account), position, len(collections)))
        for account, collections in collections_by_account(session).items()
        for position, collection in enumerate(collections)
    ]


def find_next_starts(session: Session) -> dict[tuple[int, str], datetime]:
    """Return when the next scheduled run starts (UTC), by collection id and workflow."""
    return {
        (schedule.collection_id, schedule.workflow.value): schedule.next_start
        for schedule in list_schedules(session)
    }


def _stored_schedule(
    collection: Collection, workflow: Workflow, row: WorkflowSchedule | None, share: _AccountShare
) -> Schedule:
    if row is None:
        return _schedule(collection, workflow, ScheduleOverride(), share, collection.created_at)
    schedule = _schedule(collection, workflow, _override(row), share, collection.created_at)
    return replace(schedule, started_until=row.started_until)


def _override(row: WorkflowSchedule) -> ScheduleOverride:
    return ScheduleOverride(row.cron, row.time_zone, row.jitter_minutes)


@dataclass(frozen=True)
class _Defaults:
    """The parts of a workflow's schedule in the settings."""

    cron: str
    time_zone: str
    jitter_minutes: int


def _defaults(workflow: Workflow) -> _Defaults:
    settings = get_settings()
    return _Defaults(
        cron=getattr(settings, f"{workflow}_cron"),
        time_zone=settings.time_zone,
        jitter_minutes=getattr(settings, f"{workflow}_jitter_minutes"),
    )


def _schedule(
    collection: Collection,
    workflow: Workflow,
    override: ScheduleOverride,
    share: _AccountShare,
    begin: datetime,
) -> Schedule:
    """Return the schedule with this override, whose first start is after `begin`."""
    defaults = _defaults(workflow)
    cron = defaults.cron if override.cron is None else override.cron
    time_zone = defaults.time_zone if override.time_zone is None else override.time_zone
    jitter_minutes = defaults.jitter_minutes if override.jitter_minutes is None else override.jitter_minutes
    delay = share.delay(workflow, jitter_minutes)
    return Schedule(
        collection_id=collection.id,
        workflow=workflow,
        cron=_cron(cron, time_zone),
        jitter_minutes=jitter_minutes,
        delay=delay,
        override=override,
        started_until=begin - delay,
    )


def schedule_views(session: Session, collection: Collection) -> list[ScheduleView]:
    """Return the collection's schedules."""
    return [_view(schedule) for schedule in list_schedules(session, collection.id)]


def _view(schedule: Schedule) -> ScheduleView:
    now, first = utc_now(), schedule.next_start
    starts = [first] if first <= now else []
    starts += islice(schedule.starts_after(now), _SHOWN_STARTS - len(starts))
    override = schedule.override
    return ScheduleView(
        workflow=schedule.workflow.value,
        cron=schedule.cron.expression,
        time_zone=schedule.cron.time_zone,
        jitter_minutes=schedule.jitter_minutes,
        inherited=tuple(field.name for field in fields(override) if getattr(override, field.name) is None),
        description=schedule.cron.description,
        next_starts=tuple(starts),
    )


def preview_schedule(
    session: Session, collection: Collection, workflow: Workflow, override: ScheduleOverride
) -> ScheduleView:
    """Return the workflow's schedule as it would be with this override.

    Raises:
        InvalidInput: the workflow has no schedule, or a value is invalid.
    """
    return _view(_new_schedule(session, collection, workflow, override))


def _new_schedule(
    session: Session, collection: Collection, workflow: Workflow, override: ScheduleOverride
) -> Schedule:
    if workflow not in SCHEDULED_WORKFLOWS:
        raise InvalidInput(
            f"The workflow {workflow} has no schedule: choose one of {', '.join(SCHEDULED_WORKFLOWS)}."
        )
    if not 0 <= (override.jitter_minutes or 0) <= MAX_JITTER_MINUTES:
        raise InvalidInput(
            f"The jitter window of {override.jitter_minutes} minutes is invalid: "
            f"enter 0 to {MAX_JITTER_MINUTES} minutes."
        )
    (share,) = (share for each, share in _account_shares(session) if each.id == collection.id)
    return _schedule(collection, workflow, override, share, utc_now())


def find_override(session: Session, collection: Collection, workflow: Workflow) -> ScheduleOverride:
    """Return what the collection sets for a workflow itself."""
    row = session.get(WorkflowSchedule, (collection.id, workflow.value))
    return (
        ScheduleOverride() if row is None else ScheduleOverride(row.cron, row.time_zone, row.jitter_minutes)
    )


def set_schedule(
    session: Session, actor: Actor, collection: Collection, workflow: Workflow, override: ScheduleOverride
) -> ScheduleView:
    """Set what the collection does not inherit, and record it in the audit log.

    The next run starts after now.

    Raises:
        InvalidInput: the workflow has no schedule, or a value is invalid.
    """
    schedule = _new_schedule(session, collection, workflow, override)
    details = {"workflow": workflow.value, **asdict(override)}
    record(session, actor, AuditAction.COLLECTION_SET_SCHEDULE, collection.name, details)
    values = {**asdict(override), "started_until": schedule.started_until}
    statement = insert(WorkflowSchedule).values(
        collection_id=collection.id, workflow=workflow.value, **values
    )
    session.execute(
        statement.on_conflict_do_update(index_elements=["collection_id", "workflow"], set_=values)
    )
    return _view(schedule)


def take_due_starts(session: Session) -> list[Schedule]:
    """Return the schedules of which a run is due, and record that it is started; earliest first.

    However many occurrences were missed, one run is started for them. Nothing is due while another
    transaction does this. A workflow that is paused is due when the pause ends. After an outage, only a part
    is returned at a time.
    """
    if not session.scalar(select(func.pg_try_advisory_xact_lock(_STARTER_LOCK_KEY))):
        return []
    now, schedules, paused = utc_now(), list_schedules(session), list_pauses(session).keys()
    starts = [
        (schedule.next_start, schedule)
        for schedule in schedules
        if (schedule.collection_id, schedule.workflow.value) not in paused
    ]
    due = sorted((pair for pair in starts if pair[0] <= now), key=lambda pair: pair[0])
    limit = max(_MIN_STARTS_PER_MINUTE, len(schedules) // _MINUTES_FOR_ALL_STARTS)
    taken = [schedule for _, schedule in due[:limit]]
    _record_starts(session, taken, now)
    return taken


def _record_starts(session: Session, schedules: Sequence[Schedule], now: datetime) -> None:
    rows = [
        {
            "collection_id": schedule.collection_id,
            "workflow": schedule.workflow.value,
            "started_until": schedule.after_starting(now).started_until,
        }
        for schedule in schedules
    ]
    if rows:
        statement = insert(WorkflowSchedule).values(rows)
        new_value = {"started_until": statement.excluded.started_until}
        session.execute(
            statement.on_conflict_do_update(index_elements=["collection_id", "workflow"], set_=new_value)
        )
