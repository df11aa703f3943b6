"""Apply the rules: open, remind of and close incidents, and queue the messages about them.

A rule has one incident for each problem, from its first report until it is over, however often it is reported
meanwhile. So its channel is notified once, then reminded daily, and at last of the recovery.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from accession.core.workflow import SCHEDULED_WORKFLOWS
from accession.db.models import (
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationEvent,
    NotificationIncident,
    NotificationRule,
    Run,
    RunState,
)
from accession.notifications.events import run_key
from accession.notifications.kinds import SEVERITIES, EventKind, Severity
from accession.notifications.messages import Item
from accession.notifications.problems import (
    CollectionStates,
    MachineState,
    Problem,
    find_differences,
    find_full_disks,
    find_overdue,
    find_rejections,
    read_collection_states,
)
from accession.notifications.quiet_hours import parse_quiet_hours

GROUP_WINDOW = timedelta(minutes=2)
"""Time that a message about a collection waits for further collections with the same problem."""

_REMINDER_INTERVAL = timedelta(days=1)
# Key of the advisory lock of the process that applies the rules; arbitrary, but fixed for all versions.
_LOCK_KEY = 0x4E4F5449
_RUN_KINDS = (EventKind.RUN_FAILED, EventKind.CREDENTIALS_REJECTED)


def apply_rules(session: Session, machine: MachineState, now: datetime) -> None:
    """Apply every rule to the events since the last call, and to the present problems.

    Does nothing while another process does the same.
    """
    if not session.scalar(select(func.pg_try_advisory_xact_lock(_LOCK_KEY))):
        return
    events = session.scalars(select(NotificationEvent).order_by(NotificationEvent.id)).all()
    query = select(NotificationRule, NotificationChannel.name).join(NotificationChannel)
    rules = session.execute(query.order_by(NotificationRule.id)).all()
    if rules:
        states = read_collection_states(session, now)
        for rule, channel in rules:
            _RuleIncidents(session, rule, channel, states, now).update(events, machine)
    session.execute(delete(NotificationEvent).where(NotificationEvent.id.in_([event.id for event in events])))


class _RuleIncidents:
    """The open incidents of a rule."""

    def __init__(
        self, session: Session, rule: NotificationRule, channel: str, states: CollectionStates, now: datetime
    ) -> None:
        self._session, self._rule, self._channel = session, rule, channel
        self._states, self._now = states, now
        query = select(NotificationIncident).filter_by(rule_id=rule.id).order_by(NotificationIncident.key)
        self._open = {incident.key: incident for incident in session.scalars(query)}
        self._quiet = parse_quiet_hours(rule.quiet_hours, rule.time_zone) if rule.quiet_hours else None

    def update(self, events: Iterable[NotificationEvent], machine: MachineState) -> None:
        """Process the events, then compare the incidents with the present state."""
        for event in events:
            if event.kind == EventKind.RECOVERED:
                self._close(event.key)
            else:
                self._report(_problem_of(event))
        self._close_run_incidents()
        self._compare(EventKind.NO_SUCCESS, self._overdue())
        rule = self._rule
        self._compare(
            EventKind.REJECTED_RECORDS, find_rejections(self._states, rule.rejected_records, self._now)
        )
        self._compare(EventKind.PURCHASES_DIFFER, find_differences(self._states, self._now))
        self._compare(
            EventKind.DISK_NEARLY_FULL,
            find_full_disks(machine, rule.disk_free_percent, self._now),
            keys={disk.key for disk in machine.disks},
        )
        self._compare(
            EventKind.PROCESS_MISSING,
            [problem for problem in machine.processes.values() if problem is not None],
            keys=set(machine.processes),
        )
        for incident in self._open.values():
            self._remind(incident)

    def _overdue(self) -> list[Problem]:
        """Return the overdue workflows; new ones only if they are not paused and no failed run is known."""
        problems = find_overdue(self._session, self._states, self._rule.no_success_hours, self._now)
        return [
            problem
            for problem in problems
            if problem.key in self._open or not (self._is_paused(problem) or self._has_failed_run(problem))
        ]

    def _is_paused(self, problem: Problem | NotificationIncident) -> bool:
        return (problem.collection_id, problem.workflow) in self._states.paused

    def _has_failed_run(self, problem: Problem | NotificationIncident) -> bool:
        return run_key(problem.collection_id, problem.workflow) in self._open

    def _compare(self, kind: EventKind, problems: Iterable[Problem], keys: set[str] | None = None) -> None:
        """Report the problems of a kind, and close its other incidents (with `keys` only those)."""
        present = {problem.key: problem for problem in problems}
        for problem in present.values():
            self._report(problem)
        for incident in list(self._open.values()):
            is_known = keys is None or incident.key in keys
            if incident.kind == kind and incident.key not in present and is_known:
                self._close(incident.key)

    def _report(self, problem: Problem) -> None:
        """Open an incident, unless it is open already; notify the channel."""
        if not self._applies_to(problem):
            return
        incident = self._open.get(problem.key)
        if incident is None:
            incident = self._open_incident(problem)
        else:
            is_same = incident.kind == problem.kind
            incident.kind, incident.reason, incident.cause = problem.kind.value, problem.reason, problem.cause
            incident.run_id = problem.run_id
            if is_same:
                return
        if self._selects(problem.kind):
            incident.notified_at = self._now
            self._queue(problem.kind, incident, problem.cause)

    def _open_incident(self, problem: Problem) -> NotificationIncident:
        incident = NotificationIncident(
            rule_id=self._rule.id,
            key=problem.key,
            kind=problem.kind.value,
            collection_id=problem.collection_id,
            workflow=problem.workflow,
            run_id=problem.run_id,
            subject=problem.subject,
            reason=problem.reason,
            cause=problem.cause,
            since=problem.since,
            opened_at=self._now,
        )
        # Nothing can tell when a run that is started by hand has recovered.
        if problem.kind not in _RUN_KINDS or problem.workflow in SCHEDULED_WORKFLOWS:
            self._session.add(incident)
            self._open[problem.key] = incident
        return incident

    def _applies_to(self, problem: Problem) -> bool:
        rule, severity = self._rule, SEVERITIES[problem.kind]
        if rule.collection_ids is not None and problem.collection_id not in rule.collection_ids:
            return False
        if severity.rank < Severity(rule.min_severity).rank:
            return False
        problem_kinds = [event for event in rule.events if event in SEVERITIES]
        return not problem_kinds or problem.kind in problem_kinds

    def _selects(self, kind: EventKind) -> bool:
        return not self._rule.events or kind in self._rule.events

    def _close_run_incidents(self) -> None:
        """Close the incidents of runs that a later run has made good, and those of removed collections."""
        for incident in list(self._open.values()):
            if incident.collection_id is not None and incident.collection_id not in self._states.names:
                self._session.delete(self._open.pop(incident.key))
            elif incident.kind in _RUN_KINDS and self._has_succeeded(incident):
                self._close(incident.key)

    def _has_succeeded(self, incident: NotificationIncident) -> bool:
        query = select(Run.id).filter_by(
            collection_id=incident.collection_id, workflow=incident.workflow, state=RunState.SUCCEEDED.value
        )
        return self._session.scalar(query.where(Run.id > incident.run_id).limit(1)) is not None

    def _close(self, key: str) -> None:
        """Close an incident if it is open, and report that if the incident has been reported."""
        incident = self._open.pop(key, None)
        if incident is None:
            return
        if incident.notified_at is not None and self._selects(EventKind.RECOVERED):
            self._queue(EventKind.RECOVERED, incident, cause="")
        self._session.delete(incident)

    def _remind(self, incident: NotificationIncident) -> None:
        is_reported_otherwise = incident.kind == EventKind.NO_SUCCESS and self._has_failed_run(incident)
        if self._is_paused(incident) or is_reported_otherwise:
            return
        if incident.reminded_at is None:
            due_at = incident.opened_at + timedelta(hours=self._rule.still_failing_hours)
        else:
            due_at = incident.reminded_at + _REMINDER_INTERVAL
        if self._now >= due_at and self._selects(EventKind.STILL_FAILING):
            incident.reminded_at = self._now
            incident.notified_at = incident.notified_at or self._now
            self._queue(EventKind.STILL_FAILING, incident, incident.cause)

    def _queue(self, kind: EventKind, incident: NotificationIncident, cause: str) -> None:
        """Add the incident to a message that waits to be sent for the first time, or to a new one."""
        item = Item(
            EventKind(incident.kind), incident.subject, incident.reason, incident.since, incident.run_id
        ).to_json()
        severity = SEVERITIES[EventKind(incident.kind)]
        waiting = self._find_waiting(kind, cause, severity)
        if waiting is not None:
            others = [each for each in waiting.items if each["subject"] != item["subject"]]
            waiting.items = [*others, item]
            return
        window = GROUP_WINDOW if incident.collection_id is not None else timedelta()
        self._session.add(
            Notification(
                channel_id=self._rule.channel_id,
                rule_id=self._rule.id,
                channel=self._channel,
                rule=self._rule.name,
                kind=kind.value,
                severity=severity.value,
                cause=cause,
                items=[item],
                state=DeliveryState.PENDING.value,
                created_at=self._now,
                due_at=self._after_quiet_hours(self._now + window, severity),
            )
        )
        self._session.flush()

    def _find_waiting(self, kind: EventKind, cause: str, severity: Severity) -> Notification | None:
        query = select(Notification).filter_by(
            rule_id=self._rule.id,
            kind=kind.value,
            cause=cause,
            severity=severity.value,
            state=DeliveryState.PENDING.value,
            tries=0,
        )
        # One that another process is sending is left alone.
        return self._session.scalars(query.limit(1).with_for_update(skip_locked=True)).one_or_none()

    def _after_quiet_hours(self, time: datetime, severity: Severity) -> datetime:
        is_urgent = severity is Severity.CRITICAL and self._rule.critical_ignores_quiet_hours
        return time if self._quiet is None or is_urgent else self._quiet.end_after(time)


def _problem_of(event: NotificationEvent) -> Problem:
    return Problem(
        key=event.key,
        kind=EventKind(event.kind),
        subject=event.subject,
        reason=event.reason,
        cause=event.cause,
        since=event.occurred_at,
        collection_id=event.collection_id,
        workflow=event.workflow,
        run_id=event.run_id,
    )
