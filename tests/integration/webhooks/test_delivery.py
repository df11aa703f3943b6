"""Delivery: signed, at least once, in order for each collection, without one queue blocking another."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import standardwebhooks
import time_machine
from cryptography.fernet import Fernet
from sqlalchemy import select
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from accession.catalog.circulation import record_events
from accession.core.errors import UserError
from accession.core.settings import get_settings
from accession.db.due_rows import retry_delay
from accession.db.engine import engine, transaction
from accession.db.models import (
    Collection,
    NotificationEvent,
    WebhookDelivery,
)
from accession.webhooks.delivery import (
    BATCH_SIZE,
    CLAIM,
    FIRST_RETRY_DELAY,
    GIVE_UP_AFTER,
    deliver_events,
    find_due_webhooks,
    send_test,
)
from accession.webhooks.log import DeliveryFilter, DeliveryView, delivery_views, skip_delivery
from accession.webhooks.registry import (
    PREVIOUS_SECRET_VALID,
    WebhookSpec,
    add_webhook,
    change_webhook,
    get_webhook,
    pause_webhook,
    remove_webhook,
    resume_webhook,
    rotate_secret,
    webhook_views,
)
from tests.fixtures.factories import (
    NOON,
    BackgroundThread,
    apply_titles,
    event_data,
    make_collection,
    make_pool,
    run_concurrently,
    store_title,
    title_data,
)
from tests.fixtures.notifications import succeed_run
from tests.fixtures.webhooks import ACTOR, ReceivedEvent, Receiver, make_webhook

SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)

# Ends as a process does that is killed after it has sent an event.
KILLED_DELIVERY = """
import os, signal
from accession.webhooks import delivery

delivery._record = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
delivery.deliver_events(1)
"""


def deliver(after: timedelta = timedelta()) -> int:
    """Deliver what is due some time after noon, as the sender does."""
    with time_machine.travel(NOON + after, tick=False):
        return sum(deliver_events(webhook_id) for webhook_id in find_due_webhooks())


def deliveries(session: Session) -> list[DeliveryView]:
    """Return all deliveries, oldest first."""
    session.expire_all()
    return delivery_views(session, DeliveryFilter(), limit=1000)[::-1]


def pause_reason(session: Session) -> str | None:
    session.expire_all()
    return webhook_views(session)[0].pause_reason


@pytest.fixture(autouse=True)
def _at_noon(session: Session) -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


def test_event_is_delivered_once_with_its_title(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    store_title(session, collection, "solaris", description="A planet thinks.")
    assert (deliver(), deliver(), deliver(DAY)) == (1, 0, 0)
    (event,) = receiver.received
    assert event.headers["content-type"] == "application/json"
    assert event.payload == {
        "type": "title.added",
        "timestamp": "2024-05-01T12:00:00Z",
        "data": {
            "collection": {"id": collection.id, "name": "Alder Library"},
            "title": {
                "identifier": "solaris",
                "title": "Title solaris",
                "subtitle": None,
                "authors": ["Stanisław Lem"],
                "narrators": ["Rita Reader"],
                "editors": [],
                "translators": [],
                "illustrators": [],
                "other_contributors": [],
                "medium": "book",
                "format": "epub",
                "language": "pol",
                "audience": "general",
                "publisher": "Wydawnictwo",
                "published": "1961",
                "on_sale": None,
                "isbns": ["9788308068298"],
                "subjects": ["FICTION / Science Fiction"],
                "page_count": None,
                "duration_ms": None,
                "description": "A planet thinks.",
                "cover_url": "https://images.example/1",
                "licenses_owned": 2,
                "licenses_available": 1,
                "licenses_reserved": 0,
                "patrons_in_hold_queue": 0,
                "status": "active",
                "purchased_on": None,
                "updated_at": "2024-05-01T12:00:00Z",
            },
        },
    }


def test_log_has_status_duration_and_response(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    receiver.status, receiver.response = 202, "queued\0" + "é" * 5000
    store_title(session, collection, "solaris")
    deliver()
    (view,) = deliveries(session)
    assert (view.state, view.status, view.tries, view.error) == ("delivered", 202, 1, None)
    assert (view.created_at, view.tried_at, view.delivered_at) == (NOON, NOON, NOON)
    assert view.duration_ms is not None
    assert view.response == "queued" + "é" * 494
    assert view.message_id == receiver.received[0].id
    assert view.body == receiver.received[0].body


def test_signature_is_verified_by_an_independent_library(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    _, secret = add_webhook(session, ACTOR, WebhookSpec("index", receiver.url))
    session.commit()
    store_title(session, collection, "solaris", title="Łódź – 東京")
    deliver()
    (event,) = receiver.received
    verifier = standardwebhooks.Webhook(secret.get_secret_value())
    assert verifier.verify(event.body, event.headers) == event.payload
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verifier.verify(event.body.replace("Łódź", "Lodz"), event.headers)


def test_both_secrets_are_valid_for_a_day_after_a_rotation(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    webhook, old = add_webhook(session, ACTOR, WebhookSpec("index", receiver.url))
    new = rotate_secret(session, ACTOR, webhook)
    session.commit()
    assert webhook_views(session)[0].previous_secret_until == NOON + PREVIOUS_SECRET_VALID
    for name, after in (("a", timedelta()), ("b", PREVIOUS_SECRET_VALID)):
        store_title(session, collection, name)
        deliver(after)
    first, second = receiver.received
    for secret in (old, new):
        standardwebhooks.Webhook(secret.get_secret_value()).verify(first.body, first.headers)
    with time_machine.travel(NOON + PREVIOUS_SECRET_VALID, tick=False):
        standardwebhooks.Webhook(new.get_secret_value()).verify(second.body, second.headers)
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(old.get_secret_value()).verify(second.body, second.headers)


def test_events_arrive_in_order(session: Session, collection: Collection, receiver: Receiver) -> None:
    make_webhook(session, receiver.url)
    store_title(session, collection, "a")
    store_title(session, collection, "b")
    store_title(session, collection, "a", as_of=NOON + SECOND, title="Solaris")
    store_title(session, collection, "a", as_of=NOON + 2 * SECOND, licenses_owned=0, title="Solaris")
    succeed_run(session, collection)
    assert deliver() == 5
    assert receiver.types == ["title.added", "title.added", "title.changed", "title.removed", "run.finished"]
    assert receiver.received[2].payload["data"]["changed"] == ["title"]
    assert len({event.id for event in receiver.received}) == 5


def test_queue_of_many_events_arrives_in_order(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    names = [f"{number:03}" for number in range(2 * BATCH_SIZE + 1)]
    for name in names:
        pool = make_pool(session, collection, name)
        apply_titles(session, {pool.id: title_data(name)})
    session.commit()
    assert deliver() == len(names)
    assert receiver.titles == names


def test_failed_event_holds_back_its_collection_only(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    birch = make_collection(session, "Birch Library")
    for name in ("a", "b"):
        store_title(session, collection, name)
        store_title(session, birch, name)
    receiver.respond = lambda event: 500 if event.collection == "Alder Library" else 200
    for _ in range(3):
        deliver()
    assert [(event.collection, event.title) for event in receiver.received] == [
        ("Alder Library", "a"),
        ("Birch Library", "a"),
        ("Birch Library", "b"),
    ]
    receiver.respond = None
    assert deliver(5 * SECOND) == 2
    assert receiver.titles[3:] == ["a", "b"]


def test_failed_webhook_does_not_delay_another(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, "http://127.0.0.1:9/events", "closed port")
    make_webhook(session, receiver.url)
    store_title(session, collection, "solaris")
    assert deliver() == 1
    failed, delivered = deliveries(session)
    assert (failed.webhook, failed.state, failed.status) == ("closed port", "pending", None)
    assert failed.error is not None
    assert failed.error.startswith("The receiver could not be reached: ")
    assert delivered.state == "delivered"


def test_failed_event_is_sent_again_unchanged(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    store_title(session, collection, "solaris")
    receiver.status, receiver.response = 503, "maintenance"
    assert deliver() == 0
    (view,) = deliveries(session)
    assert (view.state, view.tries, view.status, view.response) == ("pending", 1, 503, "maintenance")
    assert view.error == "The receiver responded with status 503."
    assert view.next_try_at == NOON + 5 * SECOND
    store_title(session, collection, "solaris", as_of=NOON + SECOND, title="Renamed")
    receiver.status = 200
    assert (deliver(4 * SECOND), deliver(5 * SECOND)) == (0, 2)
    first, second, _ = receiver.received
    assert (first.id, first.body) == (second.id, second.body)
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 5
    assert deliveries(session)[0].tries == 2


def test_delays_double_from_seconds_to_an_hour() -> None:
    delays = [retry_delay(tries, FIRST_RETRY_DELAY) for tries in range(1, 30)]
    assert delays[:4] == [5 * SECOND, 10 * SECOND, 20 * SECOND, 40 * SECOND]
    assert delays == sorted(delays)
    assert delays[-1] == timedelta(hours=1)


def test_failing_for_days_pauses_the_webhook(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    store_title(session, collection, "solaris")
    receiver.status = 500
    deliver()
    deliver(GIVE_UP_AFTER - SECOND)
    assert (pause_reason(session), webhook_views(session)[0].state) == (None, "failing")
    with capture_logs() as lines:
        deliver(GIVE_UP_AFTER + timedelta(hours=1))
    reason = pause_reason(session)
    assert reason == ("An event has not been accepted for 3 days: The receiver responded with status 500.")
    assert [line["event"] for line in lines] == ["webhook event not accepted", "webhook paused"]
    (event,) = session.scalars(select(NotificationEvent))
    assert (event.kind, event.subject, event.reason) == ("webhook_paused", "index", reason)
    assert deliver(10 * DAY) == 0
    assert len(receiver.received) == 3


def test_gone_receiver_pauses_the_webhook_at_once(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    store_title(session, collection, "solaris")
    receiver.status = 410
    deliver()
    assert pause_reason(session) == "The receiver responded with status 410: it wants no more events."


def test_events_wait_while_paused_and_are_sent_when_resumed(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    webhook = make_webhook(session, receiver.url)
    receiver.status = 410
    store_title(session, collection, "a")
    deliver()
    store_title(session, collection, "b")
    assert deliver(DAY) == 0
    receiver.status = 200
    session.expire_all()
    with time_machine.travel(NOON + DAY, tick=False):
        resume_webhook(session, ACTOR, webhook)
        session.commit()
    assert deliver(DAY) == 2
    assert receiver.titles == ["a", "a", "b"]
    kinds = [event.kind for event in session.scalars(select(NotificationEvent))]
    assert kinds == ["webhook_paused", "recovered"]


def test_pause_ends_what_is_being_sent(session: Session, collection: Collection, receiver: Receiver) -> None:
    webhook = make_webhook(session, receiver.url)
    for name in ("a", "b"):
        store_title(session, collection, name)

    def pause(_: ReceivedEvent) -> int:
        with transaction() as other:
            pause_webhook(other, ACTOR, get_webhook(other, webhook_id), "maintenance")
        return 200

    webhook_id = webhook.id
    receiver.respond = pause
    deliver()
    assert receiver.titles == ["a"]
    assert [view.state for view in deliveries(session)] == ["delivered", "pending"]


def test_redirect_is_not_followed(session: Session, collection: Collection, receiver: Receiver) -> None:
    make_webhook(session, receiver.url)
    receiver.status, receiver.location = 302, receiver.url
    store_title(session, collection, "solaris")
    deliver()
    (view,) = deliveries(session)
    assert view.error == "The receiver responded with the redirect 302, which is not followed."
    assert len(receiver.received) == 1


@pytest.mark.parametrize("host", ["169.254.169.254", "168.63.129.16", "[fd00:ec2::254]"])
def test_address_of_cloud_metadata_is_not_reached(
    session: Session, collection: Collection, host: str
) -> None:
    make_webhook(session, f"http://{host}/latest")
    store_title(session, collection, "solaris")
    deliver()
    (view,) = deliveries(session)
    assert view.error is not None
    assert "are not allowed at its address" in view.error


def test_crash_between_commit_and_sending_loses_nothing(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    """The event is committed with the title, so any process can send it."""
    make_webhook(session, receiver.url)
    importer = """
import os, signal
from sqlalchemy.orm import Session
from accession.db.engine import engine
from accession.db.models import Collection
from tests.fixtures.factories import store_title

with Session(engine()) as session:
    store_title(session, session.get_one(Collection, 1), "solaris")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_in_process(importer) == -signal.SIGKILL
    assert receiver.received == []
    with time_machine.travel(NOON + 10 * 365 * DAY, tick=False):
        deliver_events(1)
    assert receiver.titles == ["solaris"]


def test_crash_between_sending_and_marking_sends_again(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    """An event may arrive twice, with the same id, but is never lost."""
    make_webhook(session, receiver.url)
    store_title(session, collection, "solaris")
    assert run_in_process(KILLED_DELIVERY) == -signal.SIGKILL
    (first,) = receiver.received
    assert deliver() == 0
    with time_machine.travel(NOON + 10 * 365 * DAY, tick=False):
        assert deliver_events(1) == 1
    assert receiver.received[1].id == first.id
    assert receiver.received[1].body == first.body


def run_in_process(program: str) -> int:
    """Run a program with the test's database, and return its exit code."""
    settings = get_settings()
    assert settings.database_url is not None
    environment = {
        "ACCESSION_HOME": str(settings.home),
        "ACCESSION_DATABASE_URL": settings.database_url.get_secret_value(),
        "PYTHONPATH": ":".join(sys.path),
    }
    return subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode


def test_two_senders_send_each_event_once(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    names = [f"{number:02}" for number in range(20)]
    for name in names:
        store_title(session, collection, name)
    run_concurrently(deliver, deliver)
    assert receiver.titles == names


def test_late_event_does_not_send_claimed_ones_twice(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    """A transaction that began first can commit last: its event is sent before those being sent."""
    make_webhook(session, receiver.url)
    pool = make_pool(session, collection, "late")
    is_sending, may_respond = threading.Event(), threading.Event()

    def respond(event: ReceivedEvent) -> int:
        if event.title == "a":
            is_sending.set()
            may_respond.wait()
        return 200

    receiver.respond = respond
    with Session(engine()) as late:
        apply_titles(late, {pool.id: title_data("late", contributors=(), subjects=(), isbns=())})
        for name in ("a", "b"):
            store_title(session, collection, name)
        first = BackgroundThread(deliver)
        is_sending.wait()
        late.commit()
        assert deliver() == 1
        may_respond.set()
        first.finish()
    assert receiver.titles == ["a", "late", "b"]


def test_sender_that_stood_still_leaves_its_claim_to_others(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    """Otherwise it would send earlier events after later ones."""
    make_webhook(session, receiver.url)
    for name in ("a", "b", "c"):
        store_title(session, collection, name)
    is_sending, may_respond = threading.Event(), threading.Event()

    def respond(event: ReceivedEvent) -> int:
        if len(receiver.received) == 1:
            is_sending.set()
            may_respond.wait()
        return 200

    receiver.respond = respond
    slow = BackgroundThread(deliver)
    is_sending.wait()
    with time_machine.travel(NOON + 2 * CLAIM, tick=False):
        assert deliver_events(1) == 3
    may_respond.set()
    slow.finish()
    assert receiver.titles == ["a", "a", "b", "c"]
    assert [view.state for view in deliveries(session)] == ["delivered"] * 3


def test_skipped_event_lets_the_next_ones_pass(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    make_webhook(session, receiver.url)
    for name in ("a", "b"):
        store_title(session, collection, name)
    receiver.respond = lambda event: 422 if event.title == "a" else 200
    deliver()
    skip_delivery(session, ACTOR, 1)
    session.commit()
    assert deliver() == 1
    assert [view.state for view in deliveries(session)] == ["skipped", "delivered"]


def test_changed_url_is_used_for_pending_events(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    webhook = make_webhook(session, "http://127.0.0.1:9/events")
    store_title(session, collection, "solaris")
    deliver()
    change_webhook(session, ACTOR, webhook, WebhookSpec("index", receiver.url))
    session.commit()
    assert deliver(5 * SECOND) == 1
    assert receiver.titles == ["solaris"]


def test_removal_while_sending_is_no_error(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    webhook = make_webhook(session, receiver.url)
    for name in ("a", "b"):
        store_title(session, collection, name)

    def remove(_: ReceivedEvent) -> int:
        with transaction() as other:
            remove_webhook(other, ACTOR, get_webhook(other, webhook_id))
        return 200

    webhook_id = webhook.id
    receiver.respond = remove
    deliver()
    session.expire_all()
    assert receiver.titles == ["a"]
    assert session.scalars(select(WebhookDelivery)).all() == []


def test_secret_of_another_key_is_reported_and_retried(
    session: Session, collection: Collection, receiver: Receiver
) -> None:
    webhook = make_webhook(session, receiver.url)
    encrypted = webhook.secret_encrypted
    webhook.secret_encrypted = Fernet(Fernet.generate_key()).encrypt(b"whsec_")
    store_title(session, collection, "solaris")
    deliver()
    (view,) = deliveries(session)
    assert view.error is not None
    assert 'The secret of webhook "index" was encrypted with another key' in view.error
    with pytest.raises(UserError, match="encrypted with another key"):
        send_test(ACTOR, webhook.id)
    webhook.secret_encrypted = encrypted
    session.commit()
    assert deliver(5 * SECOND) == 1


def test_test_event_is_sent_and_logged(session: Session, receiver: Receiver) -> None:
    webhook = make_webhook(session, receiver.url)
    pause_webhook(session, ACTOR, webhook, "not ready")
    session.commit()
    assert send_test(ACTOR, webhook.id) is None
    (event,) = receiver.received
    assert event.payload == {
        "type": "webhook.test",
        "timestamp": "2024-05-01T12:00:00Z",
        "data": {"webhook": "index"},
    }
    (view,) = deliveries(session)
    assert (view.event, view.state, view.status, view.collection) == ("webhook.test", "delivered", 204, None)


def test_failed_test_event_is_not_tried_again(session: Session, receiver: Receiver) -> None:
    webhook = make_webhook(session, receiver.url)
    receiver.status = 500
    assert send_test(ACTOR, webhook.id) == "The receiver responded with status 500."
    assert [view.state for view in deliveries(session)] == ["failed"]
    assert (deliver(), deliver(DAY), len(receiver.received)) == (0, 0, 1)


def test_title_without_metadata_is_sent(session: Session, collection: Collection, receiver: Receiver) -> None:
    make_webhook(session, receiver.url)
    pool = make_pool(session, collection, "solaris")
    record_events(session, collection, {"solaris": pool}, [event_data("1", "PURCHASE")])
    session.commit()
    assert deliver() == 1
    title: Any = receiver.received[0].payload["data"]["title"]
    assert (title["title"], title["isbns"], title["licenses_owned"]) == (None, [], 1)
