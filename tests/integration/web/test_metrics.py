"""What Prometheus reads: the figures of ledger, catalogue and broker, in a form that its parser accepts."""

import re
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import insert
from sqlalchemy.orm import Session

from accession import __version__
from accession.accounts.collections import mark_for_deletion
from accession.bibliotheca.client import Endpoint, Outcome
from accession.catalog.apply import put_in_outbox
from accession.catalog.purchase_records import PurchaseDate
from accession.catalog.rejected_records import Rejection, keep_rejected
from accession.core.clock import utc_now
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import Workflow
from accession.db.engine import engine
from accession.db.models import Collection, RejectedRecord, Run, RunState, Timestamp
from accession.runs.ledger import Counters, end_run, find_run, open_run, record_page, timestamp
from tests.fixtures.factories import NOON, make_collection, make_pool, statements_of, title_data
from tests.fixtures.web_server import served

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def client(database: None, queues: Redis) -> Iterator[httpx.Client]:
    from accession.web.app import create_app

    with served(create_app()) as client:
        yield client


def parsed_as_openmetrics(text: str) -> list[Metric]:
    return list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def scrape(client: httpx.Client) -> Samples:
    """Every sample by its name and its labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name.removeprefix("accession_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


def worked(session: Session, collection: Collection, workflow: Workflow, task_id: str) -> Run:
    """A run that has done a page and goes on."""
    open_run(session, collection.id, workflow, task_id, {"offset": 1})
    run = find_run(session, task_id)
    assert run is not None
    counters = Counters(
        records_fetched=50, records_stored=48, records_rejected=2, titles_new=40, titles_changed=3
    )
    record_page(run, counters, since=None, next_cursor={"offset": 51})
    session.commit()
    return run


# The form


def test_a_fresh_installation_shows_zeros_and_no_ages(client: httpx.Client) -> None:
    samples = scrape(client)

    assert value(samples, "source_up", source="database") == 1
    assert value(samples, "source_up", source="broker") == 1
    assert value(samples, "vendor_requests_total", endpoint="marc", outcome="ok") == 0
    assert value(samples, "vendor_request_seconds_count", endpoint="items") == 0
    assert value(samples, "pages_total", workflow="events") == 0
    assert value(samples, "queue_messages", queue="apply", state="waiting") == 0
    assert value(samples, "workers") == 0
    assert value(samples, "beat_silent_seconds") is None
    (build,) = (dict(labels) for name, labels in samples if name == "build_info")
    assert build["version"] == __version__


def test_a_client_that_asks_for_openmetrics_gets_them(client: httpx.Client) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})

    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parsed_as_openmetrics(answer.text)}
    assert {"accession_vendor_requests", "accession_pages", "accession_workers"} <= names


def test_names_follow_the_conventions(client: httpx.Client) -> None:
    for family in text_string_to_metric_families(client.get("/metrics").text):
        assert re.fullmatch(r"accession_[a-z_]+[a-z]", family.name)
        assert family.documentation
        endings = {"counter": "_total", "histogram": "_(bucket|count|sum)"}.get(family.type, "")
        assert all(re.search(f"{endings}$", sample.name) for sample in family.samples)


def test_a_name_of_a_collection_cannot_break_the_form(client: httpx.Client, session: Session) -> None:
    name = 'Alder "North"\\ {x="y"}\nfake_metric 1'
    make_collection(session, name)

    samples = scrape(client)

    assert value(samples, "rejected_unresolved", collection=name) == 0
    assert not any(sample.startswith("fake") for sample, _ in samples)


# What the ledger and the catalogue know


def test_what_runs_count_never_becomes_less_when_they_end(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    run = worked(session, collection, Workflow.PURCHASES, "task-1")
    at_work = scrape(client)
    end_run(run, RunState.FAILED, "why")
    session.commit()
    ended = scrape(client)

    for samples in (at_work, ended):
        for name, number in (
            ("pages", 1),
            ("records_fetched", 50),
            ("records_stored", 48),
            ("records_rejected", 2),
            ("titles_new", 40),
            ("titles_changed", 3),
        ):
            assert value(samples, f"{name}_total", workflow="purchases") == number
            assert value(samples, f"{name}_total", workflow="events") == 0
    assert [value(samples, "runs_at_work", workflow="purchases") for samples in (at_work, ended)] == [1, 0]


def test_the_latest_run_of_each_workflow_shows_its_state(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    end_run(worked(session, collection, Workflow.PURCHASES, "task-1"), RunState.SUCCEEDED)
    end_run(worked(session, collection, Workflow.PURCHASES, "task-2"), RunState.FAILED, "why")
    worked(session, collection, Workflow.EVENTS, "task-3")

    samples = scrape(client)

    states = {
        (labels["workflow"], labels["state"])
        for name, pairs in samples
        if name == "latest_run" and (labels := dict(pairs))
    }
    assert states == {("purchases", "failed"), ("events", "running"), ("circulation", "never")}
    assert value(samples, "latest_run", collection="Alder Library", workflow="events", state="running") == 1


def test_checkpoints_have_an_age_once_there_is_one(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    timestamp(session, collection, Workflow.PURCHASES).finish = utc_now() - timedelta(hours=3)
    timestamp(session, collection, Workflow.EVENTS)
    session.commit()

    samples = scrape(client)

    age = value(samples, "checkpoint_age_seconds", collection="Alder Library", workflow="purchases")
    assert age == pytest.approx(3 * 3600, abs=60)
    assert [name for name, _ in samples].count("checkpoint_age_seconds") == 1


def test_titles_and_records_that_wait_for_somebody_are_counted_by_collection(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    put_in_outbox(session, [(make_pool(session, collection, "abc"), title_data("abc"))])
    rejections = [Rejection("It has no id.", "<record/>", f"hash {number}") for number in range(3)]
    keep_rejected(session, collection, PurchaseDate(NOON.date()), rejections)
    session.flush()
    resolved = session.query(RejectedRecord).first()
    assert resolved is not None
    resolved.resolved_at = utc_now()
    mark_for_deletion(make_collection(session, "Gone Library"))
    session.commit()

    samples = scrape(client)

    assert value(samples, "applies_waiting", collection="Alder Library") == 1
    assert value(samples, "rejected_unresolved", collection="Alder Library") == 2
    assert not any("Gone Library" in dict(labels).values() for _, labels in samples)


# What the broker knows


def test_requests_are_counted_by_their_end_and_their_time(client: httpx.Client) -> None:
    from accession.tasks.metrics import count_applied, request_counter

    count = request_counter()
    for seconds in (0.03, 0.03, 0.7, 300):
        count(Endpoint.MARC, Outcome.OK, seconds)
    count(Endpoint.MARC, Outcome.TIMEOUT, 60)
    count_applied(described=5, counts=7)

    samples = scrape(client)

    assert value(samples, "vendor_requests_total", endpoint="marc", outcome="ok") == 4
    assert value(samples, "vendor_requests_total", endpoint="marc", outcome="timeout") == 1
    up_to = {
        bound: value(samples, "vendor_request_seconds_bucket", endpoint="marc", le=bound)
        for bound in ("0.02", "0.05", "1.0", "60.0", "120.0", "+Inf")
    }
    assert up_to == {"0.02": 0, "0.05": 2, "1.0": 3, "60.0": 4, "120.0": 4, "+Inf": 5}
    assert value(samples, "vendor_request_seconds_count", endpoint="marc") == 5
    assert value(samples, "vendor_request_seconds_sum", endpoint="marc") == pytest.approx(360.76)
    assert value(samples, "titles_applied_total", kind="described") == 5
    assert value(samples, "titles_applied_total", kind="counts") == 7


def test_workers_beat_and_queues_are_shown(client: httpx.Client, collection: Collection) -> None:
    from accession.tasks.chain import start_chains
    from accession.tasks.heartbeats import note_tick, note_worker
    from accession.tasks.workflows import CHAINS

    note_worker("alder@one")
    note_worker("alder@two")
    note_tick()
    start_chains(CHAINS[Workflow.EVENTS], [collection.id])

    samples = scrape(client)

    assert value(samples, "workers") == 2
    assert value(samples, "beat_silent_seconds") in (0, 1)
    assert value(samples, "queue_messages", queue="default", state="waiting") == 1
    assert value(samples, "queue_messages", queue="default", state="unacknowledged") == 0


# Servers that are away, and many collections


@pytest.fixture
def no_broker(client: httpx.Client) -> Iterator[None]:
    before = get_settings()
    use_settings(before.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")}))
    yield
    use_settings(before)


def test_without_a_broker_the_rest_is_shown_all_the_same(
    client: httpx.Client, collection: Collection, no_broker: None
) -> None:
    samples = scrape(client)

    assert value(samples, "source_up", source="broker") == 0
    assert value(samples, "source_up", source="database") == 1
    assert value(samples, "pages_total", workflow="purchases") == 0
    assert value(samples, "workers") is None


def test_a_database_that_takes_too_long_is_not_waited_for(
    client: httpx.Client, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.web import metrics

    monkeypatch.setattr(metrics, "_DATABASE_MILLISECONDS", 50)
    with engine().begin() as connection:
        connection.exec_driver_sql("LOCK TABLE run_totals")
        samples = scrape(client)

    assert value(samples, "source_up", source="database") == 0
    assert value(samples, "workers") == 0
    assert value(scrape(client), "source_up", source="database") == 1


def test_a_scrape_that_hangs_does_not_keep_others_waiting_for_long(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.web import metrics

    monkeypatch.setattr(metrics, "_TURN_SECONDS", 0.01)
    with metrics._ONE_AT_A_TIME:
        assert client.get("/metrics").status_code == 503
    assert client.get("/metrics").status_code == 200


def fill(session: Session, number: int) -> None:
    """So many collections, each with checkpoints, runs and rejected records."""
    collection = make_collection(session, "Library 0")
    row = {column.key: getattr(collection, column.key) for column in Collection.__table__.columns}
    del row["id"]
    rows = [row | {"name": f"Library {n}"} for n in range(1, number)]
    ids = [collection.id]
    if rows:
        ids += session.scalars(insert(Collection).returning(Collection.id), rows)
    of_each = [(collection_id, workflow) for collection_id in ids for workflow in Workflow]
    session.execute(
        insert(Timestamp),
        [
            {"collection_id": i, "service": w.service, "service_type": "task", "finish": NOON}
            for i, w in of_each
        ],
    )
    run = {"cursor": {"offset": 1}, "state": "succeeded", "started_at": NOON, "updated_at": NOON}
    session.execute(
        insert(Run),
        [
            run | {"collection_id": i, "workflow": w.value, "task_id": f"{i} {w} {n}"}
            for i, w in of_each
            for n in range(10)
        ],
    )
    session.commit()


@pytest.mark.parametrize("number", [1, 200])
def test_a_scrape_sends_the_same_statements_however_many_collections_there_are(
    client: httpx.Client, session: Session, number: int
) -> None:
    fill(session, number)
    scrape(client)
    with statements_of(engine()) as sent:
        answer = client.get("/metrics")

    # Of those one asks who it is that asks.
    assert len(sent) == 10, sent
    assert answer.text.count("accession_checkpoint_age_seconds{") == 3 * number
