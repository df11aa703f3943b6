"""The messages of the apply: how many titles they name, when they are sent again."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.db.engine import engine, transaction
from accession.db.models import ApplyOutbox, Collection
from accession.tasks import outages
from tests.fixtures.workers import (
    Broker,
    Message,
    applied_titles,
    eventually,
    found,
    logged,
    number_of,
    publish,
    rows_left,
)


def test_a_message_names_at_most_a_page_of_titles(
    session: Session, collection: Collection, broker: Broker
) -> None:
    publish(found(session, collection, *(f"t{number}" for number in range(120))))
    assert [len(message.args[0]) for message in broker.messages("apply")] == [50, 50, 20]


def test_an_apply_whose_database_goes_away_waits_for_it(
    session: Session, collection: Collection, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "_WAITS_SECONDS", (0.01,))
    row_ids = found(session, collection, "t1")
    publish(row_ids)
    message = broker.take("apply")
    answers: list[object] = []
    deliver = threading.Thread(target=lambda: answers.append(broker.deliver(message)))
    waiting = text(
        "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
    )
    with Session(engine()) as other:
        other.get_one(ApplyOutbox, row_ids[0], with_for_update=True)
        deliver.start()
        with transaction() as look:
            pid = eventually(lambda: look.scalar(waiting), "the apply waits for the row")
            look.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    deliver.join(10)
    assert answers == [None]
    assert (broker.locks(), broker.messages("apply")) == ({}, [])
    assert (applied_titles(), rows_left()) == ({"t1"}, [])


def test_waiting_for_a_title_that_is_locked_uses_up_no_retries(
    session: Session, collection: Collection, broker: Broker
) -> None:
    row_ids = found(session, collection, "t1", "t2")
    lock = f"BibliographicApply:{session.get_one(ApplyOutbox, row_ids[1]).license_pool.identifier_id}"
    session.rollback()
    broker.redis.set(lock, "another")
    publish(row_ids)
    for _ in range(10):
        broker.deliver_next("apply")
        (waiting,) = broker.messages("apply")
        assert (waiting.args, waiting.retries) == ([row_ids[1:]], 0)
        assert waiting.eta is not None
    assert (applied_titles(), rows_left()) == ({"t1"}, row_ids[1:])


def set_published(row_id: int, *, minutes_ago: int) -> None:
    moment = utc_now() - timedelta(minutes=minutes_ago)
    with transaction() as session:
        session.execute(update(ApplyOutbox).where(ApplyOutbox.id == row_id).values(published_at=moment))


def published(broker: Broker) -> list[int]:
    return [row_id for message in broker.messages("apply") for row_id in message.args[0]]


def sweep(broker: Broker, **kwargs: bool) -> object:
    return broker.deliver(Message("accession.tasks.apply.publish_left_applies", "s", [], kwargs, 0, None))


def test_rows_whose_message_must_have_been_lost_are_published_again(
    session: Session, collection: Collection, broker: Broker
) -> None:
    old, fresh = found(session, collection, "t1", "t2")
    set_published(old, minutes_ago=11)
    set_published(fresh, minutes_ago=9)
    with logged() as lines:
        sweep(broker)
        sweep(broker)
    assert published(broker) == [old]
    assert [line["titles"] for line in lines] == [1]
    broker.deliver_next("apply")
    assert (applied_titles(), rows_left()) == ({"t1"}, [fresh])


def test_at_a_start_every_row_is_published_again(
    session: Session, collection: Collection, broker: Broker
) -> None:
    rows = found(session, collection, *(f"t{number}" for number in range(60)))
    sweep(broker, every_row=True)
    assert published(broker) == rows
    assert len(broker.messages("apply")) == 2
    assert number_of(ApplyOutbox) == 60
