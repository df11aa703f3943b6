"""Five of the imports of `make chaos`, which together suffer every blow; and that the harness would tell."""

from collections.abc import Iterator
from itertools import chain

import pytest
from redis import Redis
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.core.workflow import Workflow
from accession.db.engine import engine
from accession.db.models import (
    CirculationEvent,
    Contribution,
    LicensePool,
    PurchaseRecord,
    RejectedRecord,
    Run,
    RunState,
)
from accession.local.servers import ServerUrls
from accession.runs.ledger import Counters, end_run, lock_run, open_run, record_page
from accession.sandbox.server import RunningSandbox
from tests.chaos.crashes import (
    NAME,
    BrokenPromise,
    check_checkpoints,
    check_locks,
    check_runs,
    import_in_peace,
    library,
    plan,
    run,
)
from tests.fixtures.fingerprint import Fingerprint, difference, digest, fingerprint
from tests.fixtures.installation import Blow
from tests.fixtures.servers import empty_database

SEEDS = (17, 43, 58, 61, 116)


@pytest.fixture(scope="module")
def vendor() -> Iterator[RunningSandbox]:
    with library() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def expected(servers: ServerUrls, vendor: RunningSandbox) -> Fingerprint:
    """The fingerprint of an import that nothing befalls."""
    empty_database()
    with Session(engine()) as session:
        import_in_peace(session, vendor)
        return fingerprint(session)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_killed_the_import_ends_as_if_nothing_had_been(
    seed: int, vendor: RunningSandbox, expected: Fingerprint
) -> None:
    run(seed, vendor, expected)


def test_the_five_imports_together_suffer_every_blow() -> None:
    assert {strike.blow for strike in chain(*map(plan, SEEDS))} == set(Blow)


# What the harness would tell


@pytest.fixture(scope="module")
def small_vendor() -> Iterator[RunningSandbox]:
    with library(100, days=10) as sandbox:
        yield sandbox


@pytest.fixture
def imported(session: Session, small_vendor: RunningSandbox) -> Session:
    """A session on a catalogue that was imported in peace."""
    import_in_peace(session, small_vendor)
    return session


def test_two_imports_in_peace_have_one_fingerprint(imported: Session, small_vendor: RunningSandbox) -> None:
    first = fingerprint(imported)
    imported.rollback()
    empty_database()
    import_in_peace(imported, small_vendor)
    second = fingerprint(imported)

    assert digest(first) == digest(second)
    assert {name: len(lines) > 0 for name, lines in first.items()} == dict.fromkeys(first, True) | {
        "left to apply": False
    }


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (PurchaseRecord, "purchase records"),
        (CirculationEvent, "events"),
        (RejectedRecord, "rejected records"),
        (Contribution, "contributions"),
    ],
)
def test_a_row_that_is_lost_is_told(
    imported: Session,
    model: type[PurchaseRecord] | type[CirculationEvent] | type[RejectedRecord] | type[Contribution],
    kind: str,
) -> None:
    before = fingerprint(imported)
    imported.delete(imported.scalars(select(model).limit(1)).one())
    imported.flush()

    told = difference(before, fingerprint(imported))

    assert any(line.startswith(f"{kind}: missing") for line in told), told


def test_a_title_that_is_doubled_is_told(imported: Session) -> None:
    found = fingerprint(imported)
    doubled = {**found, "pools": [*found["pools"], found["pools"][0]]}

    assert difference(found, doubled) == [f"pools: too much {found['pools'][0]}"]


@pytest.mark.parametrize("model", [PurchaseRecord, RejectedRecord, CirculationEvent])
def test_a_checkpoint_that_has_passed_a_record_is_told(
    imported: Session,
    small_vendor: RunningSandbox,
    model: type[PurchaseRecord] | type[RejectedRecord] | type[CirculationEvent],
) -> None:
    collection = find_collection(imported, NAME)
    check_checkpoints(imported, collection, small_vendor)
    first = imported.scalars(select(model.id).limit(1)).one()
    imported.execute(delete(model).where(model.id == first))

    with pytest.raises(BrokenPromise, match="has passed"):
        check_checkpoints(imported, collection, small_vendor)


def test_runs_that_have_not_all_succeeded_or_not_met_every_record_once_are_told(
    imported: Session, small_vendor: RunningSandbox
) -> None:
    collection = find_collection(imported, NAME)
    told = small_vendor.statistics()
    rejected, bought = told["unusable_records"], told["titles_bought"]
    for workflow in Workflow:
        open_run(imported, collection.id, workflow, workflow.value, {})
        opened = lock_run(imported, workflow.value)
        assert opened is not None
        if workflow is Workflow.PURCHASES:
            whole = Counters(bought, bought - rejected, rejected)
            record_page(opened, whole, since=None, next_cursor=None)
        else:
            end_run(opened, RunState.SUCCEEDED)
    check_runs(imported, small_vendor)
    purchases = imported.scalars(select(Run).filter_by(workflow="purchases")).one()

    purchases.records_fetched, purchases.records_stored = bought + 1, bought - rejected + 1
    with pytest.raises(BrokenPromise, match=f"{bought + 1}, {rejected}"):
        check_runs(imported, small_vendor)
    purchases.state = RunState.FAILED
    with pytest.raises(BrokenPromise, match="not all succeeded"):
        check_runs(imported, small_vendor)
    assert imported.query(LicensePool).count() > 0


def test_a_lock_that_is_left_is_told(servers: ServerUrls, queues: Redis) -> None:
    check_locks(servers.redis_url, within_seconds=0)
    queues.set("CirculationUpdateWorkflow:1", "a run that has ended")

    with pytest.raises(BrokenPromise, match="CirculationUpdateWorkflow:1"):
        check_locks(servers.redis_url, within_seconds=0)
