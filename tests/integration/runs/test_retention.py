"""Deletion of old rows: what is deleted, what is kept, and who waits for it."""

from datetime import date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, ActorKind, AuditAction, record
from accession.catalog.circulation import record_events
from accession.catalog.circulation_totals import roll_up_events
from accession.catalog.findings import Differences, update_findings
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import StoredPurchases
from accession.catalog.rejected_records import (
    RejectedRecordData,
    find_rejected_hashes,
    resolve_rejected_record,
    store_rejected_records,
)
from accession.catalog.run_titles import record_looked_up
from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import (
    AuditEntry,
    Base,
    CirculationEvent,
    CirculationTotal,
    Collection,
    DeliveryState,
    LicensePool,
    Notification,
    NotificationChannel,
    NotificationIncident,
    NotificationRule,
    Pruning,
    RejectedRecord,
    Run,
    RunDay,
    RunRetry,
    RunSample,
    RunState,
    TitleChange,
    VerificationFinding,
    WebhookDelivery,
    WebhookDeliveryState,
)
from accession.runs import retention
from accession.runs.ledger import (
    RunCounters,
    end_run,
    find_run,
    open_run,
    record_retry,
    record_step,
    sum_run_counters,
)
from accession.runs.retention import KINDS, find_kinds, prune
from accession.webhooks.registry import pause_webhook
from tests.fixtures.factories import (
    NOON,
    apply_titles,
    event_data,
    make_collection,
    make_pool,
    title_data,
)
from tests.fixtures.webhooks import ACTOR, make_webhook

DAY = timedelta(days=1)
NOW = NOON + 400 * DAY


def prune_all(**settings: Any) -> dict[str, int]:
    """Prune all kinds at `NOW`, and return the numbers that are not 0."""
    changed = get_settings().model_copy(update=settings)
    return {name: rows for name, rows in prune(KINDS, changed, NOW).items() if rows}


def add_run(
    session: Session,
    collection: Collection,
    at: datetime,
    state: RunState = RunState.SUCCEEDED,
    workflow: Workflow = Workflow.EVENTS,
) -> Run:
    """Add and commit a run of ten records that ended at this time, after one retry."""
    task_id = str(uuid4())
    with time_machine.travel(at - timedelta(minutes=1), tick=False):
        open_run(session, collection.id, workflow, task_id, {})
        run = find_run(session, task_id)
        assert run is not None
        record_retry(run, "The vendor is unavailable.", retry=1)
    counters = RunCounters(records_fetched=10, records_stored=10)
    with time_machine.travel(at, tick=False):
        record_step(run, counters, since=None, next_cursor={"offset": 51})
        if state not in ("queued", "running"):
            end_run(run, state)
    session.commit()
    return run


def run_ids(session: Session) -> list[int]:
    return list(session.scalars(select(Run.id).order_by(Run.id)))


def count(session: Session, model: type[Base]) -> int:
    return session.scalar(select(func.count()).select_from(model)) or 0


def test_old_runs_are_deleted_with_retries_and_samples(session: Session, collection: Collection) -> None:
    for days in (91, 92):
        add_run(session, collection, NOW - days * DAY)
    recent = add_run(session, collection, NOW - 89 * DAY)

    assert prune_all() == {"runs": 2}
    assert run_ids(session) == [recent.id]
    assert (count(session, RunRetry), count(session, RunSample)) == (1, 1)


def test_last_run_of_each_state_is_kept(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    newest = []
    for owner in (collection, other):
        for workflow in (Workflow.EVENTS, Workflow.CIRCULATION):
            for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.INTERRUPTED):
                add_run(session, owner, NOON, state, workflow)
                newest.append(add_run(session, owner, NOON, state, workflow).id)

    assert prune_all() == {"runs": 12}
    assert run_ids(session) == newest
    assert prune_all() == {}


def test_active_run_is_kept_however_old(session: Session, collection: Collection) -> None:
    active = add_run(session, collection, NOON, RunState.RUNNING)
    other = make_collection(session, "Birch Library")
    add_run(session, other, NOON)
    newest = add_run(session, other, NOON)
    prune_all()

    assert run_ids(session) == [active.id, newest.id]


def test_run_with_pending_titles_is_kept(session: Session, collection: Collection) -> None:
    """The next run looks them up, so that no title stays without metadata."""
    run = add_run(session, collection, NOON, RunState.FAILED)
    record_looked_up(session, run, [], {"solaris": True})
    session.commit()
    newest = add_run(session, collection, NOON, RunState.FAILED)

    assert prune_all() == {}
    assert run_ids(session) == [run.id, newest.id]


def test_only_known_tables_refer_to_runs() -> None:
    """Rows of a table that is not listed here would be deleted with the runs."""
    referring = {
        table.name
        for table in Base.metadata.tables.values()
        for key in table.foreign_keys
        if key.column.table.name == "runs"
    }
    details = {"run_retries", "run_samples", "run_steps", "run_step_totals", "run_log_lines", "run_requests"}
    assert referring == {*details, "run_titles", "listed_records"}


def test_totals_of_deleted_runs_stay(session: Session, collection: Collection) -> None:
    for _ in range(3):
        add_run(session, collection, NOON)
    before = sum_run_counters(session)
    prune_all()

    assert sum_run_counters(session) == before
    day = session.scalars(select(RunDay)).one()
    assert (day.day, day.succeeded, day.records_fetched) == (NOON.date(), 3, 30)


def test_totals_per_day_are_deleted_later(session: Session, collection: Collection) -> None:
    for days in (366, 364):
        add_run(session, collection, NOW - days * DAY)

    assert prune_all(retention_days_run_totals=365, retention_days_runs=0) == {"run-totals": 1}
    assert session.scalars(select(RunDay.day)).all() == [(NOW - 364 * DAY).date()]
    assert len(run_ids(session)) == 2


def test_old_title_changes_are_deleted_by_kind(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "solaris")
    for days, title, owned in ((800, "A", 1), (799, "B", 2), (91, "C", 3), (89, "D", 4)):
        at = NOW - days * DAY
        with time_machine.travel(at, tick=False):
            data = title_data("solaris", as_of=at, title=title, licenses_owned=owned, licenses_available=0)
            apply_titles(session, {pool.id: data})
            session.commit()

    assert prune_all() == {"availability-changes": 2, "metadata-changes": 1}
    ages = select(TitleChange.changed_at).order_by(TitleChange.changed_at)
    metadata = session.scalars(ages.where(TitleChange.edition_id.is_not(None))).all()
    availability = session.scalars(ages.where(TitleChange.license_pool_id.is_not(None))).all()
    assert [(NOW - at).days for at in metadata] == [91, 89]
    assert [(NOW - at).days for at in availability] == [89]


def reject(session: Session, collection: Collection, name: str, workflow: Workflow) -> RejectedRecord:
    data = RejectedRecordData("It has no id.", f"<{name}/>", name)
    store_rejected_records(session, collection, PurchaseDate(date(2024, 5, 1)), [data], workflow)
    session.commit()
    return session.scalars(select(RejectedRecord).filter_by(content_hash=name)).one()


def test_resolved_record_loses_its_xml_but_stays_known(session: Session, collection: Collection) -> None:
    """A verification lists the record again: it must not be reported again."""
    for name in ("open", "resolved"):
        reject(session, collection, name, Workflow.PURCHASES)
    with time_machine.travel(NOON, tick=False):
        resolve_rejected_record(session, 2, "It is a test.")
    session.commit()

    assert prune_all() == {"rejected-records": 1}
    assert session.scalars(select(RejectedRecord.raw_xml).order_by(RejectedRecord.id)).all() == [
        "<open/>",
        "",
    ]
    assert find_rejected_hashes(session, collection, ["resolved"]) == {"resolved"}
    assert prune_all() == {}


def test_resolved_event_is_deleted(session: Session, collection: Collection) -> None:
    for name in ("old", "recent"):
        rejected = reject(session, collection, name, Workflow.EVENTS)
        with time_machine.travel(NOON if name == "old" else NOW - DAY, tick=False):
            resolve_rejected_record(session, rejected.id, "It is a test.")
    session.commit()

    assert prune_all() == {"rejected-events": 1}
    assert session.scalars(select(RejectedRecord.content_hash)).all() == ["recent"]


def test_resolved_findings_are_deleted_unless_one_is_open(session: Session, collection: Collection) -> None:
    may = (date(2024, 5, 1), date(2024, 6, 1))
    june = (date(2024, 6, 1), date(2024, 7, 1))
    extra = {"moved": StoredPurchases(1, date(2024, 6, 2), date(2024, 6, 2))}
    with time_machine.travel(NOON, tick=False):
        update_findings(session, collection, Differences(*may, missing={"moved": 1, "gone": 1}, extra={}))
        update_findings(session, collection, Differences(*june, missing={}, extra=extra))
        update_findings(session, collection, Differences(*may, missing={}, extra={}))
    session.commit()

    assert prune_all() == {"findings": 1}
    assert set(session.scalars(select(VerificationFinding.identifier))) == {"moved"}


def test_old_audit_entries_are_deleted(session: Session, database: None) -> None:
    now = datetime.now(NOON.tzinfo)
    for days in (101, 99):
        with time_machine.travel(now - days * DAY, tick=False):
            record(session, Actor(ActorKind.USER, "ann", "127.0.0.1"), AuditAction.USER_LOGIN, str(days))
    session.commit()
    settings = get_settings().model_copy(update={"retention_days_audit_log": 100})

    assert prune(find_kinds(["audit-log"]), settings, now) == {"audit-log": 1}
    assert session.scalars(select(AuditEntry.subject)).all() == ["99"]


def test_events_are_deleted_after_90_days(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "solaris")
    apply_titles(session, {pool.id: title_data("solaris", as_of=NOON)})
    events = [event_data(str(days), "CHECKOUT", at=NOW - days * DAY) for days in (92, 91, 89)]
    record_events(session, collection, {"solaris": pool}, events)
    roll_up_events(session, NOW)
    session.commit()

    assert prune_all()["events"] == 2
    assert session.scalars(select(CirculationEvent.event_id)).all() == ["89"]


def test_totals_of_events_are_deleted_unless_copies_were_removed(
    session: Session, collection: Collection
) -> None:
    pool = make_pool(session, collection, "solaris")
    apply_titles(session, {pool.id: title_data("solaris", as_of=NOON - 800 * DAY)})
    events = [
        event_data(event_type, event_type, at=NOW - days * DAY)
        for event_type, days in (("CHECKOUT", 731), ("REMOVED", 731), ("CHECKIN", 729))
    ]
    record_events(session, collection, {"solaris": pool}, events)
    roll_up_events(session, NOW)
    session.commit()

    assert prune_all()["event-totals"] == 1
    assert set(session.scalars(select(CirculationTotal.event_type))) == {"REMOVED", "CHECKIN"}


def test_days_of_0_keep_everything(session: Session, collection: Collection) -> None:
    for _ in range(3):
        add_run(session, collection, NOON)
    never = {kind.setting: 0 for kind in KINDS}

    assert prune_all(**never) == {}
    assert len(run_ids(session)) == 3


def test_many_rows_are_deleted_in_batches(
    session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_SIZE", 2)
    runs = [add_run(session, collection, NOON) for _ in range(6)]

    assert prune_all() == {"runs": 5}
    assert run_ids(session) == [runs[-1].id]
    assert session.get_one(Pruning, "runs").rows == 5


def test_pruning_without_time_left_deletes_nothing(session: Session, collection: Collection) -> None:
    for _ in range(3):
        add_run(session, collection, NOON)

    assert prune(find_kinds(["runs"]), get_settings(), NOW, seconds=0) == {"runs": 0}
    assert prune(find_kinds(["runs"]), get_settings(), NOW, seconds=60) == {"runs": 2}


def test_second_pruning_leaves_the_kind_to_the_first(session: Session, collection: Collection) -> None:
    for _ in range(3):
        add_run(session, collection, NOON)
    prune_all()
    for _ in range(3):
        add_run(session, collection, NOON)
    with transaction() as first:
        first.scalars(select(Pruning).filter_by(kind="runs").with_for_update()).one()
        assert prune_all() == {}

    assert prune_all() == {"runs": 3}


def test_locked_run_is_left_for_the_next_pruning(session: Session, collection: Collection) -> None:
    runs = [add_run(session, collection, NOON) for _ in range(3)]
    with transaction() as other:
        other.execute(select(Run.id).where(Run.id == runs[0].id).with_for_update())
        assert prune_all() == {"runs": 1}
    assert run_ids(session) == [runs[0].id, runs[2].id]


def test_locked_titles_do_not_stop_other_kinds(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "solaris")
    apply_titles(session, {pool.id: title_data("solaris", as_of=NOON)})
    events = [event_data(str(days), "CHECKOUT", at=NOW - days * DAY) for days in (92, 91)]
    record_events(session, collection, {"solaris": pool}, events)
    roll_up_events(session, NOW)
    for _ in range(2):
        add_run(session, collection, NOON)
    with transaction() as other:
        other.execute(select(LicensePool.id).with_for_update())
        assert prune_all() == {"runs": 1}
    assert prune_all() == {"events": 1}


def test_unknown_kind_is_reported() -> None:
    with pytest.raises(UserError, match='There is no kind of data "logs" to prune: use runs, run-totals'):
        find_kinds(["logs"])


@pytest.mark.parametrize("name", sorted({kind.setting for kind in KINDS}))
def test_every_kind_has_a_setting(name: str) -> None:
    assert getattr(Settings(), name) > 0


def test_run_of_open_incident_is_kept(session: Session, collection: Collection) -> None:
    """Its notification links to the run."""
    runs = [add_run(session, collection, NOON, RunState.FAILED) for _ in range(2)]
    channel = NotificationChannel(name="mail", service="mailto", url_encrypted=b"")
    session.add(channel)
    session.flush()
    rule = NotificationRule(
        name="rule",
        channel_id=channel.id,
        events=[],
        min_severity="info",
        time_zone="UTC",
        critical_ignores_quiet_hours=False,
        still_failing_hours=24,
        no_success_hours=24,
        rejected_records=1,
        disk_free_percent=1,
    )
    session.add(rule)
    session.flush()
    session.add(
        NotificationIncident(
            rule_id=rule.id,
            key="k",
            kind="run_failed",
            run_id=runs[0].id,
            subject="",
            reason="",
            cause="",
            since=NOON,
            opened_at=NOON,
        )
    )
    session.commit()

    assert prune_all() == {}


def test_old_notifications_are_deleted_once_delivered(session: Session, database: None) -> None:
    for state in DeliveryState:
        session.add(
            Notification(
                channel="mail",
                kind="test",
                severity="info",
                cause="",
                items=[],
                state=state.value,
                created_at=NOON,
                due_at=NOON,
            )
        )
    session.commit()

    assert prune_all() == {"notifications": 2}
    assert session.scalars(select(Notification.state)).all() == [DeliveryState.PENDING]


def test_old_webhook_events_are_deleted_once_delivered(session: Session, collection: Collection) -> None:
    webhook = make_webhook(session)
    for state in WebhookDeliveryState:
        session.add(
            WebhookDelivery(
                webhook_id=webhook.id,
                collection_id=collection.id,
                event="title.added",
                data={},
                state=state.value,
                created_at=NOON,
                due_at=NOON,
            )
        )
    session.commit()

    assert prune_all(retention_days_webhooks=0) == {}
    assert prune_all() == {"webhook-deliveries": 3}
    assert session.scalars(select(WebhookDelivery.state)).all() == [WebhookDeliveryState.PENDING]
    pause_webhook(session, ACTOR, webhook, "The index is gone.")
    session.commit()
    assert prune_all() == {"webhook-deliveries": 1}
