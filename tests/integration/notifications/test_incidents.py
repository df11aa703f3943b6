"""Rules applied to failures and present problems: once, grouped, repeated daily, recovered."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.auth.audit import Actor, ActorKind
from accession.bibliotheca.errors import AuthenticationFailed, BadResponseException
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import (
    RejectedRecordData,
    rejected_record_views,
    resolve_rejected_record,
    store_rejected_records,
)
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.db.models import (
    Collection,
    FindingKind,
    Notification,
    NotificationEvent,
    NotificationIncident,
    VerificationFinding,
)
from accession.notifications.delivery import notification_views
from accession.notifications.events import record_export
from accession.notifications.incidents import GROUP_WINDOW, apply_rules
from accession.notifications.kinds import EventKind, Severity
from accession.notifications.problems import DiskSpace, MachineState, Problem
from accession.runs.pauses import store_pauses
from accession.runs.schedules import ScheduleOverride, set_schedule
from tests.fixtures.factories import NOON, make_collection
from tests.fixtures.notifications import fail_run, make_channel, succeed_run
from tests.fixtures.verification import store_finding

URL = "json://127.0.0.1:9"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOTHING = MachineState({}, ())
WORKER = Problem("process:worker", EventKind.PROCESS_MISSING, "worker", "None runs.", "None runs.", NOON)


def vendor_error(collection: Collection) -> BadResponseException:
    """Return an error with a text that differs for each collection."""
    return BadResponseException(
        "the vendor reports a fault", collection.name, f"https://v.example/{collection.id}", 503
    )


def apply(after: timedelta = timedelta(), machine: MachineState = NOTHING) -> None:
    """Apply the rules some time after noon."""
    with transaction() as session:
        apply_rules(session, machine, NOON + after)


def titles(session: Session) -> list[str]:
    """Return the titles of all messages, oldest first, without what they have in common."""
    session.rollback()
    return [view.title.removeprefix("Accession: ") for view in reversed(notification_views(session))]


def try_all(session: Session) -> None:
    """Record a try of each message, so that no more problems are added to it."""
    session.execute(update(Notification).values(tries=1))
    session.commit()


def incident_keys(session: Session) -> list[str]:
    session.rollback()
    return list(session.scalars(select(NotificationIncident.key).order_by(NotificationIncident.key)))


@pytest.fixture(autouse=True)
def _at_noon(session: Session) -> Any:
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def channel(session: Session, collection: Collection) -> Callable[..., None]:
    """Add a channel with a rule; its values are those of `RuleSpec`."""

    def add(**rule: Any) -> None:
        make_channel(session, URL, **{"no_success_hours": 8000, **rule})

    return add


# Failed runs


def test_failure_is_reported_once_then_daily_until_recovery(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel(still_failing_hours=6)
    for hours in (0, 1, 2):
        with time_machine.travel(NOON + hours * HOUR, tick=False):
            fail_run(session, collection, vendor_error(collection))
        apply(hours * HOUR)
    name = "Alder Library, purchases"
    assert titles(session) == [f"Import failed: {name}"]
    for hours in (5, 6, 7, 29, 30, 31):
        apply(hours * HOUR)
        try_all(session)
    assert titles(session)[1:] == [f"Still failing: {name}"] * 2
    succeed_run(session, collection)
    apply(32 * HOUR)
    apply(33 * HOUR)
    assert titles(session)[3:] == [f"Recovered: {name}"]
    assert incident_keys(session) == []


def test_events_are_processed_once(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel()
    fail_run(session, collection, vendor_error(collection))
    apply()
    assert session.scalars(select(NotificationEvent)).all() == []


def test_events_without_rules_are_discarded(session: Session, collection: Collection) -> None:
    fail_run(session, collection, vendor_error(collection))
    apply()
    assert session.scalars(select(NotificationEvent)).all() == []
    assert titles(session) == []


def test_failure_of_another_workflow_is_another_incident(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel()
    fail_run(session, collection, vendor_error(collection))
    apply()
    fail_run(session, collection, vendor_error(collection), Workflow.EVENTS)
    succeed_run(session, collection, Workflow.EVENTS)
    apply(HOUR)
    assert titles(session) == [
        "Import failed: 2 imports",
        "Recovered: Alder Library, events",
    ]
    assert incident_keys(session) == ["run:1:purchases"]


def test_success_before_the_failure_is_no_recovery(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel()
    succeed_run(session, collection)
    fail_run(session, collection, vendor_error(collection))
    apply()
    assert titles(session) == ["Import failed: Alder Library, purchases"]


def test_collections_that_fail_alike_share_a_message(session: Session, channel: Callable[..., None]) -> None:
    channel()
    collections = [make_collection(session, f"Library {number:02}") for number in range(12)]
    for number, collection in enumerate(collections):
        fail_run(session, collection, vendor_error(collection))
        apply(number * GROUP_WINDOW / 13)
    fail_run(session, collections[0], BadResponseException("the response is not XML"), Workflow.EVENTS)
    apply(GROUP_WINDOW)
    assert titles(session) == ["Import failed: 12 imports", "Import failed: Library 00, events"]
    messages = session.scalars(select(Notification).order_by(Notification.id)).all()
    assert [message.due_at for message in messages] == [NOON + GROUP_WINDOW, NOON + 2 * GROUP_WINDOW]
    view = notification_views(session)[-1]
    assert view.body.startswith("Reason: the vendor reports a fault.\nSince: 2024-05-01 12:00 UTC\n")


def test_problem_is_once_in_a_message_that_waits(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel(quiet_hours="11:00-16:00")
    for hours in (0, 1):
        fail_run(session, collection, vendor_error(collection))
        apply(hours * HOUR)
        succeed_run(session, collection)
        apply(hours * HOUR)
    name = "Alder Library, purchases"
    assert titles(session) == [f"Import failed: {name}", f"Recovered: {name}"]


def test_message_that_was_tried_gets_no_more_items(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel()
    other = make_collection(session, "Birch Library")
    fail_run(session, collection, vendor_error(collection))
    apply()
    try_all(session)
    fail_run(session, other, vendor_error(other))
    apply()
    assert len(titles(session)) == 2


def test_rejected_credentials_are_reported_as_such(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    """Also if the runs failed for another reason before."""
    channel()
    fail_run(session, collection, vendor_error(collection))
    apply()
    fail_run(session, collection, AuthenticationFailed("the vendor rejects the credentials", "Alder"))
    apply(HOUR)
    assert titles(session) == [
        "Import failed: Alder Library, purchases",
        "Credentials rejected: Alder Library, purchases",
    ]


def test_failed_verification_is_reported_without_reminders(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel()
    fail_run(session, collection, vendor_error(collection), Workflow.VERIFICATION)
    apply()
    apply(3 * DAY)
    assert titles(session) == ["Import failed: Alder Library, verification"]


def test_collection_marked_for_deletion_is_forgotten(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel()
    fail_run(session, collection, vendor_error(collection))
    apply()
    mark_for_deletion(session.get_one(Collection, collection.id))
    session.commit()
    apply(3 * DAY)
    assert len(titles(session)) == 1
    assert incident_keys(session) == []


# Rules


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, ["Import failed", "Still failing", "Recovered"]),
        ({"events": (EventKind.RUN_FAILED,)}, ["Import failed"]),
        ({"events": (EventKind.STILL_FAILING,)}, ["Still failing"]),
        ({"events": (EventKind.STILL_FAILING, EventKind.RECOVERED)}, ["Still failing", "Recovered"]),
        ({"events": (EventKind.EXPORT_FAILED, EventKind.STILL_FAILING)}, []),
        ({"min_severity": Severity.CRITICAL}, []),
        ({"collections": ("Birch Library",)}, []),
        ({"collections": ("Alder Library",)}, ["Import failed", "Still failing", "Recovered"]),
    ],
)
def test_rule_selects_events(
    session: Session,
    collection: Collection,
    channel: Callable[..., None],
    rule: dict[str, Any],
    expected: list[str],
) -> None:
    make_collection(session, "Birch Library")
    channel(**rule)
    fail_run(session, collection, vendor_error(collection))
    apply()
    apply(DAY)
    succeed_run(session, collection)
    apply(DAY)
    assert [title.split(":")[0] for title in titles(session)] == expected


def test_each_rule_has_its_own_messages(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel()
    channel(name="second")
    fail_run(session, collection, vendor_error(collection))
    apply()
    assert {view.channel for view in notification_views(session)} == {"ops", "second"}


def test_rule_for_collections_gets_no_other_events(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel(collections=(collection.name,))
    record_export(session, "alder", error="The target is full.")
    session.commit()
    apply(machine=MachineState({"process:worker": WORKER}, ()))
    assert titles(session) == []


def test_quiet_hours_hold_messages_back_and_group_them(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel(quiet_hours="11:00-16:00", time_zone="Europe/Berlin")
    fail_run(session, collection, vendor_error(collection))
    apply()
    fail_run(session, collection, vendor_error(collection), Workflow.EVENTS)
    apply(HOUR)
    (message,) = session.scalars(select(Notification))
    assert (len(message.items), message.due_at) == (2, datetime(2024, 5, 1, 14, tzinfo=UTC))


@pytest.mark.parametrize(("ignores", "due_after"), [(True, timedelta()), (False, 2 * HOUR)])
def test_critical_event_may_break_quiet_hours(
    session: Session, channel: Callable[..., None], ignores: bool, due_after: timedelta
) -> None:
    channel(quiet_hours="11:00-14:00", critical_ignores_quiet_hours=ignores)
    apply(machine=MachineState({"process:worker": WORKER}, ()))
    (message,) = session.scalars(select(Notification))
    assert message.due_at == NOON + due_after


# Present problems


def test_overdue_workflow_is_reported_once_until_success(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel(no_success_hours=10, events=(EventKind.NO_SUCCESS, EventKind.RECOVERED))
    for workflow in (Workflow.EVENTS, Workflow.CIRCULATION):
        with time_machine.travel(NOON + 18 * HOUR, tick=False):
            succeed_run(session, collection, workflow)
    # The run of purchases starts within an hour after 04:00, and may take two.
    for hours in (15, 17, 20, 21):
        apply(hours * HOUR)
    assert titles(session) == ["No successful import: Alder Library, purchases"]
    with time_machine.travel(NOON + 22 * HOUR, tick=False):
        succeed_run(session, collection)
    apply(22 * HOUR)
    assert titles(session)[1:] == ["Recovered: Alder Library, purchases"]


def test_workflow_is_not_overdue_before_its_next_start(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    """Runs of a weekly schedule succeed once a week."""
    channel(no_success_hours=10, events=(EventKind.NO_SUCCESS,))
    ann = Actor(ActorKind.USER, "ann", "127.0.0.1")
    for workflow in SCHEDULED_WORKFLOWS:
        # Every Monday; noon is on a Wednesday.
        override = ScheduleOverride(cron="0 4 * * 1", jitter_minutes=0)
        set_schedule(session, ann, collection, workflow, override)
    session.commit()
    apply(4 * DAY)
    assert titles(session) == []
    apply(5 * DAY)
    assert titles(session) == ["No successful import: 3 imports"]


def test_overdue_workflow_with_failed_run_is_reported_once(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel(no_success_hours=10, still_failing_hours=24)
    for workflow in (Workflow.PURCHASES, Workflow.EVENTS, Workflow.CIRCULATION):
        fail_run(session, collection, vendor_error(collection), workflow)
    apply()
    apply(23 * HOUR)
    assert titles(session) == ["Import failed: 3 imports"]


def test_paused_workflow_is_neither_overdue_nor_reminded_of(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel(no_success_hours=10)
    fail_run(session, collection, vendor_error(collection))
    apply()
    keys = [(collection.id, workflow) for workflow in Workflow]
    store_pauses(session, keys, reason="maintenance", until=None, stopped=set())
    session.commit()
    apply(3 * DAY)
    assert titles(session) == ["Import failed: Alder Library, purchases"]


def test_rejected_records_above_the_threshold_are_reported(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel(rejected_records=2)

    def reject(number: int) -> None:
        record = RejectedRecordData("It has no id.", "<record/>", f"hash {number}")
        store_rejected_records(session, collection, PurchaseDate(NOON.date()), [record])
        session.commit()

    reject(1)
    reject(2)
    apply()
    assert titles(session) == []
    reject(3)
    apply()
    apply(HOUR)
    assert titles(session) == ["Many rejected records: Alder Library"]
    assert (
        "3 records that could not be imported are open, more than 2." in notification_views(session)[0].body
    )
    resolve_rejected_record(session, rejected_record_views(session)[0].id, "done")
    session.commit()
    apply(2 * HOUR)
    assert titles(session)[1:] == ["Recovered: Alder Library"]


def test_purchases_that_stay_different_are_reported_once(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    """The daily import repairs missing and moved purchases; extra ones may have been withdrawn."""
    channel()
    for kind in FindingKind:
        store_finding(session, collection, kind, "abc", NOON.date())
    apply(36 * HOUR)
    assert titles(session) == []
    apply(37 * HOUR)
    apply(38 * HOUR)
    assert titles(session) == ["Purchases differ: Alder Library"]
    assert "differed from the vendor's for 36 hours: 2." in notification_views(session)[0].body
    session.execute(update(VerificationFinding).values(resolved_at=NOON + 39 * HOUR))
    session.commit()
    apply(39 * HOUR)
    assert titles(session)[1:] == ["Recovered: Alder Library"]


def test_export_is_reported_once_until_it_is_written(session: Session, channel: Callable[..., None]) -> None:
    channel()
    for error in (None, "The target is full.", "The target is full.", None, None):
        record_export(session, "alder", error=error)
        session.commit()
        apply()
    assert titles(session) == ["Export failed: alder", "Recovered: alder"]
    assert "Reason: The target is full." in notification_views(session)[1].body


def test_missing_process_is_reported_until_it_runs(session: Session, channel: Callable[..., None]) -> None:
    channel()
    for machine in (
        MachineState({"process:worker": WORKER}, ()),
        MachineState({"process:worker": WORKER}, ()),
        # Nothing is known about it, as by another process that has just started.
        NOTHING,
        MachineState({"process:worker": None}, ()),
        MachineState({"process:worker": None}, ()),
    ):
        apply(machine=machine)
    assert titles(session) == ["Process missing: worker", "Recovered: worker"]


def test_disk_is_reported_by_its_machine_only(session: Session, channel: Callable[..., None]) -> None:
    channel(disk_free_percent=10)
    for key, free in (("disk:a", 9.9), ("disk:b", 50.0), ("disk:a", 8.0), ("disk:a", 10.0)):
        apply(machine=MachineState({}, (DiskSpace(key, f"/srv on {key[-1]}", free),)))
    assert titles(session) == ["Disk nearly full: /srv on a", "Recovered: /srv on a"]
    assert [view.severity for view in notification_views(session)] == ["critical", "critical"]


def test_rules_are_applied_by_one_process_at_a_time(
    session: Session, collection: Collection, channel: Callable[..., None]
) -> None:
    channel()
    fail_run(session, collection, vendor_error(collection))
    with transaction() as first:
        apply_rules(first, NOTHING, NOON)
        apply()
    assert len(titles(session)) == 1
