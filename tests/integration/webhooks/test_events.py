"""Which changes of titles and runs are events, and that they are stored with the change."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
import time_machine
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.circulation import record_events
from accession.catalog.on_order import update_on_order
from accession.core.vocabulary import IdentifierType
from accession.core.workflow import Workflow
from accession.db.engine import engine
from accession.db.models import (
    Collection,
    LicensePool,
    RunState,
    Webhook,
    WebhookDelivery,
    WebhookEvent,
)
from accession.runs.ledger import end_run
from accession.webhooks.registry import remove_webhook
from tests.fixtures.factories import (
    NOON,
    SOURCE,
    BackgroundThread,
    apply_titles,
    event_data,
    make_collection,
    make_pool,
    record_statements,
    store_title,
    title_data,
    wait_for_blocked,
)
from tests.fixtures.notifications import begin_run, succeed_run
from tests.fixtures.webhooks import ACTOR, make_webhook

LATER = NOON + timedelta(hours=1)


def stored(session: Session) -> Sequence[tuple[str, dict[str, object]]]:
    """Return type and data of the stored events, oldest first, and delete them."""
    deliveries = session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)).all()
    events = [(delivery.event, delivery.data) for delivery in deliveries]
    for delivery in deliveries:
        session.delete(delivery)
    session.commit()
    return events


def update(session: Session, collection: Collection, **changes: object) -> None:
    store_title(session, collection, "solaris", as_of=LATER, **changes)


def test_new_title_is_one_event(session: Session, collection: Collection) -> None:
    make_webhook(session)
    store_title(session, collection, "solaris")
    assert stored(session) == [("title.added", {})]


def test_unchanged_title_is_no_event(session: Session, collection: Collection) -> None:
    store_title(session, collection, "solaris")
    make_webhook(session)
    update(session, collection)
    assert stored(session) == []


def test_title_without_copies_is_no_event(session: Session, collection: Collection) -> None:
    make_webhook(session)
    store_title(session, collection, "solaris", licenses_owned=0, licenses_available=0)
    update(session, collection, title="Solaris", licenses_owned=0, licenses_available=0)
    assert stored(session) == []


def test_changed_metadata_and_copies_are_events(session: Session, collection: Collection) -> None:
    store_title(session, collection, "solaris")
    make_webhook(session)
    update(session, collection, title="Solaris", isbns=(), licenses_owned=5)
    assert stored(session) == [
        ("title.changed", {"changed": ["licenses_owned"]}),
        ("title.changed", {"changed": ["title", "isbns"]}),
    ]


def test_loans_and_holds_are_no_events(session: Session, collection: Collection) -> None:
    store_title(session, collection, "solaris")
    make_webhook(session)
    update(session, collection, licenses_available=2, patrons_in_hold_queue=3)
    pool = make_pool(session, collection, "solaris")
    record_events(session, collection, {"solaris": pool}, [event_data("1", "CHECKOUT", at=LATER)])
    assert stored(session) == []


def test_withdrawn_and_returned_title_is_reported(session: Session, collection: Collection) -> None:
    store_title(session, collection, "solaris")
    make_webhook(session)
    update(session, collection, licenses_owned=0, licenses_available=0)
    assert stored(session) == [("title.removed", {})]
    update(session, collection)
    assert stored(session) == [("title.added", {})]


def test_events_of_the_vendor_are_reported(session: Session, collection: Collection) -> None:
    """A purchase that is known from an event has no metadata yet: it is reported when that arrives."""
    make_webhook(session)
    pool = make_pool(session, collection, "solaris")
    record_events(session, collection, {"solaris": pool}, [event_data("1", "PURCHASE")])
    assert stored(session) == [("title.added", {})]
    store_title(session, collection, "solaris", as_of=LATER, licenses_owned=1, licenses_available=1)
    ((event, data),) = stored(session)
    assert event == "title.changed"
    assert {"title", "authors", "isbns"} <= set(data["changed"])  # type: ignore[call-overload]


def test_title_that_comes_on_sale_is_changed(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON, tick=False):
        store_title(session, collection, "solaris", on_sale="2024-05-02")
        make_webhook(session)
    with time_machine.travel(NOON + timedelta(days=1), tick=False):
        update_on_order(session)
    assert stored(session) == [("title.changed", {"changed": ["status"]})]


def test_metadata_is_reported_for_each_collection(session: Session, collection: Collection) -> None:
    others = [make_collection(session, name) for name in ("Birch Library", "Cedar Library")]
    for each in (collection, *others):
        store_title(session, each, "solaris")
    make_webhook(session, collections=("Alder Library", "Cedar Library"))
    update(session, others[0], title="Solaris")
    rows = session.execute(select(WebhookDelivery.event, WebhookDelivery.collection_id)).all()
    assert sorted(map(tuple, rows)) == [("title.changed", collection.id), ("title.changed", others[1].id)]


def test_webhook_gets_the_events_that_it_selects(session: Session, collection: Collection) -> None:
    removals = make_webhook(session, name="removals", events=(WebhookEvent.TITLE_REMOVED,))
    both = make_webhook(session, name="both", events=(WebhookEvent.TITLE_ADDED, WebhookEvent.TITLE_REMOVED))
    store_title(session, collection, "solaris")
    update(session, collection, licenses_owned=0)
    succeed_run(session, collection)
    rows = session.execute(select(WebhookDelivery.webhook_id, WebhookDelivery.event)).all()
    assert sorted(map(tuple, rows)) == [
        (removals.id, "title.removed"),
        (both.id, "title.added"),
        (both.id, "title.removed"),
    ]


def test_finished_run_is_an_event_with_its_numbers(session: Session, collection: Collection) -> None:
    make_webhook(session)
    with time_machine.travel(NOON, tick=False):
        succeed_run(session, collection, Workflow.EVENTS)
    assert stored(session) == [
        (
            "run.finished",
            {
                "run": {
                    "id": 1,
                    "workflow": "events",
                    "state": "succeeded",
                    "error": None,
                    "started_at": "2024-05-01T12:00:00Z",
                    "finished_at": "2024-05-01T12:00:00Z",
                    "records_fetched": 0,
                    "records_stored": 0,
                    "records_rejected": 0,
                    "titles_new": 0,
                    "titles_changed": 0,
                }
            },
        )
    ]


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED])
def test_run_that_ends_otherwise_is_an_event(
    session: Session, collection: Collection, state: RunState
) -> None:
    make_webhook(session)
    run = begin_run(session, collection, Workflow.PURCHASES)
    end_run(run, state, "The reason.")
    end_run(run, state, "The reason.")
    ((event, data),) = stored(session)
    assert event == "run.finished"
    assert data["run"]["state"] == state  # type: ignore[index]
    assert data["run"]["error"] == "The reason."  # type: ignore[index]


def test_rolled_back_change_leaves_no_event(session: Session, collection: Collection) -> None:
    make_webhook(session)
    pool = make_pool(session, collection, "solaris")
    apply_titles(session, {pool.id: title_data("solaris")})
    session.rollback()
    assert stored(session) == []


def test_apply_without_webhooks_takes_one_statement_more(session: Session, collection: Collection) -> None:
    pools = LicensePool.for_foreign_ids(
        session, SOURCE, IdentifierType.BIBLIOTHECA, list("abc"), collection=collection
    )
    session.commit()
    with record_statements(engine()) as statements:
        apply_titles(session, {pool.id: title_data(name) for name, (pool, _) in pools.items()})
    assert sum("webhook" in statement for statement in statements) == 1


def test_event_for_a_webhook_being_removed_is_left_out(session: Session, collection: Collection) -> None:
    """The import waits for the removal and does not fail."""
    webhook = make_webhook(session)
    pool = make_pool(session, collection, "solaris")

    def import_title() -> None:
        with Session(engine()) as other:
            apply_titles(other, {pool_id: title_data("solaris")})
            other.commit()

    pool_id = pool.id
    remove_webhook(session, ACTOR, webhook)
    importer = BackgroundThread(import_title)
    with engine().connect() as connection:
        wait_for_blocked(connection, 1)
    session.commit()
    importer.finish()
    assert session.scalars(select(Webhook)).all() == []
    assert stored(session) == []
