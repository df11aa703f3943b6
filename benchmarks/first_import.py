"""The first import of a library from a vendor that takes 100 ms for each answer: as a straightforward
importer does it (`benchmarks/plain.py`), and as Accession does it, with and without what saves requests and
waiting.

All import the same 120 titles of 180 days from the same vendor, each into an installation of its own. Prints
a table, and as the last line the same figures as JSON. Run it with `python -m benchmarks.first_import`.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from accession.core.workflow import Workflow
from benchmarks.plain import import_plainly
from benchmarks.stage import (
    Sold,
    Vendors,
    add_library,
    catalogue_fingerprint,
    installation,
    one_by_one,
    print_json,
    run,
    servers,
    show,
    vendors,
)

# A library that buys on one day in five.
SOLD = Sold(titles=120, days=180, latency_ms=100, seed=1)
PLAIN = "plain"


@dataclass(frozen=True)
class Way:
    """A way of importing: its name, and the settings of the installation."""

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)


WAYS = (
    Way(PLAIN),
    Way("a page at a time", {"vendor_max_concurrency": 1, "lookup_concurrency": 1}),
    Way("days"),
    Way("months", {"purchase_window": "month"}),
)


@dataclass(frozen=True)
class Figures:
    """What the first import took; `times_as_fast` is against the plain one."""

    way: str
    titles: int
    latency_ms: int
    marc_requests: int
    items_requests: int
    seconds: float
    times_as_fast: float = 1.0


def measure(setup: tuple[Way, Vendors]) -> tuple[str, Figures]:
    """One first import; the fingerprint of its catalogue, and its figures."""
    way, asked = setup
    requests, seconds, fingerprint = _plainly(asked) if way.name == PLAIN else _by_accession(way, asked)
    return fingerprint, Figures(
        way=way.name,
        titles=asked.usable_titles(),
        latency_ms=SOLD.latency_ms,
        marc_requests=requests["marc"],
        items_requests=requests["items"],
        seconds=round(seconds, 1),
    )


def _plainly(asked: Vendors) -> tuple[Counter[str], float, str]:
    with servers():
        collection_id = add_library(asked.base_urls[0], SOLD.since)
        before, started = asked.requests(), time.monotonic()
        import_plainly(collection_id, SOLD.since)
        seconds = time.monotonic() - started
        return asked.requests() - before, seconds, catalogue_fingerprint()


def _by_accession(way: Way, asked: Vendors) -> tuple[Counter[str], float, str]:
    with installation(**way.settings):
        took = run(Workflow.PURCHASES, [add_library(asked.base_urls[0], SOLD.since)], asked)
        return took.requests, took.seconds, catalogue_fingerprint()


def measure_all() -> list[Figures]:
    """Every way, the plain one first; raises SystemExit when their catalogues differ."""
    with vendors([SOLD]) as asked:
        told = one_by_one(measure, [(way, asked) for way in WAYS])
    if len({fingerprint for fingerprint, _ in told}) > 1:
        raise SystemExit("The ways of importing have not led to the same catalogue.")
    plain = told[0][1].seconds
    return [replace(figures, times_as_fast=round(plain / figures.seconds, 1)) for _, figures in told]


def main() -> None:
    """Measure once and print."""
    measured = measure_all()
    show(measured)
    print_json(measured)


if __name__ == "__main__":
    main()
