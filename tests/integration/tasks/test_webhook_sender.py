"""The webhook sender: events of a real import, and receivers that do not respond."""

import re
import threading

import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from accession.db.engine import engine
from accession.db.models import Collection
from accession.tasks.webhook_sender import MAX_THREADS, WebhookSender
from accession.webhooks.registry import webhook_views
from tests.fixtures.factories import day, make_collection, store_title
from tests.fixtures.webhooks import ReceivedEvent, Receiver, make_webhook, receiver
from tests.fixtures.workers import ObservedVendor, RunStarter, travel_to

__all__ = ["receiver"]


def send(sender: WebhookSender) -> None:
    """Send what is due, and wait until it has been sent."""
    sender.run_once()
    join_threads()


def join_threads() -> None:
    """Wait until the threads that send events have ended."""
    for thread in threading.enumerate():
        if re.fullmatch(r"webhook-\d+", thread.name):
            thread.join()


@pytest.mark.usefixtures("worker")
def test_import_is_reported_title_by_title(
    session: Session,
    collection: Collection,
    vendor: ObservedVendor,
    run_starter: RunStarter,
    receiver: Receiver,
) -> None:
    make_webhook(session, receiver.url)
    vendor.add_purchases(day(2014, 1, 1, 9), "a1", "a2")
    vendor.add_purchases(day(2014, 1, 3, 23, 59), "b1")
    with travel_to(day(2014, 1, 4, 10)):
        run_starter.run_to_end(collection)
        send(WebhookSender())
        run_starter.run_to_end(collection)
        send(WebhookSender())
    added = [event for event in receiver.received if event.type == "title.added"]
    assert sorted(event.title for event in added) == ["a1", "a2", "b1"]
    assert all(event.payload["data"]["title"]["licenses_owned"] for event in added)
    runs = [event.payload["data"]["run"] for event in receiver.received if event.type == "run.finished"]
    assert [(run["workflow"], run["state"], run["titles_new"]) for run in runs] == [
        ("purchases", "succeeded", 3),
        ("purchases", "succeeded", 0),
    ]
    assert len(receiver.received) == 5
    assert webhook_views(session)[0].pending == 0


def test_hanging_receiver_does_not_delay_another(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url, "hanging")
    make_webhook(session, receiver.url + "/2", "second")
    may_respond, is_sent = threading.Event(), threading.Event()

    def respond(event: ReceivedEvent) -> int:
        if event.path.endswith("/2"):
            is_sent.set()
        else:
            may_respond.wait()
        return 200

    receiver.respond = respond
    store_title(session, collection, "solaris")
    sender = WebhookSender()
    sender.run_once()
    assert is_sent.wait(60)
    # The hanging one is not sent a second time meanwhile.
    sender.run_once()
    may_respond.set()
    join_threads()
    assert len(receiver.received) == 2


def test_many_failing_receivers_do_not_delay_another(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    """Each has further events that are due, but the last one has not had its turn."""
    for number in range(MAX_THREADS + 1):
        make_webhook(session, f"{receiver.url}/{number}", f"webhook {number}")
    for each in (collection, make_collection(session, "Birch Library")):
        store_title(session, each, "solaris")
    receiver.status = 500
    sender = WebhookSender()
    send(sender)
    assert len(receiver.received) == MAX_THREADS
    send(sender)
    assert len({event.path for event in receiver.received}) == MAX_THREADS + 1


def test_unavailable_database_is_logged_and_tried_again(
    session: Session, collection: Collection, queues: Redis, receiver: Receiver
) -> None:
    """An event that was sent and not recorded is sent again."""
    make_webhook(session, receiver.url)
    store_title(session, collection, "solaris")

    def break_connections(_: ReceivedEvent) -> int:
        with engine().connect() as connection:
            connection.execute(text("ALTER TABLE webhook_deliveries RENAME TO hidden"))
            connection.commit()
        return 200

    receiver.respond = break_connections
    try:
        with capture_logs() as lines:
            send(WebhookSender())
    finally:
        session.rollback()
        session.execute(text("ALTER TABLE hidden RENAME TO webhook_deliveries"))
        session.commit()
    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert line["event"] == "thread waits for the database"
    assert webhook_views(session)[0].pending == 1
