"""Prometheus metrics at `/metrics`, read from the ledger, the catalogue and the broker at each scrape."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from platform import python_version
from threading import Lock

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from redis import RedisError
from sqlalchemy.exc import OperationalError

from accession import __version__
from accession.bibliotheca.outcomes import Endpoint
from accession.catalog.rejected_records import count_open_rejected_records
from accession.catalog.verification import count_open_findings, oldest_verifications
from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.db.due_rows import WaitingMessages
from accession.db.engine import transaction
from accession.db.models import FindingKind
from accession.db.sizes import table_sizes
from accession.digests.delivery import count_waiting as count_waiting_mails
from accession.imports.verification import MIN_AGE
from accession.imports.verification_spans import FIRST_MONTH
from accession.notifications.delivery import count_waiting as count_waiting_notifications
from accession.runs.ledger import sum_run_counters
from accession.runs.retention import pruned_rows
from accession.runs.views import StatusView, count_running_runs, status_views
from accession.tasks.heartbeats import read_heartbeats
from accession.tasks.metrics import LATENCY_BUCKETS, Latency, queue_depths, read_worker_metrics
from accession.webhooks.registry import WebhookView, webhook_views

log = structlog.get_logger(__name__)

_STATEMENT_TIMEOUT_MS = 5000
_SCRAPE_LOCK_TIMEOUT_SECONDS = 5.0
_SCRAPE_LOCK = Lock()

# Counters of the run ledger, with their help texts.
_RUN_COUNTERS = {
    "pages": "Pages of purchase records, slices of events and batches of titles that were processed",
    "records_fetched": "Purchase records, events and titles fetched from the vendor",
    "records_stored": "Fetched records that were stored, including those stored before",
    "records_rejected": "Fetched records that were rejected",
    "titles_new": "Titles that were new in a collection",
    "titles_changed": "Titles whose metadata or availability changed",
    "restarts": "Times that an import went back because the vendor's pages contradicted each other",
}

# Label values and the value of each sample.
_Samples = Iterable[tuple[Sequence[str], float]]

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Return all metrics as Prometheus text or OpenMetrics, whichever the client prefers.

    Only one scrape runs at a time, so that a scrape that hangs blocks one thread; others get status 503.
    """
    if not _SCRAPE_LOCK.acquire(timeout=_SCRAPE_LOCK_TIMEOUT_SECONDS):
        return Response("Another scrape is in progress: try again later.", 503)
    try:
        registry = CollectorRegistry()
        registry.register(AccessionCollector())
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})
    finally:
        _SCRAPE_LOCK.release()


class AccessionCollector(Collector):
    """Collector of the current values of all metrics.

    When a dependency is unavailable its metrics are missing and its `accession_dependency_up` is 0.
    """

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; the number of SQL statements does not depend on the number of collections."""
        build = [((__version__, python_version()), 1)]
        yield _gauge("build_info", "Always 1; the labels are the versions", ("version", "python"), build)
        availability = []
        for dependency, read in (("database", _database_metrics), ("broker", _broker_metrics)):
            families = _read_if_available(dependency, read)
            yield from families or ()
            availability.append(((dependency,), families is not None))
        yield _gauge(
            "dependency_up", "1 if the dependency responded to this scrape", ("dependency",), availability
        )


def _read_if_available(dependency: str, read: Callable[[], list[Metric]]) -> list[Metric] | None:
    try:
        return read()
    except (OperationalError, RedisError) as error:
        log.warning(
            "dependency unavailable: metrics missing", dependency=dependency, reason=type(error).__name__
        )
        return None


def _database_metrics() -> list[Metric]:
    with transaction(_STATEMENT_TIMEOUT_MS) as session:
        statuses = status_views(session)
        rejected = count_open_rejected_records(session)
        running = count_running_runs(session)
        totals = sum_run_counters(session)
        findings = count_open_findings(session)
        verifications = oldest_verifications(session, FIRST_MONTH, MIN_AGE)
        tables = table_sizes(session, utc_now())
        pruned = pruned_rows(session)
        webhooks = webhook_views(session)
        notifications, mails = count_waiting_notifications(session), count_waiting_mails(session)
    counters = [
        _counter(
            name,
            description,
            ("workflow",),
            [((workflow,), getattr(counts, name)) for workflow, counts in totals.items()],
        )
        for name, description in _RUN_COUNTERS.items()
    ]
    running_samples = [((workflow,), number) for workflow, number in running.items()]
    rejected_samples = [((collection,), number) for collection, number in rejected.items()]
    return [
        *counters,
        _gauge("runs_running", "Runs in progress", ("workflow",), running_samples),
        _gauge("rejected_records_open", "Open rejected records", ("collection",), rejected_samples),
        *_workflow_metrics(statuses),
        *_verification_metrics(findings, verifications),
        _gauge(
            "table_bytes",
            "Size of a table and its indexes",
            ("table",),
            [((table.name,), table.bytes) for table in tables],
        ),
        _counter(
            "rows_pruned",
            "Rows that were deleted because of their age",
            ("kind",),
            [((kind,), rows) for kind, rows in pruned.items()],
        ),
        *_webhook_metrics(webhooks),
        *_waiting_metrics("notifications", "Messages not sent yet", "channel", notifications),
        *_waiting_metrics("digest_mails", "Mails of digests not sent yet", "collection", mails),
    ]


def _workflow_metrics(statuses: Sequence[StatusView]) -> Iterator[Metric]:
    now = utc_now()
    ages = [
        ((status.collection, status.workflow), (now - status.checkpoint).total_seconds())
        for status in statuses
        if status.checkpoint is not None and status.unconfirmed_since is None
    ]
    states = [((status.collection, status.workflow, status.state), 1) for status in statuses]
    pending = {(status.collection,): status.pending_updates for status in statuses}
    labels = ("collection", "workflow")
    yield _gauge("checkpoint_age_seconds", "Time since the moment synced through", labels, ages)
    yield _gauge("run_state", "Always 1; state is the state of the latest run", (*labels, "state"), states)
    paused = [((status.collection, status.workflow), status.pause is not None) for status in statuses]
    yield _gauge("workflow_paused", "1 if the workflow is paused", labels, paused)
    yield _gauge("outbox_pending", "Titles with pending updates", ("collection",), pending.items())


def _webhook_metrics(webhooks: Sequence[WebhookView]) -> Iterator[Metric]:
    def samples(read: Callable[[WebhookView], float]) -> _Samples:
        return [((webhook.name,), read(webhook)) for webhook in webhooks]

    now, labels = utc_now(), ("webhook",)
    pending = {each.name: WaitingMessages(each.pending, each.pending_since) for each in webhooks}
    yield from _waiting_metrics("webhook_events", "Events not delivered yet", "webhook", pending)
    yield _gauge(
        "webhook_failing_seconds",
        "Time since the first failed try of an event that has not been delivered",
        labels,
        samples(lambda each: (now - (each.failing_since or now)).total_seconds()),
    )
    yield _gauge("webhook_paused", "1 if the webhook is paused", labels, samples(lambda each: each.is_paused))


def _waiting_metrics(
    name: str, description: str, label: str, waiting: Mapping[str, WaitingMessages]
) -> Iterator[Metric]:
    numbers = [((key,), messages.number) for key, messages in waiting.items()]
    ages = [((key,), messages.age_seconds) for key, messages in waiting.items()]
    yield _gauge(f"{name}_pending", description, (label,), numbers)
    yield _gauge(f"{name}_pending_seconds", f"{description}: age of the oldest", (label,), ages)


def _verification_metrics(
    findings: Mapping[str, Mapping[FindingKind, int]], verifications: Mapping[str, datetime]
) -> Iterator[Metric]:
    now = utc_now()
    # Without a budget no month is verified by itself.
    oldest = verifications if get_settings().verification_requests else {}
    ages = [
        ((collection,), (now - verified_at).total_seconds()) for collection, verified_at in oldest.items()
    ]
    numbers = [
        ((collection, kind), number)
        for collection, by_kind in findings.items()
        for kind, number in by_kind.items()
    ]
    yield _gauge(
        "verification_age_seconds", "Time since the oldest verification of a month", ("collection",), ages
    )
    yield _gauge("verification_findings_open", "Open findings", ("collection", "kind"), numbers)


def _broker_metrics() -> list[Metric]:
    # Importing the Celery app requires a configured broker.
    from accession.tasks.broker import APPLY_QUEUE, DEFAULT_QUEUE

    counts, heartbeats = read_worker_metrics(), read_heartbeats()
    messages = [
        ((queue, state), number)
        for queue, depth in queue_depths([DEFAULT_QUEUE, APPLY_QUEUE]).items()
        for state, number in vars(depth).items()
    ]
    applied = [((kind,), number) for kind, number in counts.applied.items()]
    tick_age = heartbeats.scheduler_tick_age_seconds
    outcome_labels = ("endpoint", "outcome")
    return [
        _counter("vendor_requests", "Requests sent to the vendor", outcome_labels, counts.requests.items()),
        _request_duration(counts.latency),
        _counter("titles_applied", "Titles whose updates were written", ("kind",), applied),
        _gauge("queue_messages", "Messages in a queue", ("queue", "state"), messages),
        _gauge("workers", "Workers with a heartbeat in the last 30 s", (), [((), heartbeats.workers)]),
        _gauge(
            "scheduler_last_tick_age_seconds",
            "Time since the scheduler last checked its schedule",
            (),
            [] if tick_age is None else [((), tick_age)],
        ),
    ]


def _request_duration(latency: Mapping[Endpoint, Latency]) -> Metric:
    family = HistogramMetricFamily(
        "accession_vendor_request_seconds",
        "Duration of requests to the vendor, without the wait for a request slot",
        labels=("endpoint",),
    )
    bounds = [*map(floatToGoString, LATENCY_BUCKETS), "+Inf"]
    for endpoint, durations in latency.items():
        buckets = list(zip(bounds, map(float, accumulate(durations.requests)), strict=True))
        family.add_metric([endpoint], buckets=buckets, sum_value=durations.seconds)
    return family


def _counter(name: str, description: str, labels: Sequence[str], samples: _Samples) -> Metric:
    return _with_samples(CounterMetricFamily(f"accession_{name}", description, labels=labels), samples)


def _gauge(name: str, description: str, labels: Sequence[str], samples: _Samples) -> Metric:
    return _with_samples(GaugeMetricFamily(f"accession_{name}", description, labels=labels), samples)


def _with_samples(family: CounterMetricFamily | GaugeMetricFamily, samples: _Samples) -> Metric:
    for label_values, number in samples:
        family.add_metric(label_values, float(number))
    return family
