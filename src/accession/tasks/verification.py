"""Celery task of a verification of past months; one step requests a page."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import structlog
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from sqlalchemy.orm import Session

from accession.bibliotheca.client import BibliothecaAPI
from accession.core.clock import truncate_to_second, utc_now
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run
from accession.imports.verification import PurchaseVerifier, VerificationCursor, begin_verification
from accession.imports.verification_summary import check_months
from accession.imports.windows import ImportCursor, midnight
from accession.runs.ledger import RunCounters
from accession.tasks.app import app
from accession.tasks.step_recorder import StepSpan
from accession.tasks.steps import RunOutcome, StepResult, run_step
from accession.tasks.workflow_task import WorkflowTask, start_requested_runs

log = structlog.get_logger(__name__)

_cursors = TypeAdapter(VerificationCursor)


def start_verification(
    collection_ids: Iterable[int],
    *,
    first_month: date | None = None,
    last_month: date | None = None,
    with_days: bool = False,
    repairs: bool = False,
) -> dict[int, str]:
    """Queue a verification for each collection; return the task id of each run by collection id.

    It verifies the months from the first to the last, or all. `with_days` compares each day with purchases
    too, `repairs` imports what is missing.

    Raises:
        InvalidInput: the last month is before the first.
        UserError: verifications are paused for the collections.
    """
    check_months(first_month, last_month)
    return start_requested_runs(
        verify_purchases_by_collection,
        collection_ids,
        first_month=None if first_month is None else first_month.isoformat(),
        last_month=None if last_month is None else last_month.isoformat(),
        with_days=with_days,
        repairs=repairs,
    )


@app.task(  # type: ignore[untyped-decorator]
    bind=True, base=WorkflowTask, workflow=Workflow.VERIFICATION, lock_key="PurchaseVerificationWorkflow"
)
def verify_purchases_by_collection(
    self: WorkflowTask,
    collection_id: int,
    *,
    first_month: str | None = None,
    last_month: str | None = None,
    with_days: bool = False,
    repairs: bool = False,
    months: Sequence[str] | None = None,
    **position: Any,
) -> RunOutcome | None:
    """Request one page, then enqueue the next until all months are verified.

    The first step has the arguments of `start_verification`; `months` and the other arguments are the fields
    of `accession.imports.verification.VerificationCursor`.
    """
    scope = {"first_month": first_month, "last_month": last_month}
    fields = {"with_days": with_days, "repairs": repairs, **position}
    if months is not None:
        fields["months"] = list(months)

    def step(session: Session, collection: Collection, run: Run, api: BibliothecaAPI) -> StepResult:
        if months is None:
            limits = {name: date.fromisoformat(text) for name, text in scope.items() if text is not None}
            cursor = begin_verification(session, collection, with_days=with_days, repairs=repairs, **limits)
        else:
            cursor = read_cursor(fields)
        if cursor.is_complete:
            log.info("no purchases to verify")
            return StepResult(RunCounters(pages=0))
        page = PurchaseVerifier(session, collection, api, run).verify_page(
            cursor, truncate_to_second(utc_now())
        )
        next_arguments = None if page.next_cursor.is_complete else {**scope, **write_cursor(page.next_cursor)}
        return StepResult(page.counters, None, next_arguments, page.outbox_ids, span_of(cursor))

    return run_step(self, collection_id, {**scope, **fields}, step)


def span_of(cursor: VerificationCursor) -> StepSpan:
    """Return the days of the page that is requested at this cursor."""
    if cursor.start is None or cursor.end is None:
        return StepSpan(midnight(cursor.months[0]))
    return StepSpan(midnight(cursor.start), midnight(cursor.end))


def read_cursor(fields: Mapping[str, Any]) -> VerificationCursor:
    """Return the cursor of a verification that `write_cursor` has written."""
    return _cursors.validate_python(fields)


def write_cursor(cursor: VerificationCursor | ImportCursor) -> dict[str, Any]:
    """Return the cursor's fields as they are sent in messages."""
    fields: dict[str, Any] = to_jsonable_python(cursor)
    return fields
