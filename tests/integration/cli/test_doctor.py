"""Checks of `accession doctor` that can repair: locks, runs, checkpoints, metadata, outbox."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.auth.audit import AuditFilter, read_audit_log
from accession.catalog.circulation import record_events
from accession.catalog.outbox import enqueue_changes
from accession.cli import checks
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, Collection, LicensePool, Run, RunState
from accession.local.servers import ServerUrls
from accession.runs.ledger import LEASE, end_run, find_run, get_or_create_checkpoint, open_run, queue_runs
from tests.fixtures.commands import Cli, set_checkpoint, settings
from tests.fixtures.factories import event_data, make_collection, make_pool, store_title, title_data
from tests.fixtures.vendor import ScriptedVendor, item

STALLED = timedelta(hours=3)
HEALTHY_FINDINGS = {
    "locks": "none is orphaned",
    "stalled runs": "none has lost its lock",
    "checkpoints": "none is in the future",
    "metadata": "all titles have metadata",
    "copy counts": "no title has more available than owned",
    "outbox": "no stale rows",
}
OTHER_CHECKS = (
    *("home", "key file", "database", "schema", "broker"),
    *("workers", "scheduler", "account keys", "storage"),
)


@pytest.fixture(autouse=True)
def _skip_process_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass the checks of the processes: none runs in these tests."""
    monkeypatch.setattr(checks, "_workers", lambda: "skipped")
    monkeypatch.setattr(checks, "_scheduler", lambda: "skipped")


class Doctor:
    """Runs `accession doctor`, and returns its results without those of other checks."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli

    def results(self, *arguments: str, exit_code: int) -> dict[str, Any]:
        result = self._cli("doctor", "--json", *arguments)
        assert result.exit_code == exit_code, result
        return {
            check["name"]: check
            for check in result.json
            if check["name"] not in OTHER_CHECKS and not check["name"].startswith("process")
        }

    def failures(self) -> dict[str, str]:
        """Return the findings of failed checks, without a repair."""
        return {
            name: check["finding"] for name, check in self.results(exit_code=1).items() if not check["ok"]
        }

    def repairs(self) -> dict[str, str]:
        """Repair, and return what was done, by check."""
        results = self.results("--fix", exit_code=0)
        return {name: check["repaired"] for name, check in results.items() if check["repaired"] is not None}

    def assert_healthy(self) -> None:
        results = self.results(exit_code=0)
        findings = {name: check["finding"] for name, check in results.items() if name in HEALTHY_FINDINGS}
        assert findings == HEALTHY_FINDINGS


@pytest.fixture
def doctor(cli: Cli, broker: Redis) -> Doctor:
    return Doctor(cli)


def hold_lock(broker: Redis, name: str, holder: str, *, age: timedelta) -> None:
    broker.set(name, holder, px=LEASE - age)


def open_stalled_run(session: Session, collection: Collection, workflow: Workflow, *, age: timedelta) -> str:
    """Open a run whose last step was some time ago, commit, and return its task id."""
    open_run(session, collection.id, workflow, f"{workflow}-task", {"offset": 51})
    session.execute(update(Run).values(updated_at=utc_now() - age))
    session.commit()
    return f"{workflow}-task"


# Locks


def test_healthy_installation_passes_all_checks(doctor: Doctor, collection: Collection) -> None:
    doctor.assert_healthy()


@pytest.mark.parametrize("is_ended", [True, False], ids=["ended run", "no run"])
def test_orphaned_lock_is_released(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis, is_ended: bool
) -> None:
    if is_ended:
        task_id = open_stalled_run(session, collection, Workflow.EVENTS, age=STALLED)
        run = find_run(session, task_id)
        assert run is not None
        end_run(run, RunState.SUCCEEDED)
        session.commit()
    name = f"ImportCollectionWorkflow:{collection.id}"
    hold_lock(broker, name, "events-task", age=timedelta(minutes=5))

    assert doctor.failures() == {
        "lock of events of Alder Library": (
            "orphaned lock: its holder events-task is no active run, and no other run can start: "
            "run `accession doctor --fix`"
        )
    }
    assert broker.exists(name)
    assert doctor.repairs() == {"lock of events of Alder Library": "released"}
    assert not broker.exists(name)
    doctor.assert_healthy()


def test_repair_is_recorded_in_the_audit_log(doctor: Doctor, session: Session, broker: Redis) -> None:
    broker.set("CirculationUpdateWorkflow:77", "somebody")
    doctor.failures()

    doctor.repairs()

    (entry,) = read_audit_log(session, AuditFilter())
    assert (entry.action, entry.subject) == ("database.repair", "lock of circulation of collection 77")
    assert entry.details["finding"].startswith("orphaned lock")


def test_lock_of_unknown_collection_is_released(doctor: Doctor, database: None, broker: Redis) -> None:
    broker.set("CirculationUpdateWorkflow:77", "somebody")
    broker.set("CirculationUpdateWorkflow:other", "not ours")

    assert list(doctor.repairs()) == ["lock of circulation of collection 77"]
    assert not broker.exists("CirculationUpdateWorkflow:77")
    assert broker.exists("CirculationUpdateWorkflow:other")


def test_locks_of_active_runs_and_new_locks_are_kept(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis
) -> None:
    open_stalled_run(session, collection, Workflow.EVENTS, age=timedelta(minutes=10))
    queue_runs(session, Workflow.CIRCULATION, {collection.id: "queued"}, {})
    session.commit()
    hold_lock(broker, f"ImportCollectionWorkflow:{collection.id}", "events-task", age=LEASE / 2)
    hold_lock(broker, f"CirculationUpdateWorkflow:{collection.id}", "queued", age=LEASE / 2)
    hold_lock(broker, f"PurchaseRecordCollectionWorkflow:{collection.id}", "new", age=timedelta(seconds=1))

    doctor.assert_healthy()


def test_lock_taken_by_newer_run_is_not_released(
    doctor: Doctor, collection: Collection, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks import diagnostics

    name = f"ImportCollectionWorkflow:{collection.id}"
    hold_lock(broker, name, "ghost", age=timedelta(minutes=5))
    find = diagnostics.find_orphaned_locks

    def find_and_take() -> Any:
        orphaned = find()
        hold_lock(broker, name, "newer", age=timedelta(0))
        return orphaned

    monkeypatch.setattr(diagnostics, "find_orphaned_locks", find_and_take)
    assert doctor.repairs() == {"lock of events of Alder Library": "not released: a run has taken it since"}
    assert broker.get(name) == b"newer"


# Runs


@pytest.mark.parametrize("holder", [None, "ghost"])
def test_stalled_run_without_lock_is_resumed(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis, holder: str | None
) -> None:
    open_stalled_run(session, collection, Workflow.PURCHASES, age=STALLED)
    name = f"PurchaseRecordCollectionWorkflow:{collection.id}"
    if holder:
        hold_lock(broker, name, holder, age=timedelta(minutes=5))

    finding = doctor.failures()["run of purchases of Alder Library"]
    assert finding.startswith("stalled run: it has lost its lock, and its last step ended at ")
    assert finding.endswith(": run `accession doctor --fix`")
    assert broker.llen("default") == 0
    assert doctor.repairs()["run of purchases of Alder Library"] == "its next step is queued"
    assert (broker.llen("default"), broker.exists(name)) == (1, 0)
    doctor.assert_healthy()


def test_active_queued_and_locked_runs_are_not_resumed(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis
) -> None:
    birch = make_collection(session, "Birch Library")
    queue_runs(session, Workflow.CIRCULATION, {collection.id: "queued"}, {})
    open_stalled_run(session, birch, Workflow.EVENTS, age=LEASE * 0.9)
    hold_lock(broker, f"ImportCollectionWorkflow:{birch.id}", "events-task", age=LEASE * 0.9)
    open_run(session, collection.id, Workflow.PURCHASES, "active", {"offset": 51})
    session.commit()

    doctor.assert_healthy()


def test_ended_run_is_not_resumed(
    session: Session, collection: Collection, broker: Redis, celery_app: None
) -> None:
    from accession.tasks.recovery import resume_run

    run = find_run(session, open_stalled_run(session, collection, Workflow.PURCHASES, age=STALLED))
    assert run is not None
    end_run(run, RunState.SUCCEEDED)
    session.commit()

    assert not resume_run(run.task_id)
    assert not resume_run("unknown-task")
    assert broker.llen("default") == 0


# Checkpoints


def checkpoint_of(session: Session, collection: Collection, workflow: Workflow) -> datetime | None:
    session.expire_all()
    return get_or_create_checkpoint(session, collection, workflow).finish


def test_future_purchases_checkpoint_is_removed(
    doctor: Doctor, session: Session, collection: Collection
) -> None:
    tomorrow = utc_now() + timedelta(days=1)
    set_checkpoint(session, collection, tomorrow, Workflow.PURCHASES)
    set_checkpoint(session, collection, tomorrow, Workflow.CIRCULATION)

    assert doctor.failures() == {
        "checkpoint of purchases of Alder Library": (
            f"it is in the future, {tomorrow:%Y-%m-%d %H:%M}, and nothing is imported until then: "
            "run `accession doctor --fix`"
        )
    }
    assert doctor.repairs() == {
        "checkpoint of purchases of Alder Library": (
            "the next run starts from the beginning and writes only what differs"
        )
    }
    assert checkpoint_of(session, collection, Workflow.PURCHASES) is None
    assert checkpoint_of(session, collection, Workflow.CIRCULATION) == tomorrow
    doctor.assert_healthy()


def test_future_events_checkpoint_is_set_to_newest_event(
    doctor: Doctor, session: Session, collection: Collection
) -> None:
    pool = make_pool(session, collection, "abc")
    enqueue_changes(session, [(pool, title_data("abc"))])
    newest = utc_now().replace(microsecond=0) - timedelta(days=2)
    times = [newest - timedelta(days=1), newest, utc_now() + timedelta(days=1)]
    events = [event_data(str(n), "CHECKOUT", "abc", at=at) for n, at in enumerate(times)]
    record_events(session, collection, {"abc": pool}, events)
    set_checkpoint(session, collection, utc_now() + timedelta(days=1), Workflow.EVENTS)

    repaired = doctor.repairs()["checkpoint of events of Alder Library"]

    assert repaired == f"the next run starts from {newest:%Y-%m-%d %H:%M} and writes only what differs"
    assert checkpoint_of(session, collection, Workflow.EVENTS) == newest


def test_checkpoint_of_active_run_is_not_reset(
    doctor: Doctor, session: Session, collection: Collection
) -> None:
    tomorrow = utc_now() + timedelta(days=1)
    set_checkpoint(session, collection, tomorrow, Workflow.PURCHASES)
    queue_runs(session, Workflow.PURCHASES, {collection.id: "queued"}, {})
    session.commit()

    check = doctor.results("--fix", exit_code=1)["checkpoint of purchases of Alder Library"]

    assert (check["ok"], check["repaired"]) == (False, None)
    assert "not repaired: a run is active; retry when it has ended" in check["finding"]
    assert checkpoint_of(session, collection, Workflow.PURCHASES) == tomorrow


def test_small_clock_skew_and_removed_collection_pass(
    doctor: Doctor, session: Session, collection: Collection
) -> None:
    set_checkpoint(session, collection, utc_now() + timedelta(seconds=30), Workflow.PURCHASES)
    removed = make_collection(session, "Birch Library")
    set_checkpoint(session, removed, utc_now() + timedelta(days=1), Workflow.PURCHASES)
    mark_for_deletion(removed)
    session.commit()

    doctor.assert_healthy()


# Metadata


def test_missing_metadata_is_fetched(
    doctor: Doctor, session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    identifiers = [f"t{number:02}" for number in range(30)]
    for name in identifiers:
        make_pool(session, collection, name)
        vendor.items[name] = item(name, title=f"Title {name}", owned=1, available=1)

    assert doctor.failures() == {
        "metadata of Alder Library": (
            "30 titles without metadata: t00, t01, t02, t03, t04 and 25 more: "
            "`accession doctor --fix` fetches it, and so does the next circulation update"
        )
    }
    assert vendor.requests == []
    assert doctor.repairs() == {"metadata of Alder Library": "fetched metadata of 30 titles"}
    assert sorted(map(len, vendor.item_requests())) == [5, 25]
    doctor.assert_healthy()


def test_withdrawn_title_without_metadata_passes(
    doctor: Doctor, session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    make_pool(session, collection, "withdrawn")
    make_pool(session, collection, "listed")
    vendor.items["listed"] = item("listed", title="Listed", owned=1, available=1)

    assert doctor.repairs() == {
        "metadata of Alder Library": "fetched metadata of 1 title; withdrawn by the vendor: withdrawn"
    }

    check = doctor.results(exit_code=0)["metadata of Alder Library"]
    assert check["finding"] == "1 title without metadata, withdrawn by the vendor: withdrawn"
    session.expire_all()
    assert set(session.scalars(select(LicensePool.status))) == {"active", "exhausted"}


def test_impossible_counts_are_counted_and_listed(
    doctor: Doctor, session: Session, collection: Collection
) -> None:
    store_title(session, collection, "possible")
    for number in range(7):
        store_title(session, collection, f"t{number}", licenses_owned=1, licenses_available=5)
    # The number of copies that are neither may be as large as the database allows.
    store_title(session, collection, "reserved", licenses_owned=0, licenses_reserved=2**31 - 1)

    check = doctor.results(exit_code=0)["copy counts of Alder Library"]

    assert check["finding"] == (
        "8 titles with more copies available than owned: t0, t1, t2, t3, t4 and 3 more; "
        "at most the copies owned are shown: report them to the vendor"
    )


def test_unusable_metadata_remains_a_failure(
    doctor: Doctor, session: Session, collection: Collection, vendor: ScriptedVendor
) -> None:
    make_pool(session, collection, "odd")
    vendor.items["odd"] = "<Item><ItemId>odd</ItemId></Item>"

    check = doctor.results("--fix", exit_code=1)["metadata of Alder Library"]

    assert check["finding"] == (
        "1 title without metadata: odd; not repaired: the vendor's metadata of odd is unusable; "
        "the next circulation update retries"
    )


def test_unreachable_vendor_does_not_stop_other_repairs(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis
) -> None:
    make_pool(session, collection, "abc")
    broker.set(f"ImportCollectionWorkflow:{collection.id}", "ghost")

    results = doctor.results("--fix", exit_code=1)

    assert results["metadata of Alder Library"]["ok"] is False
    assert "not repaired: " in results["metadata of Alder Library"]["finding"]
    assert results["lock of events of Alder Library"]["repaired"] == "released"


# Outbox


def test_stale_outbox_rows_are_queued_again(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis
) -> None:
    enqueue_changes(session, [(make_pool(session, collection, name), title_data(name)) for name in "abc"])
    session.commit()
    doctor.assert_healthy()
    session.execute(update(ApplyOutbox).values(published_at=utc_now() - timedelta(minutes=11)))
    session.commit()

    assert doctor.failures() == {
        "outbox": "3 stale outbox rows, not applied for over ten minutes: run `accession doctor --fix`"
    }
    assert doctor.repairs() == {"outbox": "queued 3 rows again"}
    assert broker.llen("apply") == 1
    doctor.assert_healthy()


# Output and failing checks


def test_repair_is_shown_as_fixed(cli: Cli, doctor: Doctor, collection: Collection, broker: Redis) -> None:
    broker.set(f"ImportCollectionWorkflow:{collection.id}", "ghost")

    result = cli("doctor", "--fix")

    assert result.exit_code == 0
    assert (
        "FIXED lock of events of Alder Library: orphaned lock: its holder ghost is no active run, "
        "and no other run can start; released\n"
    ) in result.stdout


def test_without_broker_the_catalogue_is_still_checked(
    doctor: Doctor, session: Session, collection: Collection, servers: ServerUrls
) -> None:
    enqueue_changes(session, [(make_pool(session, collection, "abc"), title_data("abc"))])
    session.execute(update(ApplyOutbox).values(published_at=utc_now() - STALLED))
    set_checkpoint(session, collection, utc_now() + timedelta(days=1), Workflow.PURCHASES)
    with settings(database_url=servers.database_url, redis_url="redis://127.0.0.1:9/0"):
        failures = doctor.failures()
    assert list(failures) == ["checkpoint of purchases of Alder Library", "outbox"]


def test_failing_check_is_reported_as_failure(
    doctor: Doctor, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.exceptions import ConnectionError as RedisConnectionError

    from accession.tasks import diagnostics

    def fail() -> Any:
        raise RedisConnectionError("Connection refused.")

    monkeypatch.setattr(diagnostics, "find_orphaned_locks", fail)
    assert doctor.failures() == {"locks": "Connection refused."}
