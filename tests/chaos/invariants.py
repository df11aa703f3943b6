"""Invariants that hold during and after an import, whatever fails."""

import time

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import (
    CirculationEvent,
    Collection,
    Identifier,
    LicensePool,
    PurchaseRecord,
    RejectedRecord,
    Run,
    RunState,
)
from accession.runs.ledger import get_or_create_checkpoint
from accession.tasks.broker import redis_client
from tests.chaos.baseline import first_purchase
from tests.fixtures.running_sandbox import RunningSandbox

_POLL_SECONDS = 0.02


class InvariantViolation(AssertionError):
    """An invariant of the import did not hold."""


def check_checkpoints(session: Session, collection: Collection, sandbox: RunningSandbox) -> None:
    """Check that every record before a checkpoint is stored or rejected.

    Raises:
        InvariantViolation: a record is missing, or a checkpoint is in the future.
    """
    purchases_finish = get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish
    events_finish = get_or_create_checkpoint(session, collection, Workflow.EVENTS).finish
    assert purchases_finish is not None
    assert events_finish is not None
    if max(purchases_finish, events_finish) > utc_now():
        raise InvariantViolation(f"a checkpoint is in the future: {purchases_finish}, {events_finish}")
    due = [p for p in sandbox.catalogue.purchases if p.purchased_at < purchases_finish]
    stored = select(Identifier.identifier).join(LicensePool.identifier)
    stored = stored.join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
    missing = {p.item_id for p in due if p.flaw is None} - set(session.scalars(stored))
    rejected = session.scalar(select(func.count(RejectedRecord.id))) or 0
    if missing or rejected < sum(p.flaw is not None for p in due):
        raise InvariantViolation(
            f"the checkpoint of purchases, {purchases_finish}, is beyond missing records: {sorted(missing)}"
        )
    events = sandbox.sandbox.activity.between(first_purchase(sandbox), events_finish)
    lost = {event.event_id for event in events} - set(session.scalars(select(CirculationEvent.event_id)))
    if lost:
        raise InvariantViolation(
            f"the checkpoint of events, {events_finish}, is beyond missing events: {sorted(lost)}"
        )


def check_purchases(session: Session, sandbox: RunningSandbox) -> None:
    """Check that the stored purchases are the usable ones of the vendor's list, each once, with their days.

    Purchases that the vendor has withdrawn may be stored.

    Raises:
        InvariantViolation: a purchase is missing, repeated or stored under another day.
    """
    query = select(Identifier.identifier, PurchaseRecord.purchased_on)
    query = query.join(LicensePool.identifier).join(
        PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id
    )
    stored = sorted((item_id, purchased_on.isoformat()) for item_id, purchased_on in session.execute(query))
    listed, withdrawn = (
        {
            (title["id"], title["purchased_at"][:10])
            for title in sandbox.sandbox.titles()
            if title["usable"] and title["has_record"] is has_record
        }
        for has_record in (True, False)
    )
    missing, excess = listed - {*stored}, {*stored} - listed - withdrawn
    if missing or excess or len(stored) > len({*stored}):
        raise InvariantViolation(f"purchases are missing: {sorted(missing)}, or in excess: {sorted(excess)}")


def check_runs(session: Session, sandbox: RunningSandbox) -> None:
    """Check that all runs succeeded, and that together they fetched every purchase record exactly once.

    Raises:
        InvariantViolation: a run did not succeed, or the counters differ from the vendor's catalogue.
    """
    runs = session.scalars(select(Run)).all()
    for workflow in SCHEDULED_WORKFLOWS:
        ended = [run for run in runs if run.workflow == workflow]
        if {run.state for run in ended} != {RunState.SUCCEEDED} or any(run.error for run in ended):
            states = [(run.workflow, run.state, run.error) for run in ended]
            raise InvariantViolation(f"not all runs succeeded: {states}")
    purchases = [run for run in runs if run.workflow == Workflow.PURCHASES]
    counted = sum(run.records_fetched for run in purchases), sum(run.records_rejected for run in purchases)
    expected = len(sandbox.catalogue), sandbox.catalogue.unusable
    if counted != expected:
        raise InvariantViolation(f"purchase records fetched and rejected: {counted}, expected {expected}")


def check_locks(redis_url: str, *, deadline_seconds: float) -> None:
    """Check that no workflow lock is left, waiting for the redelivered message that releases it.

    Raises:
        InvariantViolation: a lock was still there at the deadline.
    """
    deadline = time.monotonic() + deadline_seconds
    with redis_client(redis_url) as broker:
        while locks := sorted(name.decode() for name in broker.scan_iter("*Workflow:*")):
            if time.monotonic() > deadline:
                raise InvariantViolation(f"workflow locks are left: {locks}")
            time.sleep(_POLL_SECONDS)
