"""Compare the first import of a library by a plain importer and by Accession in several configurations.

All import the same 120 titles of 180 days from the same vendor, whose latency is 100 ms, each into a new
installation. Prints a table and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.first_import
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from accession.core.workflow import Workflow
from benchmarks.installation import (
    add_library,
    catalogue_fingerprint,
    database_and_broker,
    installation,
    run_workflow,
)
from benchmarks.plain_importer import import_purchases
from benchmarks.processes import run_in_subprocesses
from benchmarks.report import print_json, print_table
from benchmarks.simulated_vendors import RunningVendors, VendorSpec, running_vendors

# The library purchases titles on one day in five.
VENDOR = VendorSpec(titles=120, days=180, latency_ms=100, seed=1)
PLAIN = "plain"


@dataclass(frozen=True)
class Method:
    """A method of importing: its name, and for Accession the settings of the installation."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)


METHODS = (
    Method(PLAIN),
    Method("a page at a time", {"vendor_max_concurrency": 1, "lookup_concurrency": 1}),
    Method("days"),
    Method("months", {"purchase_window": "month"}),
)


@dataclass(frozen=True)
class Figures:
    """Requests and duration of one first import; `speedup` is relative to the plain importer."""

    method: str
    titles: int
    latency_ms: int
    marc_requests: int
    items_requests: int
    seconds: float
    speedup: float = 1.0


def measure(setup: tuple[Method, RunningVendors]) -> tuple[str, Figures]:
    """Run one first import; return the fingerprint of its catalogue, and its figures."""
    method, vendors = setup
    import_titles = _import_plainly if method.name == PLAIN else _import_with_accession
    requests, seconds, fingerprint = import_titles(method, vendors)
    return fingerprint, Figures(
        method=method.name,
        titles=vendors.count_usable_titles(),
        latency_ms=VENDOR.latency_ms,
        marc_requests=requests["marc"],
        items_requests=requests["items"],
        seconds=round(seconds, 1),
    )


def _import_plainly(_: Method, vendors: RunningVendors) -> tuple[Counter[str], float, str]:
    with database_and_broker():
        collection_id = add_library(vendors.base_urls[0], VENDOR.since)
        requests_before, start = vendors.count_requests(), time.monotonic()
        import_purchases(collection_id, VENDOR.since)
        seconds = time.monotonic() - start
        return vendors.count_requests() - requests_before, seconds, catalogue_fingerprint()


def _import_with_accession(method: Method, vendors: RunningVendors) -> tuple[Counter[str], float, str]:
    with installation(**method.settings):
        collection_ids = [add_library(vendors.base_urls[0], VENDOR.since)]
        cost = run_workflow(Workflow.PURCHASES, collection_ids, vendors)
        return cost.requests, cost.seconds, catalogue_fingerprint()


def measure_all() -> list[Figures]:
    """Measure every method, the plain importer first.

    Raises:
        SystemExit: the resulting catalogues differ.
    """
    with running_vendors([VENDOR]) as vendors:
        results = run_in_subprocesses(measure, [(method, vendors) for method in METHODS])
    if len({fingerprint for fingerprint, _ in results}) > 1:
        raise SystemExit("The methods of importing produced different catalogues: one of them has a defect.")
    plain_seconds = results[0][1].seconds
    return [replace(figures, speedup=round(plain_seconds / figures.seconds, 1)) for _, figures in results]


def main() -> None:
    """Measure once and print the figures."""
    figures = measure_all()
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
