"""What has been: the course of a run, purchases over time, and what happened to a title."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import time_machine
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.apply import apply_titles
from accession.catalog.circulation import record_events
from accession.catalog.data import ApplyData, LinkData
from accession.catalog.purchase_counts import MonthCount, purchases_by_month, recent_purchases
from accession.catalog.purchase_records import PurchaseDate, StoredRecord, store_purchase_records
from accession.catalog.title_history import HistoryEntry, title_history
from accession.core.errors import UserError
from accession.core.vocabulary import Format, LinkRel, Role
from accession.core.workflow import Workflow
from accession.db.models import Collection, LicensePool, Retry, Run, RunState, Sample, TitleChange
from accession.runs.ledger import Counters, end_run, find_run, note_retry, open_run, record_page
from accession.runs.samples import RunRetry, RunSample, run_retries, run_samples
from tests.fixtures.factories import (
    NOON,
    counts_data,
    day,
    event_data,
    make_collection,
    make_pool,
    person,
    subject,
    title_data,
)

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
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
    for bought in days:
        store_purchase_records(session, PurchaseDate(bought), [StoredRecord(pool, lambda: b"marc", "hash")])
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


# Titles


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    return make_pool(session, collection, "solaris")


def say(session: Session, pool: LicensePool, at: datetime, **said: Any) -> None:
    with time_machine.travel(at, tick=False):
        apply_titles(session, {pool.id: title_data("solaris", as_of=at, **said)})
        session.commit()


def history(session: Session, **arguments: Any) -> list[HistoryEntry]:
    return title_history(session, "Alder Library", "solaris", **arguments)


def test_a_title_that_is_new_or_as_it_was_has_no_history(session: Session, pool: LicensePool) -> None:
    for hours in range(3):
        say(session, pool, NOON + hours * HOUR)

    assert history(session) == []


def test_every_field_that_changes_is_kept_with_what_it_was(session: Session, pool: LicensePool) -> None:
    say(session, pool, NOON)
    say(
        session,
        pool,
        NOON + HOUR,
        title="Solaris",
        contributors=(
            person("Lem, Stanisław"),
            person("Kandel, Michael"),
            person("Reader, Ron", Role.NARRATOR),
        ),
        subjects=(subject("FICTION / Classics"),),
        isbns=("9780156027601", "9788308068298"),
        links=(LinkData(rel=LinkRel.COVER, href="https://images.example/2"),),
        page_count=204,
        format=Format.PDF,
    )

    (entry,) = history(session)

    assert (entry.at, entry.kind) == (NOON + HOUR, "changed")
    assert dict(entry.changes) == {
        "title": ("Title solaris", "Solaris"),
        "page_count": (None, 204),
        "format": ("epub", "pdf"),
        "authors": (["Stanisław Lem"], ["Stanisław Lem", "Michael Kandel"]),
        "narrators": (["Rita Reader"], ["Ron Reader"]),
        "subjects": (["FICTION / Science Fiction"], ["FICTION / Classics"]),
        "isbns": (["9788308068298"], ["9780156027601", "9788308068298"]),
        "cover_url": ("https://images.example/1", "https://images.example/2"),
    }
    assert entry.text == ("Changed: title, authors, narrators, format, ISBNs, subjects, page count, cover")


def test_what_a_title_does_not_show_is_no_change_of_it(session: Session, pool: LicensePool) -> None:
    say(session, pool, NOON)
    cover = LinkData(rel=LinkRel.COVER, href="https://images.example/1")
    say(
        session,
        pool,
        NOON + HOUR,
        links=(cover, LinkData(rel=LinkRel.THUMBNAIL, href="https://images.example/small")),
    )

    assert history(session) == []


def test_the_first_counts_are_no_change_and_later_ones_are(session: Session, pool: LicensePool) -> None:
    words = [counts_data(2, 1, 0, as_of=NOON), counts_data(2, 0, 3, as_of=NOON + HOUR)]
    words.append(counts_data(0, 0, 3, as_of=NOON + 2 * HOUR))
    for word in words:
        with time_machine.travel(word.as_of, tick=False):
            apply_titles(session, {pool.id: ApplyData(circulation=word)})
            session.commit()

    assert history(session) == [
        HistoryEntry(
            NOON + 2 * HOUR,
            "availability",
            "Owned 2 → 0, status active → exhausted",
            {"licenses_owned": (2, 0), "status": ("active", "exhausted")},
        ),
        HistoryEntry(
            NOON + HOUR,
            "availability",
            "Available 1 → 0, waiting 0 → 3",
            {"licenses_available": (1, 0), "patrons_in_hold_queue": (0, 3)},
        ),
    ]


def test_purchases_changes_and_events_are_told_together_newest_first(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    say(session, pool, NOON)
    say(session, pool, NOON + 3 * HOUR, title="Solaris", licenses_owned=9)
    kinds = ("CHECKOUT", "CHECKIN", "HOLD", "RESERVED", "PURCHASE", "REMOVED", "MOVED")
    events = [event_data(kind, kind, at=NOON + (4 + n) * HOUR) for n, kind in enumerate(kinds)]
    record_events(session, collection, {"solaris": pool}, events)
    for bought in (PurchaseDate(date(2024, 5, 1)), PurchaseDate(date(2016, 3, 1), month_only=True)):
        store_purchase_records(session, bought, [StoredRecord(pool, lambda: b"marc", "hash")])
    session.commit()

    told = [(entry.at, entry.kind, entry.text) for entry in history(session)]

    assert told == [
        (NOON + 10 * HOUR, "event", "Told by the vendor: MOVED"),
        (NOON + 9 * HOUR, "event", "Copy removed"),
        (NOON + 8 * HOUR, "event", "Copy added"),
        (NOON + 7 * HOUR, "event", "Copy set aside for who waited"),
        (NOON + 6 * HOUR, "event", "Hold placed"),
        (NOON + 5 * HOUR, "event", "Returned"),
        (NOON + 4 * HOUR, "event", "Lent"),
        (NOON + 3 * HOUR, "changed", "Changed: title"),
        (NOON + 3 * HOUR, "availability", "Owned 2 → 9"),
        (day(2024, 5, 1), "purchased", "Bought"),
        (day(2016, 3, 1), "purchased", "Bought in 2016-03"),
    ]
    for limit in range(len(told)):
        assert [(entry.at, entry.kind, entry.text) for entry in history(session, limit=limit)] == told[:limit]


def test_a_description_has_one_history_and_each_collections_counts_their_own(
    session: Session, pool: LicensePool
) -> None:
    other = make_pool(session, make_collection(session, "Birch Library"), "solaris")
    say(session, pool, NOON)
    say(session, other, NOON)
    say(session, pool, NOON + HOUR, title="Solaris", licenses_owned=9)

    assert [entry.kind for entry in history(session)] == ["changed", "availability"]
    assert [entry.kind for entry in title_history(session, "Birch Library", "solaris")] == ["changed"]


def test_a_history_goes_with_its_title(session: Session, pool: LicensePool) -> None:
    say(session, pool, NOON)
    say(session, pool, NOON + HOUR, licenses_owned=9)

    session.execute(delete(LicensePool))

    assert session.scalar(select(func.count()).select_from(TitleChange)) == 0


def test_of_an_unknown_title_or_collection_there_is_no_history(session: Session, pool: LicensePool) -> None:
    other = make_collection(session, "Birch Library")
    with pytest.raises(UserError, match=r'"Birch Library" holds no title with id "solaris": see `accession'):
        title_history(session, other.name, "solaris")
    with pytest.raises(UserError, match='No collection found named "Nobody"'):
        title_history(session, "Nobody", "solaris")
