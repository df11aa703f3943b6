"""Problems of the present: what can be read from the database and from this machine at any time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.catalog.verification import count_unrepaired_purchases
from accession.core.workflow import SCHEDULED_WORKFLOWS
from accession.db.models import Collection, RejectedRecord
from accession.notifications.kinds import EventKind
from accession.runs.health import MAX_LATENESS, last_successes
from accession.runs.pauses import list_pauses
from accession.runs.schedules import Schedule, list_schedules

# The daily imports should have repaired a difference by then.
_REPAIR_TIME = timedelta(hours=36)


@dataclass(frozen=True)
class Problem:
    """Something that rules can apply to.

    `key` identifies it as long as it lasts. `cause` is the reason without what is particular to one
    collection: problems with the same cause are reported in one message. `since` is in UTC.
    """

    key: str
    kind: EventKind
    subject: str
    reason: str
    cause: str
    since: datetime
    collection_id: int | None = None
    workflow: str | None = None
    run_id: int | None = None


@dataclass(frozen=True)
class DiskSpace:
    """Free space of a disk of this machine, in percent."""

    key: str
    subject: str
    free_percent: float


@dataclass(frozen=True)
class MachineState:
    """State of processes and disks, as the process that applies the rules sees it.

    `processes` has the problems of workers, scheduler and broker by key, None where there is no problem. What
    it cannot tell is left out.
    """

    processes: Mapping[str, Problem | None]
    disks: tuple[DiskSpace, ...]


@dataclass(frozen=True)
class CollectionStates:
    """The collections in use, and what rules compare with their thresholds.

    `successes` has, by collection id and workflow, when the last successful run ended, or else when the
    collection was added. `differing_purchases` has the numbers of those that no daily import has repaired.
    """

    names: Mapping[int, str]
    successes: Mapping[tuple[int, str], datetime]
    rejected_records: Mapping[int, int]
    differing_purchases: Mapping[int, int]
    paused: frozenset[tuple[int, str]]


def read_collection_states(session: Session, now: datetime) -> CollectionStates:
    """Read the collections, and what rules compare with their thresholds."""
    in_use = select(Collection).where(Collection.marked_for_deletion_at.is_(None))
    collections = session.scalars(in_use.order_by(Collection.id)).all()
    successes = last_successes(session)
    rejected = select(RejectedRecord.collection_id, func.count()).where(RejectedRecord.resolved_at.is_(None))
    return CollectionStates(
        names={collection.id: collection.name for collection in collections},
        successes={
            key: successes.get(key, collection.created_at)
            for collection in collections
            for workflow in SCHEDULED_WORKFLOWS
            for key in [(collection.id, workflow.value)]
        },
        rejected_records=dict(session.execute(rejected.group_by(RejectedRecord.collection_id)).all()),
        differing_purchases=count_unrepaired_purchases(session, found_before=now - _REPAIR_TIME),
        paused=frozenset(list_pauses(session)),
    )


def find_overdue(session: Session, states: CollectionStates, hours: int, now: datetime) -> list[Problem]:
    """Return the workflows without a success for some hours, of which a run should have succeeded since."""
    problems = list(_without_success(states, timedelta(hours=hours), now))
    # Reading all schedules takes a tenth of a second, and as a rule there is no such workflow.
    starts: dict[tuple[int | None, str | None], Schedule] = {
        (schedule.collection_id, schedule.workflow.value): schedule
        for schedule in (list_schedules(session) if problems else ())
    }
    return [
        problem
        for problem in problems
        if next(starts[problem.collection_id, problem.workflow].starts_after(problem.since))
        < now - MAX_LATENESS
    ]


def _without_success(states: CollectionStates, age: timedelta, now: datetime) -> Iterator[Problem]:
    for (collection_id, workflow), since in states.successes.items():
        if now - since <= age:
            continue
        name = states.names[collection_id]
        yield Problem(
            key=f"no_success:{collection_id}:{workflow}",
            kind=EventKind.NO_SUCCESS,
            subject=f"{name}, {workflow}",
            reason=f"No run has succeeded since {since:%Y-%m-%d %H:%M} UTC.",
            cause="",
            since=since,
            collection_id=collection_id,
            workflow=workflow,
        )


def find_rejections(states: CollectionStates, threshold: int, now: datetime) -> Iterator[Problem]:
    """Yield the collections with more open rejected records than the threshold."""
    above = {key: number for key, number in states.rejected_records.items() if number > threshold}
    reason = f"{{:,}} records that could not be imported are open, more than {threshold:,}."
    return _find_numbers(states, EventKind.REJECTED_RECORDS, above, reason, now)


def find_differences(states: CollectionStates, now: datetime) -> Iterator[Problem]:
    """Yield the collections with purchases that no daily import has made equal to the vendor's."""
    hours = _REPAIR_TIME // timedelta(hours=1)
    reason = f"Purchases that have differed from the vendor's for {hours} hours: {{:,}}."
    return _find_numbers(states, EventKind.PURCHASES_DIFFER, states.differing_purchases, reason, now)


def _find_numbers(
    states: CollectionStates, kind: EventKind, numbers: Mapping[int, int], reason: str, now: datetime
) -> Iterator[Problem]:
    """Yield a problem for each collection in use that has a number; it stands in the reason."""
    for collection_id, number in numbers.items():
        if collection_id in states.names:
            yield Problem(
                key=f"{kind}:{collection_id}",
                kind=kind,
                subject=states.names[collection_id],
                reason=reason.format(number),
                cause="",
                since=now,
                collection_id=collection_id,
            )


def find_full_disks(machine: MachineState, min_free_percent: int, now: datetime) -> Iterator[Problem]:
    """Yield the disks of this machine with less free space than the minimum."""
    for disk in machine.disks:
        if disk.free_percent < min_free_percent:
            reason = f"{disk.free_percent:.0f} % are free, less than {min_free_percent} %."
            yield Problem(disk.key, EventKind.DISK_NEARLY_FULL, disk.subject, reason, reason, now)
