"""Measure whether the time per title grows with the number of titles or of libraries.

First imports from vendors without latency: of one library with more and more titles, all purchased within a
year, and of more and more libraries with 100 titles each, purchased within 30 days and imported concurrently.
Prints a table and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.growth [--full]
"""

import argparse
from dataclasses import dataclass

from accession.core.workflow import Workflow
from benchmarks.installation import add_libraries, installation, run_workflow
from benchmarks.processes import run_in_subprocesses
from benchmarks.report import print_json, print_table
from benchmarks.simulated_vendors import VendorSpec, running_vendors

TITLES, LIBRARIES = (250, 1_000, 4_000), (1, 4, 16)
FULL_TITLES, FULL_LIBRARIES = (2_000, 10_000, 50_000), (1, 20, 200)


@dataclass(frozen=True)
class Setup:
    """Number of libraries, titles of each, and days in which these were purchased."""

    libraries: int
    titles: int
    days: int


@dataclass(frozen=True)
class Figures:
    """Requests and duration of the first imports of all libraries."""

    libraries: int
    titles: int
    days: int
    requests: int
    seconds: float
    milliseconds_per_title: float


def setups(*, full: bool) -> list[Setup]:
    """Return the setups to measure: those that take minutes, or larger ones."""
    titles, libraries = (FULL_TITLES, FULL_LIBRARIES) if full else (TITLES, LIBRARIES)
    return [
        *(Setup(libraries=1, titles=number, days=365) for number in titles),
        *(Setup(libraries=number, titles=100, days=30) for number in libraries),
    ]


def measure(setup: Setup) -> Figures:
    """Measure the first imports of all libraries of a setup."""
    specs = [VendorSpec(setup.titles, setup.days, seed=number) for number in range(setup.libraries)]
    with running_vendors(specs) as vendors, installation():
        collection_ids = add_libraries(specs, vendors)
        cost = run_workflow(Workflow.PURCHASES, collection_ids, vendors)
        titles = vendors.count_usable_titles()
    return Figures(
        libraries=setup.libraries,
        titles=titles,
        days=setup.days,
        requests=cost.requests.total(),
        seconds=round(cost.seconds, 1),
        milliseconds_per_title=round(1000 * cost.seconds / titles, 1),
    )


def main() -> None:
    """Measure once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--full", action="store_true", help="Measure up to 50,000 titles and 200 libraries instead."
    )
    figures = run_in_subprocesses(measure, setups(full=parser.parse_args().full))
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
