"""Pauses of workflows: while one is in force, no run of the workflow starts for its collection."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.errors import InvalidInput, UserError
from accession.core.sanitize import sanitize
from accession.core.text import clean_text
from accession.core.workflow import Workflow
from accession.db.models import Collection, WorkflowPause

MAX_REASON_LENGTH = 200


@dataclass(frozen=True)
class PauseView:
    """A pause that is in force; `until` is its end (UTC), None if it lasts until a person resumes."""

    reason: str
    since: datetime
    until: datetime | None


@dataclass(frozen=True)
class EndedPause:
    """A pause that is over; `has_stopped_run`: it had cancelled a run, which is to be started again."""

    collection_id: int
    workflow: Workflow
    has_stopped_run: bool


def _is_in_force() -> ColumnElement[bool]:
    return or_(WorkflowPause.until.is_(None), WorkflowPause.until > utc_now())


def list_pauses(session: Session) -> dict[tuple[int, str], PauseView]:
    """Return the pauses that are in force, by collection id and workflow."""
    return {
        (pause.collection_id, pause.workflow): PauseView(pause.reason, pause.paused_at, pause.until)
        for pause in session.scalars(select(WorkflowPause).where(_is_in_force()))
    }


def paused_collection_ids(session: Session, workflow: Workflow) -> set[int]:
    """Return the ids of the collections for which the workflow is paused."""
    query = select(WorkflowPause.collection_id).where(WorkflowPause.workflow == workflow.value)
    return set(session.scalars(query.where(_is_in_force())))


def is_paused(session: Session, collection_id: int, workflow: Workflow) -> bool:
    """Return whether the workflow is paused for the collection."""
    query = select(WorkflowPause.workflow).filter_by(collection_id=collection_id, workflow=workflow.value)
    return session.scalar(query.where(_is_in_force())) is not None


def check_not_paused(session: Session, collection_ids: Sequence[int], workflow: Workflow) -> None:
    """Check that the workflow is not paused for all of these collections.

    Raises:
        UserError: it is.
    """
    query = select(WorkflowPause).where(WorkflowPause.workflow == workflow.value, _is_in_force())
    pauses = session.scalars(query.where(WorkflowPause.collection_id.in_(collection_ids))).all()
    if not pauses or len(pauses) < len(collection_ids):
        return
    names = session.scalars(select(Collection.name).where(Collection.id.in_(collection_ids))).all()
    raise UserError(
        f"The workflow {workflow} is paused for {_join_names(names)} ({pauses[0].reason}): "
        "resume it with `accession collections resume`."
    )


def _join_names(names: Sequence[str]) -> str:
    return f'"{names[0]}"' if len(names) == 1 else f"all {len(names)} collections"


def check_pause(reason: str, until: datetime | None) -> str:
    """Return the reason on one line, without control characters.

    Raises:
        InvalidInput: the reason is empty or too long, or the end is not in the future.
    """
    text = clean_text(sanitize(reason))
    if not text or len(text) > MAX_REASON_LENGTH:
        raise InvalidInput(
            f"A pause needs a reason of at most {MAX_REASON_LENGTH} characters: enter one, "
            "such as maintenance of the vendor."
        )
    if until is not None and until <= utc_now():
        raise InvalidInput(
            f"The end of the pause, {until:%Y-%m-%d %H:%M} UTC, is over: enter a later time, or none."
        )
    return text


def store_pauses(
    session: Session,
    keys: Iterable[tuple[int, Workflow]],
    *,
    reason: str,
    until: datetime | None,
    stopped: set[tuple[int, Workflow]],
) -> None:
    """Pause workflows, given by collection id and workflow; a pause that is in force is changed.

    `stopped` are those of which a run was cancelled.
    """
    now = utc_now()
    rows = [
        {
            "collection_id": collection_id,
            "workflow": workflow.value,
            "reason": reason,
            "paused_at": now,
            "until": until,
            "has_stopped_run": (collection_id, workflow) in stopped,
        }
        for collection_id, workflow in sorted(keys)
    ]
    if not rows:
        return
    statement = insert(WorkflowPause).values(rows)
    changes = {
        "reason": statement.excluded.reason,
        "paused_at": statement.excluded.paused_at,
        "until": statement.excluded.until,
        "has_stopped_run": or_(WorkflowPause.has_stopped_run, statement.excluded.has_stopped_run),
    }
    session.execute(
        statement.on_conflict_do_update(index_elements=["collection_id", "workflow"], set_=changes)
    )


def record_stopped_run(session: Session, collection_id: int, workflow: Workflow) -> None:
    """Record that a run was cancelled for the pause, so that another one starts when it is over."""
    pause = session.get(WorkflowPause, (collection_id, workflow.value), with_for_update=True)
    if pause is not None:
        pause.has_stopped_run = True


def delete_pauses(
    session: Session, collection_ids: Iterable[int], workflows: Iterable[Workflow]
) -> list[EndedPause]:
    """End the pauses of these collections and workflows, and return them."""
    is_selected = WorkflowPause.collection_id.in_(collection_ids) & WorkflowPause.workflow.in_(workflows)
    return _delete(session, is_selected)


def delete_expired_pauses(session: Session) -> list[EndedPause]:
    """Delete the pauses whose end has come, and return them."""
    return _delete(session, ~_is_in_force())


def _delete(session: Session, where: ColumnElement[bool]) -> list[EndedPause]:
    row = WorkflowPause
    statement = delete(row).where(where).returning(row.collection_id, row.workflow, row.has_stopped_run)
    return sorted(
        (
            EndedPause(collection_id, Workflow(workflow), has_stopped_run)
            for collection_id, workflow, has_stopped_run in session.execute(statement)
        ),
        key=lambda pause: (pause.collection_id, pause.workflow),
    )
