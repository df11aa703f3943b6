"""Tasks that apply outbox rows to editions and license pools.

Messages contain only the ids of outbox rows, and no bibliographic data.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import structlog
from celery import Task
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_outbox
from accession.catalog.outbox import (
    claim_lost_rows,
    claim_stale_rows,
    find_identifier_ids,
    list_outbox_ids,
    split_by_metadata,
)
from accession.core.clock import utc_now
from accession.db.engine import late_transaction, transaction
from accession.tasks.app import LOST_CHILD_WAIT_SECONDS, MAX_RETRIES, app
from accession.tasks.deliveries import find_pending_work
from accession.tasks.lock import TITLE_LOCK_SECONDS, LockResult, acquire_or_extend_each, release_each
from accession.tasks.metrics import count_applied
from accession.tasks.outages import retry_while_unavailable

log = structlog.get_logger(__name__)

TITLES_PER_MESSAGE = 50
STALE_AFTER = timedelta(minutes=10)
_LOCKED_WAIT_SECONDS = 2
_LOG_CONTEXT = ("workflow", "collection", "run", "page")
_LOG_CONTEXT_HEADER = "log_context"


def publish_applies(outbox_ids: Sequence[int]) -> None:
    """Publish the apply of committed outbox rows."""
    if outbox_ids:
        with transaction() as session:
            with_metadata, counts_only = split_by_metadata(session, outbox_ids)
        publish_split_applies(with_metadata, counts_only)


def publish_split_applies(with_metadata: Sequence[int], counts_only: Sequence[int]) -> None:
    """Publish the apply of committed outbox rows of either kind, at most 50 titles per message."""
    for task, row_ids in ((bibliographic_apply, with_metadata), (circulation_apply, counts_only)):
        for start in range(0, len(row_ids), TITLES_PER_MESSAGE):
            _publish(task, row_ids[start : start + TITLES_PER_MESSAGE])


def _publish(task: Task, outbox_ids: Sequence[int], **options: Any) -> None:
    """Publish an apply with the sender's log context, so that its log lines name the same run and page."""
    context = structlog.contextvars.get_contextvars()
    context = {name: context[name] for name in _LOG_CONTEXT if name in context}
    task.apply_async((list(outbox_ids),), headers={_LOG_CONTEXT_HEADER: context}, **options)


def _bound_log_context(task: Task) -> AbstractContextManager[None]:
    return structlog.contextvars.bound_contextvars(**(task.request.get(_LOG_CONTEXT_HEADER) or {}))


def publish_applies_of(collection_id: int) -> None:
    """Publish the apply of all outbox rows of a collection; a row that is published twice is applied once."""
    with transaction() as session:
        outbox_ids = list_outbox_ids(session, collection_id)
    publish_applies(outbox_ids)


_TASK_OPTIONS: Mapping[str, Any] = {
    "bind": True,
    "ignore_result": True,
    "max_retries": MAX_RETRIES,
    "default_retry_delay": LOST_CHILD_WAIT_SECONDS,
}


@app.task(**_TASK_OPTIONS)  # type: ignore[untyped-decorator]
def bibliographic_apply(self: Task, outbox_ids: list[int]) -> None:
    """Apply outbox rows that contain metadata, and delete them, in one transaction.

    Waits while the database or the broker is unavailable. Each title is locked first; titles that another
    task has locked are published again with a delay. If the transaction fails, each row is published
    separately, so that only the invalid one fails again.
    """
    with _bound_log_context(self):
        retry_while_unavailable(lambda _: _apply_under_locks(self, outbox_ids))


def _apply_under_locks(task: Task, outbox_ids: Sequence[int]) -> None:
    with late_transaction() as session:
        locks, holder = _title_locks(session, outbox_ids), task.request.id
        # A worker that died may have left the locks: its message is delivered again with the same id.
        results = acquire_or_extend_each(sorted(set(locks.values())), holder, TITLE_LOCK_SECONDS)
        acquired = [name for name, result in results.items() if result is not LockResult.HELD_BY_OTHER]
        locked_by_others = [row_id for row_id, name in locks.items() if name not in acquired]
        row_ids = [row_id for row_id, name in locks.items() if name in acquired]
        try:
            session.begin_writing()
            _apply(task, session, row_ids, skipped=locked_by_others)
        finally:
            release_each(acquired, holder)
    if locked_by_others:
        # A new message, because waiting for a lock must not use up retries.
        _publish(task, locked_by_others, countdown=_LOCKED_WAIT_SECONDS)


@app.task(**_TASK_OPTIONS)  # type: ignore[untyped-decorator]
def circulation_apply(self: Task, outbox_ids: list[int]) -> None:
    """Apply outbox rows that contain only counts of copies, and delete them, in one transaction.

    The row locks of the pools suffice, since editions are not written. If the transaction fails, each row
    is published separately. Rows that have received metadata meanwhile are left to `bibliographic_apply`.
    """
    with _bound_log_context(self):
        retry_while_unavailable(lambda _: _apply_counts(self, outbox_ids))


def _apply_counts(task: Task, outbox_ids: Sequence[int]) -> None:
    with transaction() as session:
        _apply(task, session, outbox_ids, counts_only=True)


def _apply(
    task: Task,
    session: Session,
    outbox_ids: Sequence[int],
    *,
    skipped: Sequence[int] = (),
    counts_only: bool = False,
) -> None:
    """Apply the rows and commit; if that fails, publish each row separately, including the `skipped` ones."""
    try:
        applied = apply_outbox(session, outbox_ids, counts_only=counts_only)
        session.commit()
    except OperationalError:
        raise
    except Exception:
        session.rollback()
        row_ids = sorted((*outbox_ids, *skipped))
        if len(row_ids) > 1:
            log.warning("apply failed, retrying each title separately", titles=len(row_ids))
            for row_id in row_ids:
                _publish(task, [row_id])
        raise
    count_applied(metadata=applied.editions, counts=applied.pools)
    log.info("titles applied", editions=applied.editions, pools=applied.pools)


def _title_locks(session: Session, outbox_ids: Sequence[int]) -> dict[int, str]:
    """Return the name of the title's lock for each outbox row; collections with the title share it."""
    identifier_ids = find_identifier_ids(session, outbox_ids)
    return {row_id: f"BibliographicApply:{identifier_id}" for row_id, identifier_id in identifier_ids.items()}


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def publish_stale_applies() -> int:
    """Publish stale outbox rows again, whose message must have been lost; return their number.

    A row is stale ten minutes after it was last published.
    """
    with transaction() as session:
        outbox_ids = claim_stale_rows(session, utc_now() - STALE_AFTER)
    return _publish_again(outbox_ids)


def publish_lost_applies() -> int:
    """Publish the outbox rows for which the broker has no message; return their number."""
    with transaction() as session:
        outbox_ids = claim_lost_rows(session, find_pending_work().outbox_ids)
    return _publish_again(outbox_ids)


def _publish_again(outbox_ids: Sequence[int]) -> int:
    if outbox_ids:
        log.warning("publishing applies again", titles=len(outbox_ids))
    publish_applies(outbox_ids)
    return len(outbox_ids)
