"""Schedules of the collections: inheritance, distribution over the jitter window, and what is due."""

from collections import Counter
from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.auth.audit import Actor, ActorKind, AuditFilter, audit_entries
from accession.core.errors import InvalidInput
from accession.core.settings import get_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.db.models import Collection
from accession.runs.health import HealthState, collection_health
from accession.runs.pauses import delete_pauses, store_pauses
from accession.runs.schedules import (
    Schedule,
    ScheduleOverride,
    ScheduleView,
    list_schedules,
    preview_schedule,
    schedule_views,
    set_schedule,
    take_due_starts,
)
from accession.runs.views import status_views
from tests.fixtures.factories import day, make_collection
from tests.fixtures.workers import travel_to

ADDED = day(2024, 5, 20, 12)
ANN = Actor(ActorKind.USER, "ann", "192.0.2.1")
NO_JITTER = {f"{workflow}_jitter_minutes": 0 for workflow in SCHEDULED_WORKFLOWS}


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NO_JITTER.items():
        monkeypatch.setattr(get_settings(), name, value)


@pytest.fixture
def alder(session: Session) -> Collection:
    """A collection that was added at noon on 20 May."""
    return add_at(session, "Alder Library", ADDED)


def add_at(session: Session, name: str, at: datetime) -> Collection:
    with travel_to(at):
        return make_collection(session, name)


def schedule_of(session: Session, collection: Collection, workflow: Workflow) -> Schedule:
    (schedule,) = (each for each in list_schedules(session, collection.id) if each.workflow is workflow)
    return schedule


def view_of(session: Session, collection: Collection, workflow: Workflow) -> ScheduleView:
    (view,) = (view for view in schedule_views(session, collection) if view.workflow == workflow)
    return view


def take(at: datetime) -> list[tuple[int, str]]:
    """Take the starts that are due at a time, in a transaction of its own."""
    with travel_to(at), transaction() as session:
        return [(each.collection_id, each.workflow.value) for each in take_due_starts(session)]


def test_default_schedule_starts_daily_within_the_jitter_window(
    session: Session, alder: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_settings(), "time_zone", "Europe/Berlin")
    with travel_to(ADDED):
        view = view_of(session, alder, Workflow.PURCHASES)
    first = view.next_starts[0]
    assert day(2024, 5, 21, 2) <= first < day(2024, 5, 21, 3)
    assert list(view.next_starts) == [first + timedelta(days=n) for n in range(5)]
    assert (view.cron, view.time_zone, view.jitter_minutes) == ("0 4 * * *", "Europe/Berlin", 60)
    assert view.inherited == ("cron", "time_zone", "jitter_minutes")
    assert view.description == "At 04:00 every day"


def test_two_hundred_collections_do_not_start_together(session: Session) -> None:
    with travel_to(ADDED):
        session.add_all(
            Collection(
                name=f"Library {n}",
                library_id=f"library{n}",
                account_id="account",
                account_key_encrypted=b"",
                base_url="https://vendor.example",
                created_at=ADDED,
            )
            for n in range(200)
        )
        session.commit()
    for workflow, window in ((Workflow.PURCHASES, 60), (Workflow.EVENTS, 30)):
        schedules = [each for each in list_schedules(session) if each.workflow is workflow]
        assert max(each.delay for each in schedules) < timedelta(minutes=window)
        starts = Counter(each.next_start for each in schedules)
        assert max(starts.values()) <= 4 * 200 / window


@pytest.mark.parametrize("window", [3, 10, 60])
def test_collections_of_an_account_start_at_different_times(session: Session, window: int) -> None:
    collections = [make_collection(session, f"Alder {n}") for n in range(3)]
    for collection in collections:
        override = ScheduleOverride(cron="0 4 * * *", jitter_minutes=window)
        set_schedule(session, ANN, collection, Workflow.PURCHASES, override)
    starts = [schedule_of(session, each, Workflow.PURCHASES).next_start for each in collections]
    assert len({start.replace(second=0) for start in starts}) == 3


def test_fields_that_are_not_set_are_inherited(session: Session, alder: Collection) -> None:
    with travel_to(day(2024, 5, 21, 12)):
        override = ScheduleOverride(cron="30 2 * * 0", jitter_minutes=0)
        assert set_schedule(session, ANN, alder, Workflow.PURCHASES, override) == (
            view_of(session, alder, Workflow.PURCHASES)
        )
    view = view_of(session, alder, Workflow.PURCHASES)
    assert (view.cron, view.time_zone, view.jitter_minutes) == ("30 2 * * 0", "UTC", 0)
    assert view.inherited == ("time_zone",)
    assert view.next_starts[0] == day(2024, 5, 26, 2, 30)
    assert view_of(session, alder, Workflow.EVENTS).cron == "0 * * * *"


def test_time_zone_of_a_collection_applies_in_both_nights(session: Session, alder: Collection) -> None:
    override = ScheduleOverride(cron="30 2 * * *", time_zone="Europe/Berlin", jitter_minutes=0)
    with travel_to(day(2024, 10, 25, 12)):
        autumn = set_schedule(session, ANN, alder, Workflow.PURCHASES, override)
    assert [f"{each:%d %H:%M}" for each in autumn.next_starts[:3]] == ["26 00:30", "27 00:30", "28 01:30"]
    with travel_to(day(2024, 3, 29, 12)):
        spring = preview_schedule(session, alder, Workflow.PURCHASES, override)
    assert [f"{each:%d %H:%M}" for each in spring.next_starts[:3]] == ["30 01:30", "31 01:00", "01 00:30"]


def test_change_is_recorded_in_the_audit_log(session: Session, alder: Collection) -> None:
    set_schedule(session, ANN, alder, Workflow.EVENTS, ScheduleOverride(cron="0 3 * * *"))
    (entry,) = audit_entries(session, AuditFilter(action="collection.set_schedule"), limit=2)
    assert (entry.actor, entry.subject) == ("ann", "Alder Library")
    assert entry.details == {"workflow": "events", "cron": "0 3 * * *"}


def test_preview_changes_nothing(session: Session, alder: Collection) -> None:
    before = view_of(session, alder, Workflow.EVENTS)
    preview = preview_schedule(session, alder, Workflow.EVENTS, ScheduleOverride(cron="0 3 * * *"))
    assert preview.cron == "0 3 * * *"
    assert view_of(session, alder, Workflow.EVENTS) == before


@pytest.mark.parametrize(
    ("workflow", "override", "error"),
    [
        (Workflow.VERIFICATION, ScheduleOverride(), "The workflow verification has no schedule"),
        (Workflow.EVENTS, ScheduleOverride(cron="0 4"), "The cron expression '0 4' is invalid"),
        (Workflow.EVENTS, ScheduleOverride(cron=""), "The cron expression '' is invalid"),
        (Workflow.EVENTS, ScheduleOverride(time_zone="Mars"), "'Mars' is not a time zone"),
        (Workflow.EVENTS, ScheduleOverride(time_zone=""), "'' is not a time zone"),
        (Workflow.EVENTS, ScheduleOverride(jitter_minutes=-1), "enter 0 to 1440 minutes"),
        (Workflow.EVENTS, ScheduleOverride(jitter_minutes=1441), "enter 0 to 1440 minutes"),
    ],
)
def test_invalid_schedule_is_rejected(
    workflow: Workflow, override: ScheduleOverride, error: str, session: Session, alder: Collection
) -> None:
    with pytest.raises(InvalidInput, match=error):
        set_schedule(session, ANN, alder, workflow, override)


def test_new_time_that_has_passed_today_starts_tomorrow(
    session: Session, alder: Collection, no_jitter: None
) -> None:
    assert (alder.id, "purchases") in take(day(2024, 5, 21, 4))
    with travel_to(day(2024, 5, 21, 9)):
        set_schedule(session, ANN, alder, Workflow.PURCHASES, ScheduleOverride(cron="0 8 * * *"))
        session.commit()
    assert (alder.id, "purchases") not in take(day(2024, 5, 22, 7, 59))
    assert (alder.id, "purchases") in take(day(2024, 5, 22, 8))


# What is due


def test_run_is_due_once_at_its_time(alder: Collection, no_jitter: None) -> None:
    assert take(day(2024, 5, 20, 12, 59)) == []
    assert take(day(2024, 5, 20, 13)) == [(alder.id, "events")]
    assert take(day(2024, 5, 20, 13)) == []
    assert take(day(2024, 5, 20, 13, 1)) == []
    assert take(day(2024, 5, 20, 14)) == [(alder.id, "events")]


def test_missed_runs_are_made_up_for_once(alder: Collection, no_jitter: None) -> None:
    """Neither beat nor a worker ran for three days."""
    assert take(day(2024, 5, 23, 9, 30)) == [
        (alder.id, "events"),
        (alder.id, "purchases"),
        (alder.id, "circulation"),
    ]
    assert take(day(2024, 5, 23, 9, 31)) == []
    assert take(day(2024, 5, 23, 10)) == [(alder.id, "events")]


def test_first_run_is_due_after_the_collection_was_added(session: Session, no_jitter: None) -> None:
    collection = add_at(session, "Birch", day(2024, 5, 20, 4, 1))
    assert take(day(2024, 5, 20, 4, 30)) == []
    assert take(day(2024, 5, 21, 4)) == [
        (collection.id, "events"),
        (collection.id, "circulation"),
        (collection.id, "purchases"),
    ]


def test_collection_marked_for_deletion_has_nothing_due(session: Session, alder: Collection) -> None:
    mark_for_deletion(alder)
    session.commit()
    assert take(day(2024, 5, 23)) == []


def test_paused_workflow_is_due_when_the_pause_ends(
    session: Session, alder: Collection, no_jitter: None
) -> None:
    key = (alder.id, Workflow.EVENTS)
    store_pauses(session, [key], reason="maintenance", until=None, stopped=set())
    session.commit()
    assert take(day(2024, 5, 20, 18)) == []
    delete_pauses(session, [alder.id], [Workflow.EVENTS])
    session.commit()
    assert take(day(2024, 5, 20, 19, 30)) == [(alder.id, "events")]


def test_second_starter_has_nothing_due_meanwhile(alder: Collection, no_jitter: None) -> None:
    """Two schedulers publish the task, and two workers process it."""
    with travel_to(day(2024, 5, 20, 13)), transaction() as session:
        assert len(take_due_starts(session)) == 1
        assert take(day(2024, 5, 20, 13)) == []
    assert take(day(2024, 5, 20, 13)) == []


def test_starter_that_fails_leaves_its_runs_due(session: Session, alder: Collection, no_jitter: None) -> None:
    with travel_to(day(2024, 5, 20, 13)):
        assert len(take_due_starts(session)) == 1
    session.rollback()
    assert take(day(2024, 5, 20, 13)) == [(alder.id, "events")]


def test_missed_runs_are_started_in_parts_after_an_outage(session: Session) -> None:
    for n in range(5):
        add_at(session, f"Library{n}", ADDED)
    outage_end = day(2024, 5, 23, 9, 30)
    numbers = [len(take(outage_end + timedelta(minutes=minute))) for minute in range(2)]
    assert numbers == [10, 5]


def test_another_collection_of_the_account_repeats_no_start(session: Session, alder: Collection) -> None:
    """It changes the delay of the others; what has been started today is not started again."""
    times = [day(2024, 5, 21, 4) + timedelta(minutes=5 * n) for n in range(12)]
    started = [key for at in times[:8] for key in take(at) if key[1] == "purchases"]
    add_at(session, "Alder Branch", day(2024, 5, 21, 4, 37))
    started += [key for at in times[8:] for key in take(at) if key[1] == "purchases"]
    assert started.count((alder.id, "purchases")) == 1


# What is shown


def test_status_and_health_show_the_next_start(session: Session, alder: Collection, no_jitter: None) -> None:
    expected = {
        "purchases": day(2024, 5, 21, 4),
        "events": day(2024, 5, 20, 13),
        "circulation": day(2024, 5, 21, 5),
    }
    with travel_to(day(2024, 5, 20, 12, 30)):
        assert {view.workflow: view.next_start for view in status_views(session)} == expected
        (health,) = collection_health(session)
    assert {each.workflow: each.next_start for each in health.workflows} == expected


def test_health_follows_the_schedule_of_the_collection(
    session: Session, alder: Collection, no_jitter: None
) -> None:
    """A weekly run does not count as missing after a day."""
    with travel_to(ADDED):
        for workflow in SCHEDULED_WORKFLOWS:
            set_schedule(session, ANN, alder, workflow, ScheduleOverride(cron="0 4 * * 0"))
    with travel_to(day(2024, 5, 26, 5, 59)):
        assert collection_health(session)[0].health is HealthState.NEW
    with travel_to(day(2024, 5, 26, 6, 1)):
        assert collection_health(session)[0].health is HealthState.FAILING
