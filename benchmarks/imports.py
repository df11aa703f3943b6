"""What a library waits for: the purchase import from nothing, 2,000 titles over two years, and a sweep of
them all when nothing has changed, from a vendor that takes 20 ms for each answer.

Prints a table, and as the last line the same figures as JSON. Run it with `python -m benchmarks.imports`.
"""

from dataclasses import dataclass

from accession.core.workflow import Workflow
from benchmarks.stage import Sold, Took, add_library, installation, one_by_one, print_json, run, show, vendors

# Five of their records are unusable.
SOLD = Sold(titles=2_005, days=2 * 365, latency_ms=20)


@dataclass(frozen=True)
class Figures:
    """What one run took. Of the seconds, the vendor's answers alone, one after another, would take those of
    `vendor_seconds`. `rows_written` are those of the catalogue's tables."""

    run: str
    titles: int
    marc_requests: int
    items_requests: int
    seconds: float
    vendor_seconds: float
    titles_per_second: float
    rows_written: int


def measure(sold: Sold) -> list[Figures]:
    """A first import, and a sweep of its titles."""
    from accession.catalog.written_rows import rows_written_since, write_mark
    from accession.db.engine import transaction

    with vendors([sold]) as asked, installation():
        collection_id = add_library(asked.base_urls[0], sold.since)

        def figures(workflow: Workflow) -> Figures:
            with transaction() as session:
                mark = write_mark(session)
            took = run(workflow, [collection_id], asked)
            with transaction() as session:
                written = rows_written_since(session, mark)
            return _figures(workflow, sold, took, asked.usable_titles(), written)

        imported = figures(Workflow.PURCHASES)
        # The first sweep finds the titles that the vendor has sold and does not list.
        run(Workflow.CIRCULATION, [collection_id], asked)
        return [imported, figures(Workflow.CIRCULATION)]


def _figures(workflow: Workflow, sold: Sold, took: Took, titles: int, written: int) -> Figures:
    return Figures(
        run=workflow.value,
        titles=titles,
        marc_requests=took.requests["marc"],
        items_requests=took.requests["items"],
        seconds=round(took.seconds, 1),
        vendor_seconds=round(took.requests.total() * sold.latency_ms / 1000, 1),
        titles_per_second=round(titles / took.seconds, 1),
        rows_written=written,
    )


def main() -> None:
    """Measure once and print."""
    [measured] = one_by_one(measure, [SOLD])
    show(measured)
    print_json(measured)


if __name__ == "__main__":
    main()
