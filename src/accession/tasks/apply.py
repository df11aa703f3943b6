"""Applying what the imports have found: messages name outbox rows, never what is in them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import structlog
from celery import Task
from sqlalchemy.exc import OperationalError

from accession.catalog.apply import apply_outbox
from accession.catalog.outbox import claim_stale_rows, find_identifier_ids, list_outbox_ids, split_by_metadata
from accession.core.clock import utc_now
from accession.db.engine import transaction
from accession.tasks.app import LOST_CHILD_WAIT_SECONDS, MAX_RETRIES, app
from accession.tasks.lock import TITLE_LOCK_SECONDS, LockResult, acquire_or_extend_each, release_each
from accession.tasks.metrics import count_applied
from accession.tasks.outages import retry_while_unavailable

log = structlog.get_logger(__name__)

TITLES_PER_MESSAGE = 50
STALE_AFTER = timedelta(minutes=10)
_LOCKED_WAIT_SECONDS = 2
# What log lines say of the run.
_ABOUT = ("workflow", "collection", "run", "page")


def publish_applies(outbox_ids: Sequence[int]) -> None:
    """Queue the apply of committed outbox rows, a page of titles a message."""
    if not outbox_ids:
        return
    with transaction() as session:
        described, counted = split_by_metadata(session, outbox_ids)
    for task, row_ids in ((bibliographic_apply, described), (circulation_apply, counted)):
        for start in range(0, len(row_ids), TITLES_PER_MESSAGE):
            _send(task, row_ids[start : start + TITLES_PER_MESSAGE])


def _send(task: Task, outbox_ids: Sequence[int], **options: Any) -> None:
    """Queue an apply whose log lines say what those of its sender say they are about."""
    known = structlog.contextvars.get_contextvars()
    about = {name: known[name] for name in _ABOUT if name in known}
    task.apply_async((list(outbox_ids),), headers={"about": about}, **options)


def _what_it_is_about(task: Task) -> AbstractContextManager[None]:
    # A message of an earlier release has no such header.
    return structlog.contextvars.bound_contextvars(**(task.request.get("about") or {}))


def publish_applies_of(collection_id: int) -> None:
    """Queue the apply of all that one collection's outbox holds; what is under way as well is done once."""
    with transaction() as session:
        outbox_ids = list_outbox_ids(session, collection_id)
    publish_applies(outbox_ids)


_APPLY: Mapping[str, Any] = {
    "bind": True,
    "ignore_result": True,
    "max_retries": MAX_RETRIES,
    "default_retry_delay": LOST_CHILD_WAIT_SECONDS,
}


@app.task(**_APPLY)  # type: ignore[untyped-decorator]
def bibliographic_apply(self: Task, outbox_ids: list[int]) -> None:
    """Apply the outbox rows and delete them, in one transaction; rows that are gone are done.

    While the database or the broker is away it waits. Each title is locked first. Titles that another
    task has locked are tried again in a moment. When one title spoils the transaction for all, each is
    queued by itself, and only that one fails again.
    """
    with _what_it_is_about(self):
        retry_while_unavailable(lambda _: _apply_under_locks(self, outbox_ids))


def _apply_under_locks(task: Task, outbox_ids: Sequence[int]) -> None:
    locks, holder = _title_locks(outbox_ids), task.request.id
    # This task's own lock may be left from a worker that died: the message came back with the same id.
    held = acquire_or_extend_each(sorted(set(locks.values())), holder, TITLE_LOCK_SECONDS)
    mine = [name for name, how in held.items() if how is not LockResult.HELD_BY_OTHER]
    locked = [row_id for row_id, name in locks.items() if name not in mine]
    try:
        _apply(task, [row_id for row_id, name in locks.items() if name in mine], left=locked)
    finally:
        release_each(mine, holder)
    if locked:
        # A new message, so that waiting for one's turn uses up no retries.
        _send(task, locked, countdown=_LOCKED_WAIT_SECONDS)


@app.task(**_APPLY)  # type: ignore[untyped-decorator]
def circulation_apply(self: Task, outbox_ids: list[int]) -> None:
    """Apply outbox rows that hold counts alone and delete them, in one transaction.

    They touch no more than their pools, whose rows are lock enough. When one spoils the transaction for
    all, each is queued by itself. A row that has got a description meanwhile is left alone.
    """
    with _what_it_is_about(self):
        retry_while_unavailable(lambda _: _apply(self, outbox_ids, counts_only=True))


def _apply(
    task: Task, outbox_ids: Sequence[int], *, left: Sequence[int] = (), counts_only: bool = False
) -> None:
    """Apply the rows, or queue each, and those that are `left` for later, by itself."""
    try:
        with transaction() as session:
            applied = apply_outbox(session, outbox_ids, counts_only=counts_only)
    except OperationalError:
        raise
    except Exception:
        alone = sorted((*outbox_ids, *left))
        if len(alone) > 1:
            log.warning("an apply failed; its titles are tried one by one", titles=len(alone))
            for row_id in alone:
                _send(task, [row_id])
        raise
    count_applied(metadata=applied.editions, counts=applied.pools)
    log.info("titles applied", editions=applied.editions, pools=applied.pools)


def _title_locks(outbox_ids: Sequence[int]) -> dict[int, str]:
    """Outbox row to the name of the lock of its title, which all collections that own the title share."""
    with transaction() as session:
        identifier_ids = find_identifier_ids(session, outbox_ids)
    return {row_id: f"BibliographicApply:{identifier_id}" for row_id, identifier_id in identifier_ids.items()}


@app.task(ignore_result=True)  # type: ignore[untyped-decorator]
def publish_stale_applies(*, every_row: bool = False) -> int:
    """Publish outbox rows again whose message must have been lost; returns how many.

    A row counts as left behind ten minutes after it was last published, or at once with `every_row`,
    which is for a start at which no message can be under way.
    """
    with transaction() as session:
        outbox_ids = claim_stale_rows(session, None if every_row else utc_now() - STALE_AFTER)
    if outbox_ids:
        log.warning("publishing left-behind applies again", titles=len(outbox_ids))
    publish_applies(outbox_ids)
    return len(outbox_ids)
