"""What the doctor finds in ledger, locks and catalogue, and what it repairs."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.apply import put_in_outbox
from accession.catalog.circulation import record_events
from accession.cli import checks
from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import ApplyOutbox, Collection, LicensePool, Run, RunState
from accession.local.servers import ServerUrls
from accession.runs.ledger import LEASE, end_run, find_run, open_run, queue_runs, timestamp
from tests.fixtures.commands import Run as Command
from tests.fixtures.commands import settings
from tests.fixtures.factories import event_data, make_collection, make_pool, title_data
from tests.fixtures.vendor import Vendor, item

LONG = timedelta(hours=3)
ALL_WELL = {
    "locks": "each belongs to a run at work",
    "locks of runs": "no silent run is without",
    "checkpoints": "none lies in the future",
    "metadata": "every title has some",
    "outbox": "nothing is left behind",
}


@pytest.fixture(autouse=True)
def _worker_and_beat_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they do is another check's affair, which costs seconds."""
    monkeypatch.setattr(checks, "_workers", lambda: "not asked")
    monkeypatch.setattr(checks, "_beat", lambda: "not asked")


@pytest.fixture
def doctor(run: Command, broker: Redis) -> "Doctor":
    return Doctor(run)


class Doctor:
    """The command, and what it answers."""

    def __init__(self, run: Command) -> None:
        self._run = run

    def finds(self, *arguments: str, code: int) -> dict[str, Any]:
        """What it says of ledger, locks and catalogue, by what it looked at."""
        answer = self._run("doctor", "--json", *arguments)
        assert answer.code == code, answer
        parts = ("home", "key file", "database", "schema", "broker", "workers", "beat", "account keys")
        return {
            found["what"]: found
            for found in answer.json
            if found["what"] not in parts and not found["what"].startswith("process")
        }

    def finds_wrong(self) -> dict[str, str]:
        """What is wrong, without a repair."""
        return {what: found["finding"] for what, found in self.finds(code=1).items() if not found["ok"]}

    def repairs(self, *, code: int = 0) -> dict[str, str]:
        """What was repaired."""
        found = self.finds("--fix", code=code)
        return {what: one["repaired"] for what, one in found.items() if one["repaired"] is not None}

    def is_content(self) -> None:
        """Afterwards it is certain that all is well."""
        found = self.finds(code=0)
        assert {what: one["finding"] for what, one in found.items() if what in ALL_WELL} == ALL_WELL


def hold_lock(broker: Redis, name: str, holder: str, *, untouched: timedelta) -> None:
    broker.set(name, holder, px=LEASE - untouched)


def begun(session: Session, collection: Collection, workflow: Workflow, *, silent: timedelta) -> str:
    """A run that has begun and been silent; its task id."""
    open_run(session, collection.id, workflow, f"{workflow}-task", {"offset": 51})
    session.execute(update(Run).values(updated_at=utc_now() - silent))
    session.commit()
    return f"{workflow}-task"


# Locks


def test_where_all_is_well_the_doctor_says_so_in_a_line_each(doctor: Doctor, collection: Collection) -> None:
    doctor.is_content()


@pytest.mark.parametrize("ended", [True, False])
def test_a_lock_that_no_run_at_work_holds_is_set_free(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis, ended: bool
) -> None:
    if ended:
        task_id = begun(session, collection, Workflow.EVENTS, silent=LONG)
        run = find_run(session, task_id)
        assert run is not None
        end_run(run, RunState.SUCCEEDED)
        session.commit()
    name = f"ImportCollectionWorkflow:{collection.id}"
    hold_lock(broker, name, "events-task", untouched=timedelta(minutes=5))

    assert doctor.finds_wrong() == {
        "lock of events of Alder Library": (
            "it is held for events-task, which is no run at work; no other can begin: "
            "run `accession doctor --fix`"
        )
    }
    assert broker.exists(name)
    assert doctor.repairs() == {"lock of events of Alder Library": "the lock is free"}
    assert not broker.exists(name)
    doctor.is_content()


def test_a_lock_without_an_end_and_of_a_collection_that_is_no_more_is_set_free_too(
    doctor: Doctor, database: None, broker: Redis
) -> None:
    broker.set("CirculationUpdateWorkflow:77", "somebody")
    broker.set("CirculationUpdateWorkflow:other", "not ours")

    assert list(doctor.repairs()) == ["lock of circulation of collection 77"]
    assert not broker.exists("CirculationUpdateWorkflow:77")
    assert broker.exists("CirculationUpdateWorkflow:other")


def test_locks_of_runs_at_work_and_those_just_taken_are_left_alone(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis
) -> None:
    begun(session, collection, Workflow.EVENTS, silent=timedelta(minutes=10))
    queue_runs(session, Workflow.CIRCULATION, {collection.id: "waits"}, {})
    session.commit()
    hold_lock(broker, f"ImportCollectionWorkflow:{collection.id}", "events-task", untouched=LEASE / 2)
    hold_lock(broker, f"CirculationUpdateWorkflow:{collection.id}", "waits", untouched=LEASE / 2)
    hold_lock(
        broker, f"PurchaseRecordCollectionWorkflow:{collection.id}", "begins", untouched=timedelta(seconds=1)
    )

    doctor.is_content()


def test_a_lock_that_a_run_has_taken_meanwhile_is_left_to_it(
    doctor: Doctor, collection: Collection, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks import care

    name = f"ImportCollectionWorkflow:{collection.id}"
    hold_lock(broker, name, "ghost", untouched=timedelta(minutes=5))
    find = care.stray_locks

    def find_and_take() -> Any:
        found = find()
        hold_lock(broker, name, "newer", untouched=timedelta(0))
        return found

    monkeypatch.setattr(care, "stray_locks", find_and_take)
    assert doctor.repairs() == {
        "lock of events of Alder Library": "the lock is another's now, and left to it"
    }
    assert broker.get(name) == b"newer"


# Runs


@pytest.mark.parametrize("holder", [None, "ghost"])
def test_a_silent_run_whose_lock_is_gone_or_anothers_goes_on(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis, holder: str | None
) -> None:
    begun(session, collection, Workflow.PURCHASES, silent=LONG)
    name = f"PurchaseRecordCollectionWorkflow:{collection.id}"
    if holder:
        hold_lock(broker, name, holder, untouched=timedelta(minutes=5))

    finding = doctor.finds_wrong()["run of purchases of Alder Library"]
    assert finding.startswith("it has lost its lock, and nothing was heard of it since ")
    assert finding.endswith(": run `accession doctor --fix`")
    assert broker.llen("default") == 0
    assert doctor.repairs()["run of purchases of Alder Library"] == "its next page is queued"
    assert (broker.llen("default"), broker.exists(name)) == (1, 0)
    doctor.is_content()


def test_runs_that_move_wait_to_begin_or_hold_their_lock_are_left_alone(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis
) -> None:
    birch = make_collection(session, "Birch Library")
    queue_runs(session, Workflow.CIRCULATION, {collection.id: "waits"}, {})
    begun(session, birch, Workflow.EVENTS, silent=LEASE * 0.9)
    hold_lock(broker, f"ImportCollectionWorkflow:{birch.id}", "events-task", untouched=LEASE * 0.9)
    open_run(session, collection.id, Workflow.PURCHASES, "moves", {"offset": 51})
    session.commit()

    doctor.is_content()


def test_a_run_that_has_ended_meanwhile_is_not_sent_on(
    session: Session, collection: Collection, broker: Redis, tasks: None
) -> None:
    from accession.tasks.recovery import send_expected_link

    run = find_run(session, begun(session, collection, Workflow.PURCHASES, silent=LONG))
    assert run is not None
    end_run(run, RunState.SUCCEEDED)
    session.commit()

    assert not send_expected_link(run.task_id)
    assert not send_expected_link("nobody")
    assert broker.llen("default") == 0


# Checkpoints


def set_checkpoint(session: Session, collection: Collection, workflow: Workflow, finish: datetime) -> None:
    timestamp(session, collection, workflow).finish = finish
    session.commit()


def checkpoint_of(session: Session, collection: Collection, workflow: Workflow) -> datetime | None:
    session.expire_all()
    return timestamp(session, collection, workflow).finish


def test_purchases_complete_up_to_a_day_to_come_begin_anew(
    doctor: Doctor, session: Session, collection: Collection
) -> None:
    tomorrow = utc_now() + timedelta(days=1)
    set_checkpoint(session, collection, Workflow.PURCHASES, tomorrow)
    set_checkpoint(session, collection, Workflow.CIRCULATION, tomorrow)

    assert doctor.finds_wrong() == {
        "checkpoint of purchases of Alder Library": (
            f"it lies in the future, {tomorrow:%Y-%m-%d %H:%M}, and nothing is asked for until then: "
            "run `accession doctor --fix`"
        )
    }
    assert doctor.repairs() == {
        "checkpoint of purchases of Alder Library": (
            "the next run begins as the first one did; it writes only what differs"
        )
    }
    assert checkpoint_of(session, collection, Workflow.PURCHASES) is None
    assert checkpoint_of(session, collection, Workflow.CIRCULATION) == tomorrow
    doctor.is_content()


def test_events_go_back_to_the_newest_that_the_vendor_has_told(
    doctor: Doctor, session: Session, collection: Collection
) -> None:
    pool = make_pool(session, collection, "abc")
    put_in_outbox(session, [(pool, title_data("abc"))])
    told = utc_now().replace(microsecond=0) - timedelta(days=2)
    moments = [told - timedelta(days=1), told, utc_now() + timedelta(days=1)]
    events = [event_data(str(n), "CHECKOUT", "abc", at=at) for n, at in enumerate(moments)]
    record_events(session, collection, {"abc": pool}, events)
    set_checkpoint(session, collection, Workflow.EVENTS, utc_now() + timedelta(days=1))

    said = doctor.repairs()["checkpoint of events of Alder Library"]

    assert said == f"the next run goes on at {told:%Y-%m-%d %H:%M}; it writes only what differs"
    assert checkpoint_of(session, collection, Workflow.EVENTS) == told


def test_a_checkpoint_is_not_set_back_under_a_run_at_work(
    doctor: Doctor, session: Session, collection: Collection
) -> None:
    tomorrow = utc_now() + timedelta(days=1)
    set_checkpoint(session, collection, Workflow.PURCHASES, tomorrow)
    queue_runs(session, Workflow.PURCHASES, {collection.id: "waits"}, {})
    session.commit()

    found = doctor.finds("--fix", code=1)["checkpoint of purchases of Alder Library"]

    assert (found["ok"], found["repaired"]) == (False, None)
    assert "it is not repaired: a run is at work; try again when it has ended" in found["finding"]
    assert checkpoint_of(session, collection, Workflow.PURCHASES) == tomorrow


def test_clocks_that_differ_by_seconds_and_collections_on_their_way_out_are_no_matter(
    doctor: Doctor, session: Session, collection: Collection
) -> None:
    set_checkpoint(session, collection, Workflow.PURCHASES, utc_now() + timedelta(seconds=30))
    leaving = make_collection(session, "Birch Library")
    set_checkpoint(session, leaving, Workflow.PURCHASES, utc_now() + timedelta(days=1))
    mark_for_deletion(leaving)
    session.commit()

    doctor.is_content()


# Metadata


def test_titles_without_metadata_are_asked_for(
    doctor: Doctor, session: Session, collection: Collection, vendor: Vendor
) -> None:
    names = [f"t{number:02}" for number in range(30)]
    for name in names:
        make_pool(session, collection, name)
        vendor.items[name] = item(name, title=f"Title {name}", owned=1, available=1)

    assert doctor.finds_wrong() == {
        "metadata of Alder Library": (
            "30 titles without: t00, t01, t02, t03, t04 and 25 more: "
            "`accession doctor --fix` asks the vendor, and so does the next sweep"
        )
    }
    assert vendor.requests == []
    assert doctor.repairs() == {"metadata of Alder Library": "30 titles got metadata"}
    assert sorted(map(len, vendor.item_requests())) == [5, 25]
    doctor.is_content()


def test_a_title_that_the_vendor_does_not_have_is_told_and_is_no_fault(
    doctor: Doctor, session: Session, collection: Collection, vendor: Vendor
) -> None:
    make_pool(session, collection, "gone")
    make_pool(session, collection, "here")
    vendor.items["here"] = item("here", title="Here", owned=1, available=1)

    assert doctor.repairs() == {
        "metadata of Alder Library": "1 title got metadata; the vendor does not have gone"
    }

    found = doctor.finds(code=0)["metadata of Alder Library"]
    assert found["finding"] == "1 title without, which the vendor does not have: gone"
    session.expire_all()
    assert set(session.scalars(select(LicensePool.status))) == {"active", "exhausted"}


def test_a_title_of_which_the_vendor_says_nothing_usable_stays_a_fault(
    doctor: Doctor, session: Session, collection: Collection, vendor: Vendor
) -> None:
    make_pool(session, collection, "odd")
    vendor.items["odd"] = "<Item><ItemId>odd</ItemId></Item>"

    found = doctor.finds("--fix", code=1)["metadata of Alder Library"]

    assert found["finding"] == (
        "1 title without: odd; it is not repaired: what the vendor says of odd cannot be used; "
        "the next sweep asks again"
    )


def test_a_vendor_who_does_not_answer_is_told_and_the_rest_is_repaired(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis
) -> None:
    make_pool(session, collection, "abc")
    broker.set(f"ImportCollectionWorkflow:{collection.id}", "ghost")

    found = doctor.finds("--fix", code=1)

    assert found["metadata of Alder Library"]["ok"] is False
    assert "it is not repaired: " in found["metadata of Alder Library"]["finding"]
    assert found["lock of events of Alder Library"]["repaired"] == "the lock is free"


# Outbox


def test_what_is_left_in_the_outbox_is_queued_again(
    doctor: Doctor, session: Session, collection: Collection, broker: Redis
) -> None:
    put_in_outbox(session, [(make_pool(session, collection, name), title_data(name)) for name in "abc"])
    session.commit()
    doctor.is_content()
    session.execute(update(ApplyOutbox).values(published_at=utc_now() - timedelta(minutes=11)))
    session.commit()

    assert doctor.finds_wrong() == {
        "outbox": "3 titles to be written for over ten minutes: run `accession doctor --fix`"
    }
    assert doctor.repairs() == {"outbox": "3 titles queued again"}
    assert broker.llen("apply") == 1
    doctor.is_content()


# The doctor itself


def test_people_see_what_was_repaired_too(
    run: Command, doctor: Doctor, collection: Collection, broker: Redis
) -> None:
    broker.set(f"ImportCollectionWorkflow:{collection.id}", "ghost")

    answer = run("doctor", "--fix")

    assert answer.code == 0
    assert (
        "DONE lock of events of Alder Library: it is held for ghost, which is no run at work; "
        "no other can begin; the lock is free\n"
    ) in answer.out


def test_without_a_broker_the_doctor_still_looks_at_the_catalogue(
    doctor: Doctor, session: Session, collection: Collection, servers: ServerUrls
) -> None:
    put_in_outbox(session, [(make_pool(session, collection, "abc"), title_data("abc"))])
    session.execute(update(ApplyOutbox).values(published_at=utc_now() - LONG))
    set_checkpoint(session, collection, Workflow.PURCHASES, utc_now() + timedelta(days=1))
    with settings(database_url=servers.database_url, redis_url="redis://127.0.0.1:9/0"):
        found = doctor.finds_wrong()
    assert list(found) == ["checkpoint of purchases of Alder Library", "outbox"]


def test_a_look_that_fails_is_a_finding(
    doctor: Doctor, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.exceptions import ConnectionError as RedisAway

    from accession.tasks import care

    def fail() -> Any:
        raise RedisAway("Connection refused.")

    monkeypatch.setattr(care, "stray_locks", fail)
    assert doctor.finds_wrong() == {"locks": "Connection refused."}
