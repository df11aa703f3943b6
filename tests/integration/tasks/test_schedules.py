"""The task that starts due runs: each once, and processed to its end."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from accession.core.settings import get_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS
from accession.db.models import Collection
from tests.fixtures.broker import Broker
from tests.fixtures.factories import day, run_concurrently
from tests.fixtures.stored import all_runs
from tests.fixtures.workers import ObservedVendor, travel_to

FOUR_OCLOCK = day(2014, 1, 4, 4)


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    for workflow in SCHEDULED_WORKFLOWS:
        monkeypatch.setattr(get_settings(), f"{workflow}_jitter_minutes", 0)


@pytest.fixture
def up_to_date(collection: Collection, session: Session, broker: Broker) -> None:
    """The collection was added on 3 January, and all workflows were started by their schedules."""
    collection.created_at = day(2014, 1, 3)
    session.commit()
    with travel_to(day(2014, 1, 3, 5)):
        assert start_due() == 3
    broker.clear()


def start_due() -> int:
    from accession.tasks.schedules import start_due_runs

    started: int = start_due_runs()
    return started


@pytest.mark.parametrize(
    ("now", "workflows"),
    [
        (day(2014, 1, 3, 5, 59), []),
        (day(2014, 1, 3, 6), ["events"]),
        (FOUR_OCLOCK, ["events", "purchases"]),
        (FOUR_OCLOCK + timedelta(hours=1), ["circulation", "events", "purchases"]),
    ],
)
def test_due_runs_are_queued_once(
    now: datetime, workflows: list[str], up_to_date: None, broker: Broker
) -> None:
    with travel_to(now):
        assert [start_due(), start_due()] == [len(workflows), 0]
    queued = all_runs()[3:]
    assert sorted(run.workflow for run in queued) == workflows
    assert [message.id for message in broker.messages()] == [run.task_id for run in queued]


def test_due_runs_are_queued_once_by_concurrent_tasks(up_to_date: None, broker: Broker) -> None:
    """Two schedulers publish the task at the same time."""
    with travel_to(FOUR_OCLOCK):
        run_concurrently(start_due, start_due, start_due)
    assert sorted(run.workflow for run in all_runs()[3:]) == ["events", "purchases"]


def test_scheduled_run_succeeds(
    collection: Collection, session: Session, vendor: ObservedVendor, broker: Broker
) -> None:
    collection.created_at = day(2014, 1, 3)
    session.commit()
    with travel_to(day(2014, 1, 3, 5)):
        assert start_due() == 3
        broker.deliver_all()
    assert {(run.workflow, run.state) for run in all_runs()} == {
        (workflow.value, "succeeded") for workflow in SCHEDULED_WORKFLOWS
    }


def test_run_whose_message_is_lost_is_published_again(up_to_date: None, broker: Broker) -> None:
    from accession.tasks.recovery import resume_lost_work

    with travel_to(day(2014, 1, 3, 6)):
        start_due()
        (message,) = broker.messages()
        broker.clear()
        resume_lost_work()
        assert message.id in [each.id for each in broker.messages()]
        assert start_due() == 0
