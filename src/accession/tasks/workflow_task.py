"""The Celery task class of the workflows, and starting runs of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import structlog
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task
from celery.exceptions import Ignore

from accession import __version__
from accession.accounts.collections import collection_ids_in_use
from accession.bibliotheca.errors import RemoteIntegrationException, TransientVendorError
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.runs.ledger import queue_runs
from accession.runs.pauses import check_not_paused, paused_collection_ids
from accession.runs.run_summary import backoff_seconds
from accession.tasks.app import LOST_CHILD_WAIT_SECONDS, MAX_RETRIES, MAX_RETRY_AFTER_SECONDS, app
from accession.tasks.lock import TaskLock, workflow_lock
from accession.tasks.outages import retry_while_unavailable

log = structlog.get_logger(__name__)

_VERSION_HEADER = "accession_version"
# During an upgrade a worker puts back what it cannot process; a newer one may receive it the next time.
_PUT_BACK_SECONDS = 5

RETRIED_ERRORS = (TransientVendorError, SoftTimeLimitExceeded)

# An operator has to fix the cause; Celery logs these without a traceback.
EXPECTED_ERRORS = (RemoteIntegrationException, UserError)

FAN_OUT_OPTIONS: Mapping[str, Any] = {
    "ignore_result": True,
    "max_retries": MAX_RETRIES,
    "default_retry_delay": LOST_CHILD_WAIT_SECONDS,
}
"""Options of a scheduled task that starts a run for every collection."""


class WorkflowTask(Task):  # type: ignore[misc]
    """A task that processes one step of a workflow's run.

    All steps of a run, and their retries, have the same task id. The vendor's transient errors and the soft
    time limit are retried; every other error ends the run.
    """

    abstract = True
    workflow: Workflow
    lock_key: str
    autoretry_for = RETRIED_ERRORS
    max_retries = MAX_RETRIES
    default_retry_delay = LOST_CHILD_WAIT_SECONDS
    throws = EXPECTED_ERRORS

    def lock_for(self, collection_id: int, task_id: str) -> TaskLock:
        """Return the lock that allows one run of this workflow per collection."""
        return workflow_lock(self.lock_key, collection_id, task_id)

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Put a message of a newer version back, whose arguments this version may not know."""
        version = (self.request.headers or {}).get(_VERSION_HEADER, __version__)
        if _minor_version(version) > _minor_version(__version__):
            log.warning("message put back for a newer worker", run=task_id, version=version)
            # Not by `apply_async`, which refuses unknown arguments.
            app.send_task(
                self.name,
                args,
                kwargs,
                task_id=task_id,
                headers={_VERSION_HEADER: version},
                retries=self.request.retries,
                countdown=_PUT_BACK_SECONDS,
            )
            raise Ignore

    def retry(self, *args: Any, exc: BaseException | None = None, **options: Any) -> Any:
        """Retry after an exponential back-off, or after the vendor's `Retry-After` if that is longer."""
        backoff = backoff_seconds(self.request.retries)
        retry_after = min(getattr(exc, "retry_after", None) or 0, MAX_RETRY_AFTER_SECONDS)
        # Celery drops a task whose retry cannot be published.
        retry_while_unavailable(lambda _: app.backend.client.ping())
        return super().retry(*args, exc=exc, countdown=max(backoff, retry_after), **options)


def start_for_all_collections(task: WorkflowTask, **arguments: Any) -> None:
    """Start a run for every collection that is not marked for deletion."""

    def start(_: bool) -> None:
        with transaction() as session:
            collection_ids = collection_ids_in_use(session)
        start_runs(task, collection_ids, **arguments)

    retry_while_unavailable(start)


def start_runs(task: WorkflowTask, collection_ids: Iterable[int], **arguments: Any) -> dict[int, str]:
    """Queue a run for each collection; return the task id of each run by collection id.

    Collections for which the workflow is paused are left out. The runs are committed to the ledger before
    their messages are published, so a message that the broker loses can be published again.
    """
    with transaction() as session:
        paused = paused_collection_ids(session, task.workflow)
        task_ids = {each: str(uuid4()) for each in collection_ids if each not in paused}
        queue_runs(session, task.workflow, task_ids, arguments)
    for collection_id, task_id in task_ids.items():
        enqueue_step(task, collection_id, task_id, arguments)
    return task_ids


def start_requested_runs(
    task: WorkflowTask, collection_ids: Iterable[int], **arguments: Any
) -> dict[int, str]:
    """Queue runs that a person has requested, as `start_runs` does.

    Raises:
        UserError: the workflow is paused for all of the collections.
    """
    requested = list(collection_ids)
    with transaction() as session:
        check_not_paused(session, requested, task.workflow)
    return start_runs(task, requested, **arguments)


def enqueue_step(
    task: WorkflowTask,
    collection_id: int,
    task_id: str,
    arguments: Mapping[str, Any],
    *,
    retries: int = 0,
) -> None:
    """Publish the message of a run's next step, which has been retried so often."""
    # Celery would format the arguments for its log, which costs more than sending them.
    reprs = {"argsrepr": f"({collection_id},)", "kwargsrepr": "{...}"}
    headers = {_VERSION_HEADER: __version__}
    task.apply_async(
        (collection_id,), dict(arguments), task_id=task_id, headers=headers, retries=retries, **reprs
    )


def _minor_version(version: str) -> tuple[int, ...]:
    """Return (0, 1) for "0.1.2": all versions with these numbers have the same messages."""
    return tuple(int(number) for number in version.split(".")[:2])
