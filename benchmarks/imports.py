"""Measure a first import of 2,000 titles, and a circulation run over them in which nothing has changed.

The titles were purchased within two years; the vendor's latency is 20 ms. Prints a table and, as the last
line, the same figures as JSON.

Usage: python -m benchmarks.imports
"""

from dataclasses import dataclass

from accession.core.workflow import Workflow
from benchmarks.installation import RunCost, add_library, installation, run_workflow
from benchmarks.processes import run_in_subprocesses
from benchmarks.report import print_json, print_table
from benchmarks.simulated_vendors import VendorSpec, running_vendors

# Five of these records are unusable, so 2,000 titles are imported.
VENDOR = VendorSpec(titles=2_005, days=2 * 365, latency_ms=20)


@dataclass(frozen=True)
class Figures:
    """Cost of one run.

    Attributes:
        vendor_seconds: Total latency of the vendor's responses, if they were requested one by one.
        rows_written: Rows written to the tables of the catalogue.
    """

    run: str
    titles: int
    marc_requests: int
    items_requests: int
    seconds: float
    vendor_seconds: float
    titles_per_second: float
    rows_written: int


def measure(spec: VendorSpec) -> list[Figures]:
    """Measure a first import and a circulation run over its titles."""
    from accession.catalog.written_rows import count_rows_written_since, read_table_state
    from accession.db.engine import transaction

    with running_vendors([spec]) as vendors, installation():
        collection_id = add_library(vendors.base_urls[0], spec.since)

        def measure_run(workflow: Workflow) -> Figures:
            with transaction() as session:
                state = read_table_state(session)
            cost = run_workflow(workflow, [collection_id], vendors)
            with transaction() as session:
                rows_written = count_rows_written_since(session, state)
            return _figures(workflow, spec, cost, vendors.count_usable_titles(), rows_written)

        first_import = measure_run(Workflow.PURCHASES)
        # The first circulation run marks the titles that the vendor sold but does not list.
        run_workflow(Workflow.CIRCULATION, [collection_id], vendors)
        return [first_import, measure_run(Workflow.CIRCULATION)]


def _figures(workflow: Workflow, spec: VendorSpec, cost: RunCost, titles: int, rows_written: int) -> Figures:
    return Figures(
        run=workflow.value,
        titles=titles,
        marc_requests=cost.requests["marc"],
        items_requests=cost.requests["items"],
        seconds=round(cost.seconds, 1),
        vendor_seconds=round(cost.requests.total() * spec.latency_ms / 1000, 1),
        titles_per_second=round(titles / cost.seconds, 1),
        rows_written=rows_written,
    )


def main() -> None:
    """Measure once and print the figures."""
    [figures] = run_in_subprocesses(measure, [VENDOR])
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
