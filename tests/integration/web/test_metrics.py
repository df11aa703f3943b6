"""Prometheus metrics: format, values from ledger, catalogue and broker, and unavailable dependencies."""

import re
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
import time_machine
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from accession import __version__
from accession.accounts.collections import mark_for_deletion
from accession.bibliotheca.outcomes import Endpoint, RequestOutcome
from accession.catalog.findings import Differences, update_findings
from accession.catalog.outbox import enqueue_changes
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import StoredPurchases
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.catalog.verification import MonthView, store_verified_months
from accession.core.clock import utc_now
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import engine
from accession.db.models import (
    Collection,
    DigestMail,
    MailState,
    Pruning,
    RejectedRecord,
    Run,
    RunState,
    Timestamp,
    WebhookEvent,
)
from accession.digests.issues import store_manual_issue
from accession.digests.options import DigestOptions, set_digest
from accession.imports.verification import MIN_AGE
from accession.imports.verification_spans import FIRST_MONTH, months_between
from accession.notifications.events import record_export
from accession.notifications.incidents import apply_rules
from accession.notifications.problems import MachineState
from accession.runs.ledger import (
    RunCounters,
    end_run,
    find_run,
    get_or_create_checkpoint,
    open_run,
    record_step,
)
from accession.webhooks.delivery import deliver_events
from accession.webhooks.registry import pause_webhook
from tests.fixtures.digests import ANN
from tests.fixtures.factories import (
    NOON,
    make_collection,
    make_pool,
    record_statements,
    store_title,
    title_data,
)
from tests.fixtures.heartbeats import record_heartbeats
from tests.fixtures.notifications import make_channel
from tests.fixtures.purchases import purchase_title
from tests.fixtures.webhooks import ACTOR, make_webhook

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse_openmetrics(text: str) -> list[Metric]:
    return list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def scrape(client: httpx.Client) -> Samples:
    """Return every sample by its name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    return {
        (sample.name.removeprefix("accession_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def run_with_one_step(session: Session, collection: Collection, workflow: Workflow, task_id: str) -> Run:
    """Store a run in progress that has completed one step."""
    open_run(session, collection.id, workflow, task_id, {"offset": 1})
    run = find_run(session, task_id)
    assert run is not None
    counters = RunCounters(
        records_fetched=50, records_stored=48, records_rejected=2, titles_new=40, titles_changed=3
    )
    record_step(run, counters, since=None, next_cursor={"offset": 51})
    session.commit()
    return run


# Format


def test_new_installation_has_zero_counters_and_no_ages(client: httpx.Client) -> None:
    samples = scrape(client)

    assert value(samples, "dependency_up", dependency="database") == 1
    assert value(samples, "dependency_up", dependency="broker") == 1
    assert value(samples, "vendor_requests_total", endpoint="marc", outcome="ok") == 0
    assert value(samples, "vendor_request_seconds_count", endpoint="items") == 0
    assert value(samples, "pages_total", workflow="events") == 0
    assert value(samples, "queue_messages", queue="apply", state="waiting") == 0
    assert value(samples, "workers") == 0
    assert value(samples, "scheduler_last_tick_age_seconds") is None
    (build,) = (dict(labels) for name, labels in samples if name == "build_info")
    assert build["version"] == __version__


def test_openmetrics_format_is_returned_on_request(client: httpx.Client) -> None:
    response = client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})

    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(response.text)}
    assert {"accession_vendor_requests", "accession_pages", "accession_workers"} <= names


def test_metric_names_follow_conventions(client: httpx.Client) -> None:
    for family in text_string_to_metric_families(client.get("/metrics").text):
        assert re.fullmatch(r"accession_[a-z_]+[a-z]", family.name)
        assert family.documentation
        suffixes = {"counter": "_total", "histogram": "_(bucket|count|sum)"}.get(family.type, "")
        assert all(re.search(f"{suffixes}$", sample.name) for sample in family.samples)


def test_collection_name_is_escaped_in_labels(client: httpx.Client, session: Session) -> None:
    name = 'Alder "North"\\ {x="y"}\nfake_metric 1'
    make_collection(session, "Alder Library").name = name
    session.commit()

    samples = scrape(client)

    assert value(samples, "rejected_records_open", collection=name) == 0
    assert not any(sample.startswith("fake") for sample, _ in samples)


# Values from the ledger and the catalogue


def test_webhooks_have_pending_events_and_states(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    index = make_webhook(session)
    make_webhook(session, name="other", events=(WebhookEvent.TITLE_REMOVED,))
    store_title(session, collection, "abc")
    deliver_events(index.id)
    pause_webhook(session, ACTOR, index, "maintenance")
    session.commit()

    samples = scrape(client)

    assert value(samples, "webhook_events_pending", webhook="index") == 1
    assert value(samples, "webhook_events_pending", webhook="other") == 0
    age = value(samples, "webhook_events_pending_seconds", webhook="index")
    assert age is not None
    assert 0 < age < 3600
    assert value(samples, "webhook_events_pending_seconds", webhook="other") == 0
    assert value(samples, "webhook_paused", webhook="index") == 1
    assert value(samples, "webhook_paused", webhook="other") == 0
    failing = value(samples, "webhook_failing_seconds", webhook="index")
    assert failing is not None
    assert 0 < failing < 3600
    assert value(samples, "webhook_failing_seconds", webhook="other") == 0


def test_unsent_notifications_have_number_and_age(client: httpx.Client, session: Session) -> None:
    now = utc_now()
    begin, end = now - timedelta(hours=3), now + timedelta(hours=3)
    make_channel(session, "json://127.0.0.1:9")
    make_channel(session, "json://127.0.0.1:9", name="quiet", quiet_hours=f"{begin:%H:%M}-{end:%H:%M}")
    record_export(session, "alder", error="The target is full.")
    apply_rules(session, MachineState({}, ()), now - timedelta(hours=2))
    session.commit()

    samples = scrape(client)

    assert value(samples, "notifications_pending", channel="ops") == 1
    age = value(samples, "notifications_pending_seconds", channel="ops")
    assert age == pytest.approx(2 * 3600, abs=60)
    assert value(samples, "notifications_pending", channel="quiet") == 0
    assert value(samples, "notifications_pending_seconds", channel="quiet") == 0


def test_unsent_digest_mails_have_number_and_age(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    for digest_of in (collection, make_collection(session, "Birch Library")):
        set_digest(session, ANN, digest_of, DigestOptions(recipients=("ann@library.example",)))
    with time_machine.travel(utc_now() - timedelta(hours=2), tick=False):
        issue_id = store_manual_issue(session, ANN, collection, ())
        store_manual_issue(session, ANN, collection, ("bo@library.example",))
    sent = session.scalars(select(DigestMail).where(DigestMail.issue_id != issue_id)).one()
    sent.state = MailState.SENT.value
    session.commit()

    samples = scrape(client)

    assert value(samples, "digest_mails_pending", collection="Alder Library") == 1
    age = value(samples, "digest_mails_pending_seconds", collection="Alder Library")
    assert age == pytest.approx(2 * 3600, abs=60)
    assert value(samples, "digest_mails_pending", collection="Birch Library") == 0
    assert value(samples, "digest_mails_pending_seconds", collection="Birch Library") == 0


def test_run_counters_do_not_decrease_when_run_ends(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    run = run_with_one_step(session, collection, Workflow.PURCHASES, "task-1")
    during = scrape(client)
    end_run(run, RunState.FAILED, "why")
    session.commit()
    after = scrape(client)

    for samples in (during, after):
        for name, number in (
            ("pages", 1),
            ("records_fetched", 50),
            ("records_stored", 48),
            ("records_rejected", 2),
            ("titles_new", 40),
            ("titles_changed", 3),
            ("restarts", 0),
        ):
            assert value(samples, f"{name}_total", workflow="purchases") == number
            assert value(samples, f"{name}_total", workflow="events") == 0
    assert [value(samples, "runs_running", workflow="purchases") for samples in (during, after)] == [1, 0]


def test_run_state_is_that_of_the_latest_run(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    end_run(run_with_one_step(session, collection, Workflow.PURCHASES, "task-1"), RunState.SUCCEEDED)
    end_run(run_with_one_step(session, collection, Workflow.PURCHASES, "task-2"), RunState.FAILED, "why")
    run_with_one_step(session, collection, Workflow.EVENTS, "task-3")

    samples = scrape(client)

    states = {
        (labels["workflow"], labels["state"])
        for name, pairs in samples
        if name == "run_state" and (labels := dict(pairs))
    }
    assert states == {("purchases", "failed"), ("events", "running"), ("circulation", "never")}
    assert value(samples, "run_state", collection="Alder Library", workflow="events", state="running") == 1


def test_checkpoint_age_exists_only_with_a_checkpoint(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish = utc_now() - timedelta(hours=3)
    get_or_create_checkpoint(session, collection, Workflow.EVENTS)
    session.commit()

    samples = scrape(client)

    age = value(samples, "checkpoint_age_seconds", collection="Alder Library", workflow="purchases")
    assert age == pytest.approx(3 * 3600, abs=60)
    assert [name for name, _ in samples].count("checkpoint_age_seconds") == 1


def test_pending_updates_and_open_rejects_per_collection(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    enqueue_changes(session, [(make_pool(session, collection, "abc"), title_data("abc"))])
    rejections = [RejectedRecordData("It has no id.", "<record/>", f"hash {number}") for number in range(3)]
    store_rejected_records(session, collection, PurchaseDate(NOON.date()), rejections)
    session.flush()
    resolved = session.query(RejectedRecord).first()
    assert resolved is not None
    resolved.resolved_at = utc_now()
    mark_for_deletion(make_collection(session, "Removed Library"))
    session.commit()

    samples = scrape(client)

    assert value(samples, "outbox_pending", collection="Alder Library") == 1
    assert value(samples, "rejected_records_open", collection="Alder Library") == 2
    assert not any("Removed Library" in dict(labels).values() for _, labels in samples)


# Values from the broker


def test_vendor_requests_are_counted_by_outcome_and_duration(client: httpx.Client) -> None:
    from accession.tasks.metrics import count_applied, count_request, store_counted_requests

    for seconds in (0.03, 0.03, 0.7, 300):
        count_request(Endpoint.MARC, RequestOutcome.OK, seconds)
    count_request(Endpoint.MARC, RequestOutcome.TIMEOUT, 60)
    store_counted_requests()
    count_applied(metadata=5, counts=7)

    samples = scrape(client)

    assert value(samples, "vendor_requests_total", endpoint="marc", outcome="ok") == 4
    assert value(samples, "vendor_requests_total", endpoint="marc", outcome="timeout") == 1
    buckets = {
        bound: value(samples, "vendor_request_seconds_bucket", endpoint="marc", le=bound)
        for bound in ("0.02", "0.05", "1.0", "60.0", "120.0", "+Inf")
    }
    assert buckets == {"0.02": 0, "0.05": 2, "1.0": 3, "60.0": 4, "120.0": 4, "+Inf": 5}
    assert value(samples, "vendor_request_seconds_count", endpoint="marc") == 5
    assert value(samples, "vendor_request_seconds_sum", endpoint="marc") == pytest.approx(360.76)
    assert value(samples, "titles_applied_total", kind="metadata") == 5
    assert value(samples, "titles_applied_total", kind="counts") == 7


def test_workers_scheduler_and_queues_have_metrics(
    client: httpx.Client, collection: Collection, queues: Redis
) -> None:
    from accession.tasks.workflow_task import start_runs
    from accession.tasks.workflows import STEP_TASKS

    record_heartbeats(queues, "alder@one", "alder@two")
    start_runs(STEP_TASKS[Workflow.EVENTS], [collection.id])

    samples = scrape(client)

    assert value(samples, "workers") == 2
    assert value(samples, "scheduler_last_tick_age_seconds") == 0
    assert value(samples, "queue_messages", queue="default", state="waiting") == 1
    assert value(samples, "queue_messages", queue="default", state="unacknowledged") == 0


# Unavailable dependencies, and many collections


@pytest.fixture
def no_broker(client: httpx.Client) -> Iterator[None]:
    before = get_settings()
    use_settings(before.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")}))
    yield
    use_settings(before)


def test_unavailable_broker_leaves_database_metrics(
    client: httpx.Client, collection: Collection, no_broker: None
) -> None:
    samples = scrape(client)

    assert value(samples, "dependency_up", dependency="broker") == 0
    assert value(samples, "dependency_up", dependency="database") == 1
    assert value(samples, "pages_total", workflow="purchases") == 0
    assert value(samples, "workers") is None


def test_slow_database_leaves_broker_metrics(
    client: httpx.Client, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.web import metrics

    monkeypatch.setattr(metrics, "_STATEMENT_TIMEOUT_MS", 50)
    with engine().begin() as connection:
        connection.exec_driver_sql("LOCK TABLE run_totals")
        samples = scrape(client)

    assert value(samples, "dependency_up", dependency="database") == 0
    assert value(samples, "workers") == 0
    assert value(scrape(client), "dependency_up", dependency="database") == 1


def test_hanging_scrape_rejects_other_scrapes(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from accession.web import metrics

    monkeypatch.setattr(metrics, "_SCRAPE_LOCK_TIMEOUT_SECONDS", 0.01)
    with metrics._SCRAPE_LOCK:
        assert client.get("/metrics").status_code == 503
    assert client.get("/metrics").status_code == 200


def store_collections(session: Session, number: int) -> None:
    """Store this number of collections, each with checkpoints and runs."""
    collection = make_collection(session, "Library 0")
    row = {column.key: getattr(collection, column.key) for column in Collection.__table__.columns}
    del row["id"]
    rows = [row | {"name": f"Library {n}"} for n in range(1, number)]
    ids = [collection.id]
    if rows:
        ids += session.scalars(insert(Collection).returning(Collection.id), rows)
    pairs = [(collection_id, workflow) for collection_id in ids for workflow in SCHEDULED_WORKFLOWS]
    session.execute(
        insert(Timestamp),
        [
            {"collection_id": i, "service": w.service, "service_type": "task", "finish": NOON}
            for i, w in pairs
        ],
    )
    run = {"cursor": {"offset": 1}, "state": "succeeded", "started_at": NOON, "updated_at": NOON}
    session.execute(
        insert(Run),
        [
            run | {"collection_id": i, "workflow": w.value, "task_id": f"{i} {w} {n}"}
            for i, w in pairs
            for n in range(10)
        ],
    )
    session.commit()


@pytest.mark.parametrize("number", [1, 20])
def test_scrape_sends_constant_number_of_statements(
    client: httpx.Client, session: Session, number: int
) -> None:
    store_collections(session, number)
    scrape(client)
    with record_statements(engine()) as statements:
        response = client.get("/metrics")

    # One of them belongs to the authentication of the request.
    assert len(statements) == 21, statements
    assert response.text.count("accession_checkpoint_age_seconds{") == 3 * number


# Verification


def test_open_findings_are_counted_by_kind(client: httpx.Client, session: Session) -> None:
    alder = make_collection(session, "Alder Library")
    make_collection(session, "Birch Library")
    purchases = StoredPurchases(1, NOON.date(), NOON.date())
    start, end = NOON.date(), NOON.date() + timedelta(days=1)
    update_findings(session, alder, Differences(start, end, {"a": 1, "b": 2}, {"c": purchases}))
    session.commit()

    samples = scrape(client)

    counts = [
        value(samples, "verification_findings_open", collection=name, kind=kind)
        for name in ("Alder Library", "Birch Library")
        for kind in ("missing", "moved", "extra")
    ]
    assert counts == [2, 0, 1, 0, 0, 0]


def test_verification_age_is_that_of_the_oldest_month(client: httpx.Client, session: Session) -> None:
    now = utc_now()
    alder, birch = (make_collection(session, name) for name in ("Alder Library", "Birch Library"))
    make_collection(session, "Without purchases")
    for collection in (alder, birch):
        purchase_title(session, collection, "abc", NOON)
        collection.created_at = now - timedelta(days=400)
    months = months_between(FIRST_MONTH, (now - MIN_AGE).date() + timedelta(days=1))
    ages = [timedelta(days=number % 30) for number in range(len(months))]
    views = [MonthView(month, now - age) for month, age in zip(months, ages, strict=True)]
    store_verified_months(session, alder, views)
    store_verified_months(session, birch, views[1:])
    session.commit()

    samples = scrape(client)

    days = {
        name: round((value(samples, "verification_age_seconds", collection=name) or 0) / 86400)
        for name in ("Alder Library", "Birch Library")
    }
    assert days == {"Alder Library": 29, "Birch Library": 400}
    assert value(samples, "verification_age_seconds", collection="Without purchases") is None


def test_month_that_became_due_today_has_no_age(client: httpx.Client, session: Session) -> None:
    now = utc_now()
    collection = make_collection(session, "Alder Library")
    purchase_title(session, collection, "abc", NOON)
    collection.created_at = now - timedelta(days=4000)
    months = months_between(FIRST_MONTH, (now - MIN_AGE).date() + timedelta(days=1))
    store_verified_months(session, collection, [MonthView(month, now) for month in months[:-1]])
    session.commit()

    age = value(scrape(client), "verification_age_seconds", collection="Alder Library")

    assert age is not None
    assert age <= 31 * 86400


def test_verification_without_a_budget_has_no_age(
    client: httpx.Client, session: Session, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    purchase_title(session, collection, "abc", NOON)
    monkeypatch.setattr(get_settings(), "verification_requests", 0)

    assert value(scrape(client), "verification_age_seconds", collection=collection.name) is None


# Storage


def test_table_sizes_and_deleted_rows_are_metrics(client: httpx.Client, session: Session) -> None:
    session.add(Pruning(kind="runs", pruned_at=NOON, rows=7))
    session.commit()
    samples = scrape(client)

    assert (value(samples, "table_bytes", table="runs") or 0) > 0
    assert value(samples, "rows_pruned_total", kind="runs") == 7
    assert value(samples, "rows_pruned_total", kind="events") == 0
