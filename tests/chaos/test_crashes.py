"""An import with every fault, and tests of the invariants that it checks."""

from collections.abc import Iterator

import pytest
from redis import Redis
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
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
from accession.runs.ledger import RunCounters, end_run, lock_run, open_run, record_step
from tests.chaos.baseline import COLLECTION, baseline_import, simulated_library
from tests.chaos.crashes import Scenario, plan, run_import
from tests.chaos.invariants import InvariantViolation, check_checkpoints, check_locks, check_runs
from tests.fixtures.fingerprint import Fingerprint, difference, digest, fingerprint
from tests.fixtures.installation import Fault
from tests.fixtures.running_sandbox import RunningSandbox
from tests.fixtures.servers import delete_all_rows

SHORT = Scenario(titles=150, days=40, pages=55, max_faults=len(Fault), resume_seconds=120, end_seconds=600)
# Each fault occurs once, the last one in the circulation sweep.
SEED = 453276


@pytest.fixture(scope="module")
def vendor() -> Iterator[RunningSandbox]:
    with simulated_library(SHORT.titles, SHORT.days) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def baseline(servers: ServerUrls, vendor: RunningSandbox) -> Fingerprint:
    """The fingerprint of the baseline import, whose rows are in the database."""
    delete_all_rows()
    with Session(engine()) as session:
        return baseline_import(session, vendor)


def test_import_with_killed_processes_equals_baseline(
    vendor: RunningSandbox, baseline: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise the import would end while processes restart, before the next fault.
    monkeypatch.setattr(vendor.sandbox, "latency_ms", 200)
    run_import(SEED, vendor, baseline, SHORT)


def test_seed_covers_every_fault() -> None:
    assert {planned.fault for planned in plan(SEED, SHORT)} == set(Fault)


# The invariants


@pytest.fixture
def imported(baseline: Fingerprint) -> Iterator[Session]:
    """A session on the catalogue of the baseline import; what a test changes is rolled back."""
    with Session(engine()) as session:
        yield session


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (PurchaseRecord, "purchase records"),
        (CirculationEvent, "events"),
        (RejectedRecord, "rejected records"),
        (Contribution, "contributions"),
    ],
    ids=["purchase record", "event", "rejected record", "contribution"],
)
def test_missing_row_is_reported(
    imported: Session,
    model: type[PurchaseRecord] | type[CirculationEvent] | type[RejectedRecord] | type[Contribution],
    kind: str,
) -> None:
    before = fingerprint(imported)
    imported.delete(imported.scalars(select(model).limit(1)).one())
    imported.flush()

    differences = difference(before, fingerprint(imported))

    assert any(line.startswith(f"{kind}: missing") for line in differences), differences


def test_duplicated_title_is_reported(imported: Session) -> None:
    rows = fingerprint(imported)
    duplicated = {**rows, "pools": [*rows["pools"], rows["pools"][0]]}

    assert difference(rows, duplicated) == [f"pools: unexpected {rows['pools'][0]}"]


@pytest.mark.parametrize(
    "model", [PurchaseRecord, RejectedRecord, CirculationEvent], ids=["purchase", "rejected record", "event"]
)
def test_checkpoint_beyond_missing_record_is_reported(
    imported: Session,
    vendor: RunningSandbox,
    model: type[PurchaseRecord] | type[RejectedRecord] | type[CirculationEvent],
) -> None:
    collection = find_collection(imported, COLLECTION)
    check_checkpoints(imported, collection, vendor)
    first = imported.scalars(select(model.id).limit(1)).one()
    imported.execute(delete(model).where(model.id == first))

    with pytest.raises(InvariantViolation, match="is beyond missing"):
        check_checkpoints(imported, collection, vendor)


def test_failed_or_incomplete_runs_are_reported(imported: Session, vendor: RunningSandbox) -> None:
    collection = find_collection(imported, COLLECTION)
    statistics = vendor.statistics()
    rejected, purchased = statistics["unusable_records"], statistics["titles_purchased"]
    for workflow in SCHEDULED_WORKFLOWS:
        open_run(imported, collection.id, workflow, workflow.value, {})
        opened = lock_run(imported, workflow.value)
        assert opened is not None
        if workflow is Workflow.PURCHASES:
            counters = RunCounters(purchased, purchased - rejected, rejected)
            record_step(opened, counters, since=None, next_cursor=None)
        else:
            end_run(opened, RunState.SUCCEEDED)
    check_runs(imported, vendor)
    purchases = imported.scalars(select(Run).filter_by(workflow="purchases")).one()

    purchases.records_fetched, purchases.records_stored = purchased + 1, purchased - rejected + 1
    with pytest.raises(InvariantViolation, match=f"{purchased + 1}, {rejected}"):
        check_runs(imported, vendor)
    purchases.state = RunState.FAILED
    with pytest.raises(InvariantViolation, match="not all runs succeeded"):
        check_runs(imported, vendor)
    assert imported.query(LicensePool).count() > 0


def test_two_baseline_imports_have_the_same_fingerprint(
    imported: Session, baseline: Fingerprint, vendor: RunningSandbox
) -> None:
    delete_all_rows()
    second = baseline_import(imported, vendor)

    assert digest(baseline) == digest(second)
    assert {name: len(lines) > 0 for name, lines in second.items()} == dict.fromkeys(second, True) | {
        "outbox": False
    }


def test_leftover_lock_is_reported(servers: ServerUrls, queues: Redis) -> None:
    check_locks(servers.redis_url, deadline_seconds=0)
    queues.set("CirculationUpdateWorkflow:1", "a run that has ended")

    with pytest.raises(InvariantViolation, match="CirculationUpdateWorkflow:1"):
        check_locks(servers.redis_url, deadline_seconds=0)
