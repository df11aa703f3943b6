"""Events of runs for webhooks."""

from functools import cache

from pydantic_core import to_jsonable_python
from sqlalchemy import Integer, Text, bindparam, literal, null, select
from sqlalchemy.dialects.postgresql import JSONB, Insert
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.db.models import Run, WebhookEvent
from accession.db.webhook_outbox import has_webhooks, store_events_statement

_FIELDS = (
    *("id", "workflow", "state", "error", "started_at", "finished_at"),
    *("records_fetched", "records_stored", "records_rejected", "titles_new", "titles_changed"),
)


def store_run_event(session: Session, run: Run) -> None:
    """Store that a run has ended, for the webhooks that subscribe to it."""
    if not has_webhooks(session):
        return
    values = to_jsonable_python({name: getattr(run, name) for name in _FIELDS})
    parameters = {"collection": run.collection_id, "run": {"run": values}, "stored_at": utc_now()}
    session.execute(_store_statement(), parameters)


@cache
def _store_statement() -> Insert:
    event = select(
        bindparam("collection", type_=Integer()).label("collection_id"),
        null().cast(Integer).label("license_pool_id"),
        literal(WebhookEvent.RUN_FINISHED.value, Text()).label("event"),
        bindparam("run", type_=JSONB()).label("data"),
    )
    return store_events_statement(event.subquery("events"))
