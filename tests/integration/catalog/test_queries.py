"""What status and listings show."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import delete, text
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog import titles as titles_module
from accession.catalog.apply import apply_titles, put_in_outbox
from accession.catalog.data import LinkData
from accession.catalog.outbox import count_pending_applies
from accession.catalog.purchase_records import PurchaseDate, StoredRecord, store_purchase_records
from accession.catalog.rejected_records import Rejection, keep_rejected, reject_views
from accession.catalog.titles import TitleView, count_titles, title_views
from accession.catalog.written_rows import rows_written_since, write_mark
from accession.core.errors import UserError
from accession.core.vocabulary import Format, LinkRel, Medium, Role
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, Collection, LicensePool, Run, RunState
from accession.runs.ledger import (
    LEASE,
    Counters,
    end_run,
    find_run,
    note_retry,
    open_run,
    queue_runs,
    record_page,
    timestamp,
)
from accession.runs.views import RunView, StatusView, run_view, run_views, status_views
from tests.fixtures.factories import NOON, day, make_collection, make_pool, person, subject, title_data

PURCHASES = Workflow.PURCHASES
BEGINNINGS: dict[Workflow, dict[str, Any]] = {
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


def start(session: Session, collection: Collection, task_id: str = "task-1") -> Run:
    open_run(session, collection.id, PURCHASES, task_id, CURSOR)
    run = find_run(session, task_id)
    assert run is not None
    return run


def store(session: Session, collection: Collection, name: str, **said: Any) -> LicensePool:
    pool = make_pool(session, collection, name)
    apply_titles(session, {pool.id: title_data(name, **said)})
    session.commit()
    return pool


def purchases_of(views: Sequence[StatusView]) -> list[StatusView]:
    return [view for view in views if view.workflow == "purchases"]


def titles(session: Session, **arguments: Any) -> list[str]:
    return [view.identifier for view in title_views(session, **arguments)]


# Status


def test_a_collection_that_was_never_imported_says_so(session: Session, collection: Collection) -> None:
    assert status_views(session) == [
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
            applies_pending=0,
            started_at=None,
            finished_at=None,
            error=None,
        )
        for workflow in ("purchases", "events", "circulation")
    ]


def test_a_run_at_work_shows_where_it_is_and_what_it_has_done(
    session: Session, collection: Collection
) -> None:
    with time_machine.travel(NOON, tick=False):
        run = start(session, collection)
        record_page(run, Counters(50, 48, 2, 47, 1), since=day(2016, 5, 1), next_cursor=CURSOR)
    timestamp(session, collection, PURCHASES).finish = day(2016, 5, 1)
    put_in_outbox(session, [(make_pool(session, collection, name), title_data(name)) for name in ("a", "b")])
    session.commit()

    with time_machine.travel(NOON, tick=False):
        view, *_ = status_views(session)

    assert view == StatusView(
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
        applies_pending=2,
        started_at=NOON,
        finished_at=None,
        error=None,
    )


def test_a_run_that_meets_a_fault_is_retrying(session: Session, collection: Collection) -> None:
    note_retry(start(session, collection), "the vendor did not answer", retry=1)

    view, *_ = status_views(session)

    assert (view.state, view.error) == ("retrying", "the vendor did not answer")


def test_a_run_silent_for_longer_than_its_lease_counts_as_interrupted(
    session: Session, collection: Collection
) -> None:
    with time_machine.travel(NOON, tick=False):
        start(session, collection)
        session.commit()
    with time_machine.travel(NOON + LEASE, tick=False):
        assert status_views(session)[0].state == "running"
    with time_machine.travel(NOON + LEASE + timedelta(seconds=1), tick=False):
        assert status_views(session)[0].state == run_views(session)[0].state == "interrupted"


@pytest.mark.parametrize(
    ("state", "error"), [(RunState.FAILED, "the vendor refused the credentials"), (RunState.SUCCEEDED, None)]
)
def test_a_run_that_has_ended_stays_as_it_ended_however_long_ago(
    session: Session, collection: Collection, state: RunState, error: str | None
) -> None:
    with time_machine.travel(NOON, tick=False):
        end_run(start(session, collection), state, error)
        session.commit()

    view, *_ = status_views(session)

    assert (view.state, view.error, view.finished_at, view.cursor) == (state.value, error, NOON, None)


def test_status_is_of_the_latest_run_of_each_collection_in_use_by_name(
    session: Session, collection: Collection
) -> None:
    end_run(start(session, collection, "old"), RunState.FAILED, "once")
    start(session, collection, "new")
    make_collection(session, "Aa Library")
    mark_for_deletion(make_collection(session, "Gone Library"))
    session.commit()

    assert [(view.collection, view.state, view.error) for view in purchases_of(status_views(session))] == [
        ("Aa Library", "never", None),
        ("Alder Library", "running", None),
    ]


def test_a_run_that_waits_to_begin_is_shown_unless_another_is_at_work(
    session: Session, collection: Collection
) -> None:
    end_run(start(session, collection, "ended"), RunState.FAILED)
    queue_runs(session, PURCHASES, {collection.id: "waits"}, CURSOR)
    assert purchases_of(status_views(session))[0].state == "queued"

    start(session, collection, "at work")
    queue_runs(session, PURCHASES, {collection.id: "waits, too"}, CURSOR)

    assert purchases_of(status_views(session))[0].state == "running"
    assert [view.state for view in run_views(session)] == ["queued", "running", "queued", "failed"]


def test_pending_applies_are_each_collections_own(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    put_in_outbox(session, [(make_pool(session, collection, name), title_data(name)) for name in ("a", "b")])
    put_in_outbox(session, [(make_pool(session, other, "a"), title_data("a"))])

    assert (count_pending_applies(session, collection.id), count_pending_applies(session, other.id)) == (2, 1)
    assert [view.applies_pending for view in purchases_of(status_views(session))] == [2, 1]

    session.execute(delete(ApplyOutbox))
    assert count_pending_applies(session, collection.id) == 0


# Runs


def test_runs_come_newest_first(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    with time_machine.travel(NOON, tick=False):
        for n, owner in enumerate([collection, other, collection]):
            end_run(start(session, owner, f"task-{n}"), RunState.FAILED, f"error {n}")
    session.commit()

    assert [view.error for view in run_views(session)] == ["error 2", "error 1", "error 0"]
    assert [view.error for view in run_views(session, limit=2)] == ["error 2", "error 1"]
    assert [view.error for view in run_views(session, collection="Birch Library")] == ["error 1"]
    assert run_views(session, collection="Nobody") == []


def test_a_run_is_shown_with_all_its_figures(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON, tick=False):
        run = start(session, collection)
        record_page(run, Counters(50, 48, 2, 47, 1, repairs=3), since=day(2016, 5, 1), next_cursor=CURSOR)
        (view,) = run_views(session)

    assert view == RunView(
        id=run.id,
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
        started_at=NOON,
        updated_at=NOON,
        finished_at=None,
        error=None,
    )


def test_runs_are_chosen_by_workflow_and_state_and_read_page_by_page(
    session: Session, collection: Collection
) -> None:
    with time_machine.travel(NOON, tick=False):
        for n, workflow in enumerate([*Workflow, *Workflow]):
            open_run(session, collection.id, workflow, f"task-{n}", BEGINNINGS[workflow])
    session.commit()
    ids = [view.id for view in run_views(session)]

    def found(**chosen: Any) -> list[int]:
        with time_machine.travel(NOON + LEASE, tick=False):
            return [view.id for view in run_views(session, **chosen)]

    assert found(workflow="events") == [ids[1], ids[4]]
    assert found(state="running") == ids[:3]
    assert found(state="interrupted", workflow="purchases") == [ids[5]]
    assert found(state="failed") == []
    assert found(limit=4) == ids[:4]
    assert found(before_id=ids[3]) == ids[4:]
    assert found(before_id=ids[0], state="interrupted", limit=2) == ids[3:5]


@pytest.mark.parametrize("state", [*RunState])
def test_runs_are_found_by_the_state_that_they_are_shown_in(
    session: Session, collection: Collection, state: RunState
) -> None:
    """Also those that have been silent for longer than their lease, and are shown as interrupted."""
    for age in (0, 3):
        for each in RunState:
            run = start(session, make_collection(session, f"{each} {age}"), f"{each} {age}")
            run.state, run.updated_at = each.value, run.updated_at - timedelta(hours=age)
    session.commit()

    found = run_views(session, state=state)

    assert found == [view for view in run_views(session) if view.state == state]
    assert len(found) == {"running": 1, "retrying": 1, "interrupted": 4}.get(state, 2)


def test_one_run_is_shown_by_its_number(session: Session, collection: Collection) -> None:
    run = start(session, collection)
    session.commit()

    assert [run_view(session, run.id)] == run_views(session)
    with pytest.raises(UserError, match=r"^There is no run 4711: see `accession runs list`\.$"):
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
    ],
)
def test_the_cursor_shows_where_a_run_of_its_workflow_is_and_no_more(
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
    assert status == dict.fromkeys(Workflow) | {workflow: shown}


# Titles


def test_a_title_is_shown_with_all_that_is_known_of_it(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "solaris")
    for n in (7, 3, 5):
        bought = PurchaseDate(date(2016, 5, n))
        store_purchase_records(session, bought, [StoredRecord(pool, lambda: b"marc", "hash")])
    with time_machine.travel(NOON, tick=False):
        apply_titles(
            session,
            {
                pool.id: title_data(
                    "solaris",
                    title="Solaris",
                    subtitle="Powieść",
                    contributors=(
                        person("Lem, Stanisław"),
                        person("Reader, Rita", Role.NARRATOR),
                        person("Abel, A"),
                        person("Lem, Stanisław", Role.NARRATOR),
                    ),
                    published="1961-06-01",
                    isbns=("9788308068298", "9780156027601"),
                    subjects=(subject("Z"), subject("A")),
                    links=(
                        LinkData(rel=LinkRel.THUMBNAIL, href="https://images.example/small"),
                        LinkData(rel=LinkRel.COVER, href="https://images.example/1"),
                    ),
                    description="A planet thinks.",
                    page_count=204,
                    duration_ms=3_600_000,
                    medium=Medium.AUDIOBOOK,
                    format=Format.MP3,
                    licenses_owned=5,
                    licenses_available=3,
                    licenses_reserved=0,
                    patrons_in_hold_queue=2,
                )
            },
        )

    assert list(title_views(session)) == [
        TitleView(
            collection="Alder Library",
            identifier="solaris",
            title="Solaris",
            subtitle="Powieść",
            authors=("Stanisław Lem", "A Abel"),
            narrators=("Rita Reader", "Stanisław Lem"),
            medium="audiobook",
            format="mp3",
            language="pol",
            publisher="Wydawnictwo",
            published="1961-06-01",
            isbns=("9788308068298", "9780156027601"),
            subjects=("Z", "A"),
            page_count=204,
            duration_ms=3_600_000,
            description="A planet thinks.",
            cover_url="https://images.example/1",
            licenses_owned=5,
            licenses_available=3,
            licenses_reserved=0,
            patrons_in_hold_queue=2,
            status="active",
            purchased_on="2016-05-03",
            updated_at=NOON,
        )
    ]


def test_a_title_without_a_description_is_shown_all_the_same(
    session: Session, collection: Collection
) -> None:
    pool = make_pool(session, collection, "bare")
    store(session, collection, "described")

    bare, described = title_views(session)

    assert (bare.identifier, bare.title, bare.authors, bare.isbns, bare.subjects) == (
        "bare",
        None,
        (),
        (),
        (),
    )
    assert (bare.cover_url, bare.purchased_on, bare.status, bare.updated_at) == (
        None,
        None,
        "unknown",
        pool.updated_at,
    )
    assert described.title == "Title described"


def test_a_title_was_updated_when_its_description_or_its_counts_were(
    session: Session, collection: Collection
) -> None:
    with time_machine.travel(NOON, tick=False):
        pool = store(session, collection, "abc")
    changes: list[dict[str, Any]] = [{"licenses_owned": 9}, {"licenses_owned": 9, "title": "New"}]
    for n, change in enumerate(changes, start=1):
        with time_machine.travel(NOON + timedelta(days=n), tick=False):
            apply_titles(session, {pool.id: title_data("abc", as_of=NOON + timedelta(days=n), **change)})
        assert next(title_views(session)).updated_at == NOON + timedelta(days=n)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 1000])
def test_titles_come_in_the_order_of_their_import_whatever_the_size_of_a_batch(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    names = [f"t{n}" for n in (4, 2, 5, 1, 6, 3)]
    for name in names:
        store(session, collection, name, contributors=(person(f"Author {name}, X"),))
    monkeypatch.setattr(titles_module, "_BATCH", batch)

    assert titles(session) == names
    assert [view.authors for view in title_views(session)] == [(f"X Author {name}",) for name in names]
    for limit in range(8):
        assert titles(session, limit=limit) == names[:limit]


def test_titles_are_chosen_by_collection_and_identifier(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    for owner, name in ((collection, "a"), (collection, "b"), (other, "a")):
        store(session, owner, name)

    assert titles(session, collection="Alder Library") == ["a", "b"]
    assert titles(session, collection="Nobody") == []
    found = list(title_views(session, identifiers=["a"]))
    assert [view.collection for view in found] == ["Alder Library", "Birch Library"]
    assert titles(session, collection="Birch Library", identifiers=["a"]) == ["a"]
    assert titles(session, identifiers=["c"]) == []


def test_titles_of_a_collection_marked_for_deletion_are_not_shown_and_not_counted(
    session: Session, collection: Collection
) -> None:
    other = make_collection(session, "Birch Library")
    for owner, name in ((collection, "a"), (other, "a"), (other, "b")):
        store(session, owner, name)
    assert (count_titles(session), count_titles(session, collection="Birch Library")) == (3, 2)

    mark_for_deletion(other)
    session.commit()

    assert titles(session) == ["a"]
    assert (count_titles(session), count_titles(session, collection="Birch Library")) == (1, 0)


def test_runs_and_rejected_records_of_a_collection_marked_for_deletion_are_not_shown(
    session: Session, collection: Collection
) -> None:
    """Its account may be gone, and its name may be another's by now."""
    for owner, task_id in ((make_collection(session, "Birch Library"), "b"), (collection, "a")):
        open_run(session, owner.id, PURCHASES, task_id, CURSOR)
        keep_rejected(
            session, owner, PurchaseDate(date(2016, 5, 1)), [Rejection(task_id, "<record/>", task_id)]
        )
        mark_for_deletion(owner)
        session.commit()
        assert (run_views(session), reject_views(session)) == ([], [])


# Rejected records


def test_rejected_records_come_oldest_first_and_resolved_ones_on_request(
    session: Session, collection: Collection
) -> None:
    other = make_collection(session, "Birch Library")
    with time_machine.travel(NOON, tick=False):
        keep_rejected(
            session, collection, PurchaseDate(date(2016, 5, 1)), [Rejection("one", "<record/>", "1")]
        )
        keep_rejected(session, other, PurchaseDate(date(2014, 1, 1)), [Rejection("two", "<record/>", "2")])
        keep_rejected(
            session, collection, PurchaseDate(date(2015, 1, 1)), [Rejection("three", "<record/>", "3")]
        )
    session.execute(text("UPDATE rejected_records SET resolved_at = created_at WHERE reason = 'one'"))

    assert [view.reason for view in reject_views(session)] == ["two", "three"]
    assert [view.reason for view in reject_views(session, with_resolved=True)] == ["one", "two", "three"]
    assert [view.reason for view in reject_views(session, collection="Alder Library")] == ["three"]
    assert [view.reason for view in reject_views(session, with_resolved=True, limit=2)] == ["one", "two"]
    assert [view.reason for view in reject_views(session, with_resolved=True, limit=2, offset=1)] == (
        ["two", "three"]
    )
    (first, *_) = reject_views(session, with_resolved=True)
    assert (first.collection, first.purchased_on) == ("Alder Library", "2016-05-01")
    assert first.created_at == first.resolved_at == NOON


# What was written


def test_nothing_written_is_no_rows(session: Session, collection: Collection) -> None:
    pool = store(session, collection, "abc")
    mark = write_mark(session)
    session.commit()

    apply_titles(session, {pool.id: title_data("abc")})
    start(session, collection)
    session.commit()

    assert rows_written_since(session, mark) == 0


def test_rows_that_were_added_changed_or_deleted_count_as_written(
    session: Session, collection: Collection
) -> None:
    pool = store(session, collection, "abc")
    mark = write_mark(session)
    session.commit()
    make_pool(session, collection, "other")
    assert rows_written_since(session, mark) == 2
    session.commit()

    mark = write_mark(session)
    session.commit()
    apply_titles(session, {pool.id: title_data("abc", licenses_owned=9)})
    # The pool, and that it changed.
    assert rows_written_since(session, mark) == 2
    session.commit()

    mark = write_mark(session)
    session.commit()
    session.execute(text("DELETE FROM links"))
    assert rows_written_since(session, mark) == 1
