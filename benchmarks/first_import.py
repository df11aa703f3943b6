"""Compare the first import of a library by a plain importer and by Accession in several configurations.

All import the same titles from the same vendor, whose latency is 100 ms, each into a new installation: 120
titles of 180 days, with --full 2,000 titles that were purchased on 8% of the days since 2014. Prints a table
and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.first_import [--full]
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from accession.core.workflow import Workflow
from benchmarks.installation import (
    add_library,
    catalogue_fingerprint,
    database_and_broker,
    installation,
    purchase_days_fingerprint,
    run_workflow,
)
from benchmarks.plain_importer import import_purchases
from benchmarks.processes import run_in_subprocesses
from benchmarks.purchase_days import DAYS, HabitualVendorSpec
from benchmarks.report import print_json, print_table
from benchmarks.simulated_vendors import RunningVendors, VendorSpec, running_vendors

LATENCY_MS = 100
# The library purchases titles on one day in five.
SMALL = VendorSpec(titles=120, days=180, latency_ms=LATENCY_MS, seed=1)
LARGE = HabitualVendorSpec(titles=2_000, days=DAYS, latency_ms=LATENCY_MS)
PLAIN = "plain"
MONTHS = "months"


@dataclass(frozen=True)
class Method:
    """A method of importing: its name, and for Accession the settings of the installation."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)


METHODS = (
    Method(PLAIN),
    Method("days", {"purchase_window": "day"}),
    Method(MONTHS, {"purchase_window": "month"}),
    Method("adaptive"),
)


@dataclass(frozen=True)
class Figures:
    """Requests and duration of one first import.

    Attributes:
        vendor_idle_percent: Share of the time in which the vendor has no request to respond to.
        speedup: Relative to the plain importer.
    """

    method: str
    titles: int
    latency_ms: int
    marc_requests: int
    items_requests: int
    seconds: float
    vendor_idle_percent: int
    speedup: float = 1.0


@dataclass(frozen=True)
class Setup:
    """A method, and the vendor with its purchases since a time (UTC)."""

    method: Method
    vendors: RunningVendors
    since: datetime


def measure(setup: Setup) -> tuple[Mapping[str, str], Figures]:
    """Run one first import; return the fingerprints of its catalogue, and its figures."""
    vendors = setup.vendors
    busy_before = vendors.busy_seconds()
    import_titles = _import_plainly if setup.method.name == PLAIN else _import_with_accession
    requests, seconds, fingerprints = import_titles(setup)
    busy_seconds = vendors.busy_seconds() - busy_before
    return fingerprints, Figures(
        method=setup.method.name,
        titles=vendors.count_usable_titles(),
        latency_ms=LATENCY_MS,
        marc_requests=requests["marc"],
        items_requests=requests["items"],
        seconds=round(seconds, 1),
        vendor_idle_percent=round(100 * (1 - busy_seconds / seconds)),
    )


def _import_plainly(setup: Setup) -> tuple[Counter[str], float, Mapping[str, str]]:
    with database_and_broker():
        collection_id = add_library(setup.vendors.base_urls[0], setup.since)
        requests_before, start = setup.vendors.count_requests(), time.monotonic()
        import_purchases(collection_id, setup.since)
        seconds = time.monotonic() - start
        return setup.vendors.count_requests() - requests_before, seconds, _fingerprints()


def _import_with_accession(setup: Setup) -> tuple[Counter[str], float, Mapping[str, str]]:
    with installation(**setup.method.settings):
        collection_ids = [add_library(setup.vendors.base_urls[0], setup.since)]
        cost = run_workflow(Workflow.PURCHASES, collection_ids, setup.vendors)
        return cost.requests, cost.seconds, _fingerprints()


def _fingerprints() -> Mapping[str, str]:
    return {"titles": catalogue_fingerprint(), "purchase days": purchase_days_fingerprint()}


def measure_all(vendor: VendorSpec) -> list[Figures]:
    """Measure every method, the plain importer first.

    Raises:
        SystemExit: the resulting catalogues differ.
    """
    with running_vendors([vendor]) as vendors:
        setups = [Setup(method, vendors, vendor.since) for method in METHODS]
        results = run_in_subprocesses(measure, setups)
    titles = {fingerprints["titles"] for fingerprints, _ in results}
    days = {fingerprints["purchase days"] for fingerprints, each in results if each.method != MONTHS}
    if len(titles) > 1 or len(days) > 1:
        raise SystemExit("The methods of importing produced different catalogues: one of them has a defect.")
    plain_seconds = results[0][1].seconds
    return [replace(figures, speedup=round(plain_seconds / figures.seconds, 1)) for _, figures in results]


def main() -> None:
    """Measure once and print the figures."""
    figures = measure_all(LARGE if "--full" in sys.argv else SMALL)
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
