"""Compare one run over 80 days of purchases with four concurrent runs over a quarter of the days each.

It answers whether it would pay to import several time spans of the past concurrently. Each run has a vendor
of its own with a latency of 100 ms, and imports the titles that were purchased in its span.

One run has four concurrent requests, because it prefetches. Four runs with four each have sixteen, four times
as many as Accession sends to one vendor; four runs with one request each put the same load on a vendor as one
run, so that these two can be compared. Prints a table and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.spans
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from accession.core.workflow import Workflow
from accession.sandbox.catalogue import Purchase
from benchmarks.installation import add_libraries, installation, run_workflow
from benchmarks.processes import run_in_subprocesses
from benchmarks.report import print_json, print_table
from benchmarks.simulated_vendors import VendorSpec, days_ago, running_vendors, shift

# With this seed about as many titles are purchased in each quarter of the days.
TITLES, DAYS, LATENCY_MS, SEED = 60, 80, 100, 263


@dataclass(frozen=True)
class SpanSpec(VendorSpec):
    """A vendor with the purchases of one of several equal time spans, shifted so that the span ends today.

    `index` is the number of the span, from 0.
    """

    index: int = 0
    spans: int = 1

    @property
    def since(self) -> datetime:
        """Midnight of the first day (UTC), after the shift."""
        return days_ago(self.days // self.spans)

    def purchases(self) -> Iterable[Purchase]:
        """Return the purchases of the span."""
        width = timedelta(days=self.days // self.spans)
        start = days_ago(self.days) + self.index * width
        in_span = [each for each in super().purchases() if start <= each.purchased_at < start + width]
        return shift(in_span, self.since - start)


@dataclass(frozen=True)
class Setup:
    """Number of concurrent runs, of concurrent requests of each, and of worker processes."""

    runs: int
    requests_per_run: int
    worker_processes: int


SETUPS = tuple(
    Setup(runs, requests_per_run, worker_processes)
    for worker_processes in (2, 4)
    for runs, requests_per_run in ((1, 4), (4, 1), (4, 4))
)


@dataclass(frozen=True)
class Figures:
    """Requests and duration of all runs of a setup.

    Attributes:
        concurrent_requests: Maximum number of simultaneous requests of all runs.
        speedup: Relative to one run with as many worker processes.
    """

    worker_processes: int
    runs: int
    concurrent_requests: int
    titles: int
    requests: int
    seconds: float
    titles_per_second: float
    speedup: float = 1.0


def measure(setup: Setup) -> Figures:
    """Measure one import of all spans."""
    specs = [
        SpanSpec(TITLES, DAYS, LATENCY_MS, SEED, index=index, spans=setup.runs) for index in range(setup.runs)
    ]
    settings = {
        "vendor_max_concurrency": setup.requests_per_run,
        "worker_concurrency": setup.worker_processes,
    }
    with running_vendors(specs) as vendors, installation(**settings):
        cost = run_workflow(Workflow.PURCHASES, add_libraries(specs, vendors), vendors)
        titles = vendors.count_usable_titles()
    return Figures(
        worker_processes=setup.worker_processes,
        runs=setup.runs,
        concurrent_requests=setup.runs * setup.requests_per_run,
        titles=titles,
        requests=cost.requests.total(),
        seconds=round(cost.seconds, 1),
        titles_per_second=round(titles / cost.seconds, 1),
    )


def measure_all() -> list[Figures]:
    """Measure every setup."""
    results = run_in_subprocesses(measure, SETUPS)
    one_run = {figures.worker_processes: figures.seconds for figures in results if figures.runs == 1}
    return [
        replace(figures, speedup=round(one_run[figures.worker_processes] / figures.seconds, 1))
        for figures in results
    ]


def main() -> None:
    """Measure once and print the figures."""
    figures = measure_all()
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
