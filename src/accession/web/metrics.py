"""What Prometheus reads at `/metrics`: from the ledger, the catalogue and the broker, anew at each scrape."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from accession import __version__
from accession.bibliotheca.client import Endpoint
from accession.catalog.rejected_records import unresolved_rejects
from accession.core.clock import utc_now
from accession.db.engine import transaction
from accession.runs.ledger import run_totals
from accession.runs.views import StatusView, runs_at_work, status_views
from accession.tasks.heartbeats import read_heartbeats
from accession.tasks.metrics import LATENCY_BUCKETS, Latency, queue_depths, read_counts

log = structlog.get_logger(__name__)

_DATABASE_MILLISECONDS = 5000
_TURN_SECONDS = 5.0
_ONE_AT_A_TIME = Lock()

# Counter of the ledger to what it counts.
_TOTALS = {
    "pages": "Pages of purchase records, slices of events and batches of titles that were done",
    "records_fetched": "Purchase records, events and titles that the vendor has told of",
    "records_stored": "Records fetched that were stored, now or before",
    "records_rejected": "Records fetched that could not be used",
    "titles_new": "Titles that collections have got",
    "titles_changed": "Titles that differed from what was stored",
}

# Label values and the number.
_Rows = Iterable[tuple[Sequence[str], float]]

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Every figure, in the text format or in OpenMetrics, whichever the client prefers; status 503 while
    another scrape hangs: it costs one thread, however many come after it."""
    if not _ONE_AT_A_TIME.acquire(timeout=_TURN_SECONDS):
        return Response("Another scrape is under way.", 503)
    try:
        registry = CollectorRegistry()
        registry.register(Figures())
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})
    finally:
        _ONE_AT_A_TIME.release()


class Figures(Collector):
    """All figures as they are now. Those of a server that is away are missing, and `accession_source_up` is 0
    for it."""

    def collect(self) -> Iterator[Metric]:
        """Read them. The number of statements does not grow with the collections."""
        build = [((__version__, python_version()), 1)]
        yield _gauge("build_info", "Always 1; its labels say what runs", ("version", "python"), build)
        up = []
        for source, read in (("database", _of_the_database), ("broker", _of_the_broker)):
            found = _read(source, read)
            yield from found or ()
            up.append(((source,), found is not None))
        yield _gauge("source_up", "Whether the server has answered for this scrape", ("source",), up)


def _read(source: str, read: Callable[[], list[Metric]]) -> list[Metric] | None:
    """What is read; None when the server is away."""
    try:
        return read()
    except (OperationalError, RedisError) as error:
        log.warning("a server is away; its metrics are missing", source=source, reason=type(error).__name__)
        return None


def _of_the_database() -> list[Metric]:
    with transaction() as session:
        session.execute(text(f"SET LOCAL statement_timeout = {_DATABASE_MILLISECONDS}"))
        views = status_views(session)
        rejected = unresolved_rejects(session)
        at_work = runs_at_work(session)
        totals = run_totals(session)
    counted = [
        _counter(
            name, what, ("workflow",), [((flow,), getattr(counts, name)) for flow, counts in totals.items()]
        )
        for name, what in _TOTALS.items()
    ]
    begun = [((workflow,), number) for workflow, number in at_work.items()]
    unresolved = [((collection,), number) for collection, number in rejected.items()]
    return [
        *counted,
        _gauge("runs_at_work", "Runs that have begun and not ended", ("workflow",), begun),
        _gauge("rejected_unresolved", "Rejected records nobody has resolved", ("collection",), unresolved),
        *_of_each_workflow(views),
    ]


def _of_each_workflow(views: Sequence[StatusView]) -> Iterator[Metric]:
    now = utc_now()
    ages = [
        ((view.collection, view.workflow), (now - view.checkpoint).total_seconds())
        for view in views
        if view.checkpoint is not None
    ]
    states = [((view.collection, view.workflow, view.state), 1) for view in views]
    waiting = {(view.collection,): view.applies_pending for view in views}
    of_both = ("collection", "workflow")
    yield _gauge("checkpoint_age_seconds", "Age of the moment up to which all is imported", of_both, ages)
    yield _gauge("latest_run", "Always 1; state is how the latest run stands", (*of_both, "state"), states)
    yield _gauge(
        "applies_waiting", "Titles found that are yet to be applied", ("collection",), waiting.items()
    )


def _of_the_broker() -> list[Metric]:
    # Importing the app needs a broker to be configured.
    from accession.tasks.app import APPLY_QUEUE, DEFAULT_QUEUE

    counts, here = read_counts(), read_heartbeats()
    depths = [
        ((queue, state), number)
        for queue, depth in queue_depths([DEFAULT_QUEUE, APPLY_QUEUE]).items()
        for state, number in vars(depth).items()
    ]
    applied = [((kind,), number) for kind, number in counts.applied.items()]
    silent = [] if here.beat_silent_seconds is None else [((), here.beat_silent_seconds)]
    by_end = ("endpoint", "outcome")
    return [
        _counter("vendor_requests", "Requests that the vendor got", by_end, counts.requests.items()),
        _seconds_of_requests(counts.latency),
        _counter("titles_applied", "Titles that applies have written", ("kind",), applied),
        _gauge("queue_messages", "Messages of a queue", ("queue", "state"), depths),
        _gauge("workers", "Workers that were there in the last half minute", (), [((), here.workers)]),
        _gauge("beat_silent_seconds", "Seconds since beat looked at its schedule", (), silent),
    ]


def _seconds_of_requests(latency: Mapping[Endpoint, Latency]) -> Metric:
    family = HistogramMetricFamily(
        "accession_vendor_request_seconds",
        "Seconds that requests to the vendor took, without the wait for their turn",
        labels=("endpoint",),
    )
    bounds = [*map(floatToGoString, LATENCY_BUCKETS), "+Inf"]
    for endpoint, found in latency.items():
        up_to = list(zip(bounds, map(float, accumulate(found.requests)), strict=True))
        family.add_metric([endpoint], buckets=up_to, sum_value=found.seconds)
    return family


def _counter(name: str, what: str, labels: Sequence[str], rows: _Rows) -> Metric:
    return _with_rows(CounterMetricFamily(f"accession_{name}", what, labels=labels), rows)


def _gauge(name: str, what: str, labels: Sequence[str], rows: _Rows) -> Metric:
    return _with_rows(GaugeMetricFamily(f"accession_{name}", what, labels=labels), rows)


def _with_rows(family: CounterMetricFamily | GaugeMetricFamily, rows: _Rows) -> Metric:
    for values, number in rows:
        family.add_metric(values, float(number))
    return family
