"""Does the time for a title grow with the titles, or with the libraries? First imports from vendors without
latency: of one library that has bought ever more titles within a year, and of ever more libraries with 100
titles each, bought within 30 days and imported all at once.

Prints a table, and as the last line the same figures as JSON. Run it with `python -m benchmarks.growth`, or
with `--full` for 50,000 titles and 200 libraries.
"""

import argparse
from dataclasses import dataclass

from accession.core.workflow import Workflow
from benchmarks.stage import Sold, add_libraries, installation, one_by_one, print_json, run, show, vendors


@dataclass(frozen=True)
class Setup:
    """So many libraries, each with so many titles bought within so many days until now."""

    libraries: int
    titles: int
    days: int


BY_TITLES, BY_LIBRARIES = (250, 1_000, 4_000), (1, 4, 16)
ALL_BY_TITLES, ALL_BY_LIBRARIES = (2_000, 10_000, 50_000), (1, 20, 200)


@dataclass(frozen=True)
class Figures:
    """What the first imports took."""

    libraries: int
    titles: int
    days: int
    requests: int
    seconds: float
    milliseconds_per_title: float


def setups(*, full: bool) -> list[Setup]:
    """What is measured: so much that it takes minutes, or all."""
    titles, libraries = (ALL_BY_TITLES, ALL_BY_LIBRARIES) if full else (BY_TITLES, BY_LIBRARIES)
    return [
        *(Setup(1, number, 365) for number in titles),
        *(Setup(number, 100, 30) for number in libraries),
    ]


def measure(setup: Setup) -> Figures:
    """The first imports of all libraries."""
    sold = [Sold(setup.titles, setup.days, seed=number) for number in range(setup.libraries)]
    with vendors(sold) as asked, installation():
        libraries = add_libraries(sold, asked)
        took = run(Workflow.PURCHASES, libraries, asked)
        titles = asked.usable_titles()
    return Figures(
        libraries=setup.libraries,
        titles=titles,
        days=setup.days,
        requests=took.requests.total(),
        seconds=round(took.seconds, 1),
        milliseconds_per_title=round(1000 * took.seconds / titles, 1),
    )


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="Also what takes longer.")
    measured = one_by_one(measure, setups(full=parser.parse_args().full))
    show(measured)
    print_json(measured)


if __name__ == "__main__":
    main()
