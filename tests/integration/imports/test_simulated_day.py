"""Tests of events and circulation updates against the simulated vendor: after a day, all counts agree."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import time_machine
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import add_collection
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import CirculationEvent, Collection, Identifier, LicensePool
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.events import OVERLAP, SLICE_SIZE, BibliothecaEventImporter
from accession.imports.vendor_api import vendor_api_for
from accession.runs.ledger import get_or_create_checkpoint
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.faults import Faults
from accession.sandbox.vendor import Sandbox
from tests.fixtures.factories import day
from tests.fixtures.holdings import commit_and_apply
from tests.fixtures.running_sandbox import RunningSandbox, running_sandbox

MORNING = day(2024, 5, 1, 8)
HOUR = timedelta(hours=1)
EVENTS_PER_HOUR = 300
Counts = dict[str, tuple[int, int, int]]
"""Copies owned, copies available and holds by title."""


@pytest.fixture
def library() -> Iterator[RunningSandbox]:
    """A simulated vendor with many events, in random order and some of them repeated."""
    with time_machine.travel(MORNING, tick=False):
        catalogue = build_catalogue(60, MORNING - 900 * HOUR, MORNING, seed=3)
        activity = Activity(catalogue, EVENTS_PER_HOUR, MORNING, seed=3)
        faults = Faults.parse("shuffle-events=1,repeat-events=0.5")
        with running_sandbox(Sandbox(catalogue, faults=faults, activity=activity)) as running:
            yield running


@pytest.fixture
def empty_collection(session: Session, library: RunningSandbox) -> Collection:
    """The library's collection before its first import."""
    account = Account(
        collection="Alder Library",
        library_id=library.account.library_id,
        account_id=library.account.account_id,
        account_key=SecretStr(library.account.account_key),
        base_url=library.base_url,
    )
    collection = add_collection(session, account)
    get_or_create_checkpoint(session, collection, Workflow.EVENTS).finish = MORNING
    session.commit()
    return collection


def import_events(session: Session, collection: Collection) -> None:
    importer = BibliothecaEventImporter(session, collection, vendor_api_for(collection))
    cutoff = utc_now() - OVERLAP
    start, size = importer.get_start(cutoff), SLICE_SIZE
    while start < cutoff:
        result = importer.import_time_slice(start, cutoff, size)
        commit_and_apply(session, result.outbox_ids)
        start, size = result.slice_end, result.next_slice_size


def update_circulation(session: Session, collection: Collection) -> None:
    updater = BibliothecaCirculationUpdater(session, collection, vendor_api_for(collection))
    offset: int | None = 0
    while offset is not None:
        result = updater.update_batch(offset)
        commit_and_apply(session, result.outbox_ids)
        offset = result.next_offset


def stored_counts(session: Session) -> Counts:
    columns = (LicensePool.licenses_owned, LicensePool.licenses_available, LicensePool.patrons_in_hold_queue)
    rows = session.execute(select(Identifier.identifier, *columns).join(LicensePool.identifier))
    return {name: (owned, available, holds) for name, owned, available, holds in rows}


def vendor_counts(library: RunningSandbox) -> Counts:
    return {
        title["id"]: (title["copies"], title["available"], title["holds"])
        for title in library.sandbox.titles()
    }


def stop_activity(library: RunningSandbox, moment: datetime) -> None:
    with time_machine.travel(moment, tick=False):
        library.sandbox.activity.change_rate(0, moment)


def test_hourly_event_imports_match_the_vendors_counts(
    session: Session, empty_collection: Collection, library: RunningSandbox
) -> None:
    for hour in range(1, 9):
        with time_machine.travel(MORNING + hour * HOUR, tick=False):
            import_events(session, empty_collection)
    stop_activity(library, MORNING + 9 * HOUR)
    with time_machine.travel(MORNING + 10 * HOUR, tick=False):
        import_events(session, empty_collection)
        expected = vendor_counts(library)

    stored = stored_counts(session)
    events_by_type = library.sandbox.activity.statistics()["events"]
    assert session.query(CirculationEvent).count() == sum(events_by_type.values()) > 2000
    assert len(stored) > 60, "there are new titles, too"
    # No event cancels the holds on a withdrawn title; the next circulation update corrects them.
    owned = {name: counts for name, counts in stored.items() if expected[name][0]}
    assert owned == {name: expected[name] for name in owned}
    assert {counts[:2] for name, counts in stored.items() if name not in owned} <= {(0, 0)}
    assert len(owned) > 50


def test_circulation_update_corrects_counts_of_missed_events(
    session: Session, empty_collection: Collection, library: RunningSandbox
) -> None:
    with time_machine.travel(MORNING + HOUR, tick=False):
        import_events(session, empty_collection)
    stop_activity(library, MORNING + 3 * HOUR)
    with time_machine.travel(MORNING + 4 * HOUR, tick=False):
        get_or_create_checkpoint(session, empty_collection, Workflow.EVENTS).finish = utc_now() - OVERLAP
        session.commit()
        import_events(session, empty_collection)
        expected = vendor_counts(library)
        before = stored_counts(session)
        assert before != {name: expected[name] for name in before}, "two hours of events were missed"

        update_circulation(session, empty_collection)

    after = stored_counts(session)
    assert after == {name: expected[name] for name in after}
    assert after.keys() == before.keys()
