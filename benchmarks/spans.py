"""Would it pay to import several spans of the past at once? The same purchases of 80 days as one chain, and
as four chains side by side that walk a quarter of the days each, for the titles bought in it, from vendors of
their own that take 100 ms for each answer.

One chain has four requests at once, as it reads ahead. Four chains that do so, too, have sixteen, which is
four times what Accession asks of a vendor; four chains with one request each ask no more of it than one chain
does, and are what that can be compared with. Prints a table, and as the last line the same figures as JSON.
Run it with `python -m benchmarks.spans`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from accession.core.workflow import Workflow
from accession.sandbox.catalogue import Purchase
from benchmarks.stage import (
    Sold,
    add_libraries,
    days_ago,
    installation,
    moved,
    one_by_one,
    print_json,
    run,
    show,
    vendors,
)

# One that buys as much in each of the quarters.
TITLES, DAYS, LATENCY_MS, SEED = 60, 80, 100, 263


@dataclass(frozen=True)
class Span(Sold):
    """Of what was sold the part within one of several spans of as many days, moved so that it ends today."""

    part: int = 0
    of: int = 1

    @property
    def since(self) -> datetime:
        """The first moment of the first day."""
        return days_ago(self.days // self.of)

    def purchases(self) -> Iterable[Purchase]:
        """Those of the span."""
        width = timedelta(days=self.days // self.of)
        begin = days_ago(self.days) + self.part * width
        mine = [each for each in super().purchases() if begin <= each.purchased_at < begin + width]
        return moved(mine, self.since - begin)


@dataclass(frozen=True)
class Setup:
    """So many chains, each with so many requests at once, on so many worker processes."""

    chains: int
    requests_at_once: int
    worker_processes: int


SETUPS = tuple(
    Setup(chains, requests_at_once, worker_processes)
    for worker_processes in (2, 4)
    for chains, requests_at_once in ((1, 4), (4, 1), (4, 4))
)


@dataclass(frozen=True)
class Figures:
    """What it took. `at_once_in_all` is how many requests the vendors may have had at the same moment;
    `times_as_fast` is against one chain on as many worker processes."""

    worker_processes: int
    chains: int
    at_once_in_all: int
    titles: int
    requests: int
    seconds: float
    titles_per_second: float
    times_as_fast: float = 1.0


def measure(setup: Setup) -> Figures:
    """One import of it all."""
    sold = [Span(TITLES, DAYS, LATENCY_MS, SEED, part=part, of=setup.chains) for part in range(setup.chains)]
    settings = {
        "vendor_max_concurrency": setup.requests_at_once,
        "worker_concurrency": setup.worker_processes,
    }
    with vendors(sold) as asked, installation(**settings):
        took = run(Workflow.PURCHASES, add_libraries(sold, asked), asked)
        titles = asked.usable_titles()
    return Figures(
        worker_processes=setup.worker_processes,
        chains=setup.chains,
        at_once_in_all=setup.chains * setup.requests_at_once,
        titles=titles,
        requests=took.requests.total(),
        seconds=round(took.seconds, 1),
        titles_per_second=round(titles / took.seconds, 1),
    )


def measure_all() -> list[Figures]:
    """Every setup."""
    measured = one_by_one(measure, SETUPS)
    one = {figures.worker_processes: figures.seconds for figures in measured if figures.chains == 1}
    return [
        replace(figures, times_as_fast=round(one[figures.worker_processes] / figures.seconds, 1))
        for figures in measured
    ]


def main() -> None:
    """Measure once and print."""
    measured = measure_all()
    show(measured)
    print_json(measured)


if __name__ == "__main__":
    main()
