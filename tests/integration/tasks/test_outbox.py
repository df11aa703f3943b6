"""Apply messages: their size, and publishing them again."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.db.engine import engine, transaction
from accession.db.models import ApplyOutbox, Collection
from tests.fixtures.broker import Broker, Message
from tests.fixtures.factories import wait_for_blocked
from tests.fixtures.stored import add_outbox_rows, count_rows, outbox_row_ids, publish, titles_with_metadata
from tests.fixtures.workers import captured_logs


def test_apply_message_names_at_most_fifty_titles(
    session: Session, collection: Collection, broker: Broker
) -> None:
    publish(add_outbox_rows(session, collection, *(f"t{number}" for number in range(120))))
    assert [len(message.args[0]) for message in broker.messages("apply")] == [50, 50, 20]


def test_apply_waits_while_database_is_unavailable(
    session: Session, collection: Collection, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accession.tasks.outages._WAITS_SECONDS", (0.01,))
    row_ids = add_outbox_rows(session, collection, "t1")
    publish(row_ids)
    message = broker.pop("apply")
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(broker.deliver(message)))
    end_blocked = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with Session(engine()) as other:
        other.get_one(ApplyOutbox, row_ids[0], with_for_update=True)
        thread.start()
        with engine().connect() as admin:
            wait_for_blocked(admin, 1)
            admin.execute(text(end_blocked))
    thread.join(60)
    assert results == [None]
    assert (broker.locks(), broker.messages("apply")) == ({}, [])
    assert (titles_with_metadata(), outbox_row_ids()) == ({"t1"}, [])


def test_waiting_for_locked_title_uses_no_retries(
    session: Session, collection: Collection, broker: Broker
) -> None:
    row_ids = add_outbox_rows(session, collection, "t1", "t2")
    lock = f"BibliographicApply:{session.get_one(ApplyOutbox, row_ids[1]).license_pool.identifier_id}"
    session.rollback()
    broker.redis.set(lock, "other-task")
    publish(row_ids)
    for _ in range(10):
        broker.deliver_next("apply")
        (message,) = broker.messages("apply")
        assert (message.args, message.retries) == ([row_ids[1:]], 0)
        assert message.eta is not None
    assert (titles_with_metadata(), outbox_row_ids()) == ({"t1"}, row_ids[1:])


def set_published(row_id: int, *, minutes_ago: int) -> None:
    moment = utc_now() - timedelta(minutes=minutes_ago)
    with transaction() as session:
        session.execute(update(ApplyOutbox).where(ApplyOutbox.id == row_id).values(published_at=moment))


def published_row_ids(broker: Broker) -> list[int]:
    return [row_id for message in broker.messages("apply") for row_id in message.args[0]]


def publish_stale(broker: Broker) -> object:
    return broker.deliver(Message("accession.tasks.apply.publish_stale_applies", "task-id", [], {}, 0, None))


def test_stale_outbox_rows_are_published_again(
    session: Session, collection: Collection, broker: Broker
) -> None:
    old, fresh = add_outbox_rows(session, collection, "t1", "t2")
    set_published(old, minutes_ago=11)
    set_published(fresh, minutes_ago=9)
    with captured_logs() as lines:
        publish_stale(broker)
        publish_stale(broker)
    assert published_row_ids(broker) == [old]
    assert [line["titles"] for line in lines] == [1]
    broker.deliver_next("apply")
    assert (titles_with_metadata(), outbox_row_ids()) == ({"t1"}, [fresh])


def test_outbox_rows_without_a_message_are_published(
    session: Session, collection: Collection, broker: Broker
) -> None:
    """One row is in a queued message, one in a message that a worker has received."""
    from accession.tasks.apply import publish_applies, publish_lost_applies
    from accession.tasks.heartbeats import record_worker_heartbeat

    rows = add_outbox_rows(session, collection, *(f"t{number}" for number in range(60)))
    record_worker_heartbeat("birch")
    publish_applies(rows[:1])
    broker.receive("apply", worker="birch")
    publish_applies(rows[1:2])
    assert [publish_lost_applies(), publish_lost_applies()] == [58, 0]
    assert published_row_ids(broker) == rows[1:]
    assert count_rows(ApplyOutbox) == 60


def test_row_with_data_of_a_newer_version_stays(
    session: Session, collection: Collection, broker: Broker
) -> None:
    """A newer worker applies it; the other titles are applied."""
    newer, other = add_outbox_rows(session, collection, "t1", "t2")
    session.execute(
        text("UPDATE apply_outbox SET data = data || '{\"later\": 1}' WHERE id = :id"), {"id": newer}
    )
    session.commit()
    publish([newer, other])
    while broker.messages("apply"):
        broker.deliver_next("apply")
    assert (titles_with_metadata(), outbox_row_ids()) == ({"t2"}, [newer])
