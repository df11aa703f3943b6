"""Views of runs and of the status of each collection's workflows."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.outbox import enqueue_changes
from accession.core.errors import UserError
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection, Run, RunState
from accession.runs.ledger import (
    LEASE,
    RunCounters,
    end_run,
    find_run,
    get_or_create_checkpoint,
    open_run,
    queue_runs,
    record_retry,
    record_step,
)
from accession.runs.views import RunView, StatusView, run_view, run_views, status_views
from tests.fixtures.factories import NOON, day, make_collection, make_pool, title_data

PURCHASES = Workflow.PURCHASES
FIRST_CURSORS: dict[Workflow, dict[str, Any]] = {
    Workflow.PURCHASES: {"current_day": None, "offset": 1},
    Workflow.EVENTS: {"start": None},
    Workflow.CIRCULATION: {"offset": None},
}
CURSOR = {
    "current_day": "2016-05-01T00:00:00+00:00",
    "offset": 51,
    "reset_timestamp": False,
    "previous_page": "f",
}


def start_run(session: Session, collection: Collection, task_id: str = "task-1") -> Run:
    open_run(session, collection.id, PURCHASES, task_id, CURSOR)
    run = find_run(session, task_id)
    assert run is not None
    return run


def purchase_views(views: Sequence[StatusView]) -> list[StatusView]:
    return [view for view in views if view.workflow == "purchases"]


def test_status_without_runs_is_never(session: Session, collection: Collection) -> None:
    assert [replace(view, next_start=None) for view in status_views(session)] == [
        StatusView(
            collection="Alder Library",
            workflow=workflow,
            state="never",
            checkpoint=None,
            cursor=None,
            pages=0,
            records_fetched=0,
            records_rejected=0,
            titles_new=0,
            titles_changed=0,
            pending_updates=0,
            started_at=None,
            finished_at=None,
            error=None,
        )
        for workflow in ("purchases", "events", "circulation")
    ]


def test_status_of_running_run_shows_cursor_and_counters(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON, tick=False):
        run = start_run(session, collection)
        record_step(run, RunCounters(50, 48, 2, 47, 1), since=day(2016, 5, 1), next_cursor=CURSOR)
    get_or_create_checkpoint(session, collection, PURCHASES).finish = day(2016, 5, 1)
    enqueue_changes(
        session, [(make_pool(session, collection, name), title_data(name)) for name in ("a", "b")]
    )
    session.commit()

    with time_machine.travel(NOON, tick=False):
        view, *_ = status_views(session)

    assert replace(view, next_start=None) == StatusView(
        collection="Alder Library",
        workflow="purchases",
        state="running",
        checkpoint=day(2016, 5, 1),
        cursor={"current_day": "2016-05-01T00:00:00+00:00", "offset": 51},
        pages=1,
        records_fetched=50,
        records_stored=48,
        records_rejected=2,
        titles_new=47,
        titles_changed=1,
        pending_updates=2,
        started_at=NOON,
        finished_at=None,
        error=None,
    )


def test_status_after_fault_is_retrying(session: Session, collection: Collection) -> None:
    record_retry(start_run(session, collection), "the vendor did not answer", retry=1)

    view, *_ = status_views(session)

    assert (view.state, view.error) == ("retrying", "the vendor did not answer")


def test_run_without_update_after_lease_is_interrupted(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON, tick=False):
        start_run(session, collection)
        session.commit()
    with time_machine.travel(NOON + LEASE, tick=False):
        assert status_views(session)[0].state == "running"
    with time_machine.travel(NOON + LEASE + timedelta(seconds=1), tick=False):
        assert status_views(session)[0].state == run_views(session)[0].state == "interrupted"


@pytest.mark.parametrize(
    ("state", "error"), [(RunState.FAILED, "the vendor refused the credentials"), (RunState.SUCCEEDED, None)]
)
def test_ended_run_keeps_its_state_after_lease(
    session: Session, collection: Collection, state: RunState, error: str | None
) -> None:
    with time_machine.travel(NOON, tick=False):
        end_run(start_run(session, collection), state, error)
        session.commit()

    view, *_ = status_views(session)

    assert (view.state, view.error, view.finished_at, view.cursor) == (state.value, error, NOON, None)


def test_status_shows_latest_run_per_collection_by_name(session: Session, collection: Collection) -> None:
    end_run(start_run(session, collection, "old"), RunState.FAILED, "error")
    start_run(session, collection, "new")
    make_collection(session, "Aa Library")
    mark_for_deletion(make_collection(session, "Deleted Library"))
    session.commit()

    assert [(view.collection, view.state, view.error) for view in purchase_views(status_views(session))] == [
        ("Aa Library", "never", None),
        ("Alder Library", "running", None),
    ]


def test_status_prefers_running_run_to_queued_run(session: Session, collection: Collection) -> None:
    end_run(start_run(session, collection, "ended"), RunState.FAILED)
    queue_runs(session, PURCHASES, {collection.id: "queued"}, CURSOR)
    assert purchase_views(status_views(session))[0].state == "queued"

    start_run(session, collection, "running")
    queue_runs(session, PURCHASES, {collection.id: "queued again"}, CURSOR)

    assert purchase_views(status_views(session))[0].state == "running"
    assert [view.state for view in run_views(session)] == ["queued", "running", "queued", "failed"]


def test_pending_changes_are_counted_per_collection(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    enqueue_changes(
        session, [(make_pool(session, collection, name), title_data(name)) for name in ("a", "b")]
    )
    enqueue_changes(session, [(make_pool(session, other, "a"), title_data("a"))])

    assert [view.pending_updates for view in purchase_views(status_views(session))] == [2, 1]


def test_runs_are_listed_newest_first(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    with time_machine.travel(NOON, tick=False):
        for n, owner in enumerate([collection, other, collection]):
            end_run(start_run(session, owner, f"task-{n}"), RunState.FAILED, f"error {n}")
    session.commit()

    assert [view.error for view in run_views(session)] == ["error 2", "error 1", "error 0"]
    assert [view.error for view in run_views(session, limit=2)] == ["error 2", "error 1"]
    assert [view.error for view in run_views(session, collection="Birch Library")] == ["error 1"]
    assert run_views(session, collection="Unknown Library") == []


def test_run_view_has_all_counters(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON, tick=False):
        run = start_run(session, collection)
        record_step(run, RunCounters(50, 48, 2, 47, 1, repairs=3), since=day(2016, 5, 1), next_cursor=CURSOR)
        (view,) = run_views(session)

    assert view == RunView(
        id=run.id,
        collection_id=collection.id,
        collection="Alder Library",
        workflow="purchases",
        state="running",
        cursor={"current_day": "2016-05-01T00:00:00+00:00", "offset": 51},
        pages=1,
        records_fetched=50,
        records_stored=48,
        records_rejected=2,
        titles_new=47,
        titles_changed=1,
        repairs=3,
        restarts=0,
        started_at=NOON,
        updated_at=NOON,
        finished_at=None,
        error=None,
        worker=None,
    )


def test_runs_are_filtered_and_paged(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON, tick=False):
        for n, workflow in enumerate([*SCHEDULED_WORKFLOWS, *SCHEDULED_WORKFLOWS]):
            open_run(session, collection.id, workflow, f"task-{n}", FIRST_CURSORS[workflow])
    session.commit()
    ids = [view.id for view in run_views(session)]

    def list_ids(**filters: Any) -> list[int]:
        with time_machine.travel(NOON + LEASE, tick=False):
            return [view.id for view in run_views(session, **filters)]

    assert list_ids(workflow="events") == [ids[1], ids[4]]
    assert list_ids(state="running") == ids[:3]
    assert list_ids(state="interrupted", workflow="purchases") == [ids[5]]
    assert list_ids(state="failed") == []
    assert list_ids(limit=4) == ids[:4]
    assert list_ids(before_id=ids[3]) == ids[4:]
    assert list_ids(before_id=ids[0], state="interrupted", limit=2) == ids[3:5]


@pytest.mark.parametrize("state", [*RunState])
def test_runs_are_filtered_by_the_state_shown(
    session: Session, collection: Collection, state: RunState
) -> None:
    """Runs without an update for longer than their lease are shown as interrupted."""
    for age in (0, 3):
        for each in RunState:
            run = start_run(session, make_collection(session, f"{each} {age}"), f"{each} {age}")
            run.state, run.updated_at = each.value, run.updated_at - timedelta(hours=age)
    session.commit()

    views = run_views(session, state=state)

    assert views == [view for view in run_views(session) if view.state == state]
    assert len(views) == {"running": 1, "retrying": 1, "interrupted": 4}.get(state, 2)


def test_run_is_found_by_id_while_collection_is_in_use(session: Session, collection: Collection) -> None:
    run = start_run(session, collection)
    session.commit()

    assert [run_view(session, run.id)] == run_views(session)
    with pytest.raises(UserError, match="There is no run 4711, or it was deleted because of its age"):
        run_view(session, 4711)

    mark_for_deletion(collection)
    session.commit()
    with pytest.raises(UserError, match="There is no run"):
        run_view(session, run.id)


@pytest.mark.parametrize(
    ("workflow", "expected_next", "shown"),
    [
        (
            Workflow.PURCHASES,
            {"current_day": None, "offset": 1, "reset_timestamp": False, "previous_page": None},
            {"current_day": None, "offset": 1},
        ),
        (
            Workflow.EVENTS,
            {"start": "2024-05-01T12:00:00+00:00", "slice_seconds": 600},
            {"start": "2024-05-01T12:00:00+00:00"},
        ),
        (Workflow.CIRCULATION, {"offset": 25}, {"offset": 25}),
        (
            Workflow.VERIFICATION,
            {"months": ["2024-05-01"], "total": 3, "start": "2024-05-01", "end": "2024-06-01"},
            {"start": "2024-05-01", "end": "2024-06-01"},
        ),
    ],
)
def test_view_shows_only_public_fields_of_the_cursor(
    session: Session,
    collection: Collection,
    workflow: Workflow,
    expected_next: dict[str, Any],
    shown: dict[str, Any],
) -> None:
    open_run(session, collection.id, workflow, "task-1", expected_next)

    (run,) = run_views(session)
    status = {view.workflow: view.cursor for view in status_views(session)}

    assert (run.workflow, run.cursor) == (workflow.value, shown)
    assert status == dict.fromkeys(SCHEDULED_WORKFLOWS) | {workflow: shown}


def test_runs_of_deleted_collections_are_not_listed(session: Session, collection: Collection) -> None:
    """A new collection may have the name of the deleted one."""
    for owner, task_id in ((make_collection(session, "Birch Library"), "b"), (collection, "a")):
        open_run(session, owner.id, PURCHASES, task_id, CURSOR)
        mark_for_deletion(owner)
        session.commit()
        assert run_views(session) == []
