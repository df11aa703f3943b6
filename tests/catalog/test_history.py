"""What has been: the course of a run, and purchases over time."""

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise

import pytest
import time_machine
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from accession.catalog.collections import mark_for_deletion
from accession.catalog.history import (
    MonthCount,
    RunRetry,
    RunSample,
    purchases_by_month,
    recent_purchases,
    run_retries,
    run_samples,
)
from accession.catalog.ledger import Counters, Workflow, end_run, find_run, note_retry, open_run, record_page
from accession.catalog.models import Collection, Retry, Run, RunState, Sample
from accession.catalog.records import PurchaseDate, StoredRecord, store_purchase_records
from tests.making import NOON, make_collection, make_pool

SECOND = timedelta(seconds=1)
PAGE = Counters(records_fetched=50, records_stored=50)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.fixture
def run(session: Session, collection: Collection, clock: time_machine.Traveller) -> Run:
    open_run(session, collection.id, Workflow.PURCHASES, "task-1", {"offset": 1})
    run = find_run(session, "task-1")
    assert run is not None
    return run


def page(run: Run, *, last: bool = False) -> None:
    record_page(run, PAGE, since=None, next_cursor=None if last else {"offset": 51})


# Runs


def test_a_short_run_has_no_samples(session: Session, run: Run, clock: time_machine.Traveller) -> None:
    for _ in range(3):
        clock.shift(SECOND / 4)
        page(run)
    page(run, last=True)
    session.commit()

    assert run_samples(session, run.id) == []


def test_a_run_is_sampled_once_a_second_and_at_its_end(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    for _ in range(5):
        clock.shift(SECOND / 2)
        page(run)
    page(run, last=True)
    session.commit()

    assert run_samples(session, run.id) == [
        RunSample(NOON + SECOND, 2, 100),
        RunSample(NOON + 2 * SECOND, 4, 200),
        RunSample(NOON + 2.5 * SECOND, 6, 300),
    ]


def test_an_end_at_the_moment_of_a_sample_takes_its_place(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    clock.shift(SECOND)
    page(run)
    page(run, last=True)
    session.commit()

    assert run_samples(session, run.id) == [RunSample(NOON + SECOND, 2, 100)]


def test_a_run_that_fails_is_sampled_at_its_end_too(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    clock.shift(SECOND)
    page(run)
    clock.shift(SECOND / 2)
    end_run(run, RunState.FAILED, "the vendor refused")
    session.commit()

    assert [sample.at for sample in run_samples(session, run.id)] == [NOON + SECOND, NOON + 1.5 * SECOND]


def test_a_run_of_a_day_has_a_few_hundred_samples_each_a_hundredth_after_the_last(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    for _ in range(2880):
        clock.shift(30 * SECOND)
        page(run)
    session.commit()

    since = [sample.at - NOON for sample in run_samples(session, run.id)]
    assert 300 < len(since) < 700
    assert all(now - last >= now / 100 for last, now in pairwise(since))


def test_retries_are_kept_with_their_reasons_after_the_page_is_done(
    session: Session, run: Run, clock: time_machine.Traveller
) -> None:
    for retry, reason in enumerate(("The vendor is away.", "The document ends early."), start=1):
        clock.shift(SECOND)
        note_retry(run, reason, retry=retry)
    page(run, last=True)
    session.commit()

    assert run_retries(session, run.id) == [
        RunRetry(NOON + SECOND, 1, "The vendor is away."),
        RunRetry(NOON + 2 * SECOND, 2, "The document ends early."),
    ]
    assert run.error is None


def test_what_is_kept_of_a_run_is_its_own_and_goes_with_it(
    session: Session, collection: Collection, run: Run, clock: time_machine.Traveller
) -> None:
    clock.shift(SECOND)
    page(run)
    note_retry(run, "The vendor is away.", retry=1)
    session.commit()
    assert (run_samples(session, 4711), run_retries(session, 4711)) == ([], [])

    session.execute(delete(Run))

    for table in (Retry, Sample):
        assert session.scalar(select(func.count()).select_from(table)) == 0


# Purchases


def buy(session: Session, collection: Collection, identifier: str, *days: date) -> None:
    pool = make_pool(session, collection, identifier)
    for day in days:
        store_purchase_records(session, PurchaseDate(day), [StoredRecord(pool, lambda: b"marc", "hash")])
    session.commit()


def test_purchases_are_counted_in_every_month_since_2014(
    session: Session, collection: Collection, clock: time_machine.Traveller
) -> None:
    buy(session, collection, "a", date(2014, 1, 31))
    buy(session, collection, "b", date(2014, 3, 1), date(2014, 3, 31), date(2014, 1, 1), date(2024, 5, 1))
    buy(session, collection, "c", date(2014, 4, 1))
    buy(session, make_collection(session, "Birch Library"), "a", date(2014, 2, 1))

    months = purchases_by_month(session, collection.id)

    assert months[:5] == [
        MonthCount(date(2014, 1, 1), purchases=2, titles=2),
        MonthCount(date(2014, 2, 1), purchases=0, titles=2),
        MonthCount(date(2014, 3, 1), purchases=2, titles=2),
        MonthCount(date(2014, 4, 1), purchases=1, titles=3),
        MonthCount(date(2014, 5, 1), purchases=0, titles=3),
    ]
    assert months[-1] == MonthCount(date(2024, 5, 1), purchases=1, titles=3)
    assert len(months) == 10 * 12 + 5


def test_where_nothing_was_bought_there_are_no_months(session: Session, collection: Collection) -> None:
    assert purchases_by_month(session, collection.id) == []


def test_recent_purchases_are_those_of_the_last_months_of_every_collection_in_use(
    session: Session, collection: Collection, clock: time_machine.Traveller
) -> None:
    buy(session, collection, "a", date(2022, 5, 31), date(2022, 6, 1), date(2024, 5, 1))
    buy(session, collection, "b", date(2024, 5, 31))
    empty, gone = (make_collection(session, name) for name in ("Birch Library", "Gone Library"))
    mark_for_deletion(gone)
    session.commit()

    recent = recent_purchases(session)

    assert recent == {collection.id: (1, *[0] * 22, 2), empty.id: (0,) * 24}
    assert recent_purchases(session, months=1) == {collection.id: (2,), empty.id: (0,)}
