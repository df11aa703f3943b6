"""Samples and retries of runs."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

import pytest
import time_machine
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Collection, Run, RunRetry, RunSample, RunState
from accession.runs.ledger import RunCounters, end_run, find_run, open_run, record_retry, record_step
from accession.runs.samples import RunRetryView, RunSampleView, run_retries, run_samples
from tests.fixtures.factories import NOON

SECOND = timedelta(seconds=1)
PAGE = RunCounters(records_fetched=50, records_stored=50)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """A clock that stands still at noon and is moved by the test."""
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.fixture
def run(session: Session, collection: Collection, clock: time_machine.Traveller) -> Run:
    open_run(session, collection.id, Workflow.PURCHASES, "task-1", {"offset": 1})
    run = find_run(session, "task-1")
    assert run is not None
    return run


def record_page(run: Run, *, last: bool = False) -> None:
    record_step(run, PAGE, since=None, next_cursor=None if last else {"offset": 51})


def test_run_shorter_than_a_second_has_no_samples(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    for _ in range(3):
        clock.shift(SECOND / 4)
        record_page(run)
    record_page(run, last=True)
    session.commit()

    assert run_samples(session, run.id) == []


def test_run_is_sampled_every_second_and_at_its_end(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    for _ in range(5):
        clock.shift(SECOND / 2)
        record_page(run)
    record_page(run, last=True)
    session.commit()

    assert run_samples(session, run.id) == [
        RunSampleView(NOON + SECOND, 2, 100),
        RunSampleView(NOON + 2 * SECOND, 4, 200),
        RunSampleView(NOON + 2.5 * SECOND, 6, 300),
    ]


def test_final_sample_replaces_one_of_the_same_time(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    clock.shift(SECOND)
    record_page(run)
    record_page(run, last=True)
    session.commit()

    assert run_samples(session, run.id) == [RunSampleView(NOON + SECOND, 2, 100)]


def test_failed_run_is_sampled_at_its_end(session: Session, run: Run, clock: time_machine.Traveller) -> None:
    clock.shift(SECOND)
    record_page(run)
    clock.shift(SECOND / 2)
    end_run(run, RunState.FAILED, "the vendor refused")
    session.commit()

    assert [sample.at for sample in run_samples(session, run.id)] == [NOON + SECOND, NOON + 1.5 * SECOND]


def test_samples_of_a_long_run_grow_logarithmically(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    for _ in range(2880):
        clock.shift(30 * SECOND)
        record_page(run)
    session.commit()

    since = [sample.at - NOON for sample in run_samples(session, run.id)]
    assert 300 < len(since) < 700
    assert all(now - last >= now / 100 for last, now in pairwise(since))


def test_retries_keep_their_reasons_after_success(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    for retry, reason in enumerate(("The vendor is unavailable.", "The document ends early."), start=1):
        clock.shift(SECOND)
        record_retry(run, reason, retry=retry)
    record_page(run, last=True)
    session.commit()

    assert run_retries(session, run.id) == [
        RunRetryView(NOON + SECOND, 1, "The vendor is unavailable."),
        RunRetryView(NOON + 2 * SECOND, 2, "The document ends early."),
    ]
    assert run.error is None


def test_samples_and_retries_are_deleted_with_their_run(
    session: Session, collection: Collection, run: Run, clock: time_machine.Traveller
) -> None:
    clock.shift(SECOND)
    record_page(run)
    record_retry(run, "The vendor is unavailable.", retry=1)
    session.commit()
    assert (run_samples(session, 4711), run_retries(session, 4711)) == ([], [])

    session.execute(delete(Run))

    for table in (RunRetry, RunSample):
        assert session.scalar(select(func.count()).select_from(table)) == 0
