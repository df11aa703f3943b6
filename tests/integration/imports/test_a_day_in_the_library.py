"""A simulated day: the sandbox lends, the workflows follow, and both agree title by title."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import time_machine
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.collections import add_collection
from accession.catalog.apply import apply_outbox
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import CirculationEvent, Collection, Identifier, LicensePool
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.events import OVERLAP, SLICE_SIZE, BibliothecaEventImporter
from accession.imports.vendor import api_for
from accession.runs.ledger import timestamp
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.faults import Faults
from accession.sandbox.server import RunningSandbox, Sandbox, running_sandbox
from tests.fixtures.factories import day

MORNING = day(2024, 5, 1, 8)
HOUR = timedelta(hours=1)
EVENTS_AN_HOUR = 300
Counts = dict[str, tuple[int, int, int]]


@pytest.fixture
def library() -> Iterator[RunningSandbox]:
    """A vendor whose library is lively, and which tells events in no order, and some of them twice."""
    with time_machine.travel(MORNING, tick=False):
        catalogue = build_catalogue(60, MORNING - 900 * HOUR, MORNING, seed=3)
        lending = Activity(catalogue, EVENTS_AN_HOUR, MORNING, seed=3)
        faults = Faults.parse("shuffle-events=1,repeat-events=0.5")
        with running_sandbox(Sandbox(catalogue, faults=faults, activity=lending)) as running:
            yield running


@pytest.fixture
def customer(session: Session, library: RunningSandbox) -> Collection:
    """The library's collection, of which nothing is known yet."""
    collection = add_collection(
        session,
        name="Alder Library",
        library_id=library.account.library_id,
        account_id=library.account.account_id,
        account_key=SecretStr(library.account.account_key),
        base_url=library.base_url,
    )
    timestamp(session, collection, Workflow.EVENTS).finish = MORNING
    session.commit()
    return collection


def follow_events(session: Session, collection: Collection) -> None:
    importer = BibliothecaEventImporter(session, collection, api_for(collection))
    cutoff = utc_now() - OVERLAP
    start, size = importer.get_start(cutoff), SLICE_SIZE
    while start < cutoff:
        result = importer.import_time_slice(start, cutoff, size)
        session.commit()
        apply_outbox(session, result.outbox_ids)
        session.commit()
        start, size = result.slice_end, result.next_slice_size


def sweep(session: Session, collection: Collection) -> None:
    updater = BibliothecaCirculationUpdater(session, collection, api_for(collection))
    offset: int | None = 0
    while offset is not None:
        result = updater.update_batch(offset)
        session.commit()
        apply_outbox(session, result.outbox_ids)
        session.commit()
        offset = result.next_offset


def catalogue_says(session: Session) -> Counts:
    columns = (LicensePool.licenses_owned, LicensePool.licenses_available, LicensePool.patrons_in_hold_queue)
    rows = session.execute(select(Identifier.identifier, *columns).join(LicensePool.identifier))
    return {name: (owned, available, holds) for name, owned, available, holds in rows}


def vendor_says(library: RunningSandbox) -> Counts:
    return {
        title["id"]: (title["copies"], title["available"], title["holds"])
        for title in library.sandbox.titles()
    }


def close(library: RunningSandbox, moment: datetime) -> None:
    """Nothing happens from `moment` on."""
    with time_machine.travel(moment, tick=False):
        library.sandbox.activity.change_rate(0, moment)


def test_hourly_events_keep_every_title_they_tell_of_as_the_vendor_has_it(
    session: Session, customer: Collection, library: RunningSandbox
) -> None:
    for hour in range(1, 9):
        with time_machine.travel(MORNING + hour * HOUR, tick=False):
            follow_events(session, customer)
    close(library, MORNING + 9 * HOUR)
    with time_machine.travel(MORNING + 10 * HOUR, tick=False):
        follow_events(session, customer)

        there = vendor_says(library)
    known = catalogue_says(session)
    told = library.sandbox.activity.statistics()["events"]
    assert session.query(CirculationEvent).count() == sum(told.values()) > 2000
    assert len(known) > 60, "new titles, too"
    # Of holds on a title that has gone no event tells; the sweep settles them.
    left = {name: counts for name, counts in known.items() if there[name][0]}
    assert left == {name: there[name] for name in left}
    assert {counts[:2] for name, counts in known.items() if name not in left} <= {(0, 0)}
    assert len(left) > 50


def test_a_sweep_settles_what_missed_events_have_left(
    session: Session, customer: Collection, library: RunningSandbox
) -> None:
    with time_machine.travel(MORNING + HOUR, tick=False):
        follow_events(session, customer)
    close(library, MORNING + 3 * HOUR)
    with time_machine.travel(MORNING + 4 * HOUR, tick=False):
        timestamp(session, customer, Workflow.EVENTS).finish = utc_now() - OVERLAP
        session.commit()
        follow_events(session, customer)
        there = vendor_says(library)
        before = catalogue_says(session)
        assert before != {name: there[name] for name in before}, "two hours of events were missed"

        sweep(session, customer)

    after = catalogue_says(session)
    assert after == {name: there[name] for name in after}
    assert after.keys() == before.keys()
