"""Measure speed and memory of exporting the whole catalogue as MARC.

Generated catalogues of several sizes are written to a file, each format in a new process. Export and
database wait for each other, so that both together keep one core busy; speed is therefore given per second
of their CPU time. Prints a table and, as the last line, the same figures as JSON.

Usage: python -m benchmarks.exporting [TITLES ...]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import func, select

from accession.catalog.feed_filter import FeedFilter
from accession.db.engine import engine, snapshot
from accession.exports.files import write_file_atomically
from accession.exports.formats import FORMATS
from benchmarks.generated_catalogue import fill_database, require_disk_space
from benchmarks.installation import database_and_broker
from benchmarks.processes import memory_mib, run_in_subprocesses
from benchmarks.report import print_json, print_table

TITLES = (20_000, 200_000)
MEASURED_FORMATS = ("marc21", "marcxml")
_OPTIONS = {
    "url_template": "https://ebook.yourcloudlibrary.com/library/alder-document_id-{identifier}",
    "availability": True,
}


@dataclass(frozen=True)
class Figures:
    """Size and cost of one export.

    Attributes:
        process_cpu: CPU seconds of the exporting process.
        database_cpu: CPU seconds of the PostgreSQL process that serves it.
        titles_per_cpu_second: Titles per CPU second of both.
        memory: Peak memory of the exporting process in MiB.
    """

    format: str
    titles: int
    megabytes: int
    seconds: float
    process_cpu: float
    database_cpu: float
    titles_per_cpu_second: int
    memory: int


def measure(format_name: str) -> Figures:
    """Measure one export into a file, from the database that the environment names."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records"
        start, cpu_start = time.monotonic(), time.process_time()
        with snapshot() as session, write_file_atomically(str(file)) as out:
            backend = psutil.Process(session.scalar(select(func.pg_backend_pid())))
            titles = FORMATS[format_name].write(session, FeedFilter(), out, _OPTIONS, lambda _: None)
            database_cpu = sum(backend.cpu_times()[:2])
        process_cpu = time.process_time() - cpu_start
        return Figures(
            format=format_name,
            titles=titles,
            megabytes=file.stat().st_size // 1_000_000,
            seconds=round(time.monotonic() - start, 1),
            process_cpu=round(process_cpu, 1),
            database_cpu=round(database_cpu, 1),
            titles_per_cpu_second=round(titles / (process_cpu + database_cpu)),
            memory=memory_mib(os.getpid(), "VmHWM"),
        )


def measure_all(sizes: Sequence[int]) -> list[Figures]:
    """Measure each format for catalogues of these numbers of titles."""
    figures: list[Figures] = []
    for titles in sizes:
        require_disk_space(titles)
        with database_and_broker(durable=False):
            fill_database(engine(), titles)
            figures += run_in_subprocesses(measure, MEASURED_FORMATS)
    return figures


def main() -> None:
    """Measure once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "titles",
        type=int,
        nargs="*",
        default=list(TITLES),
        help="Sizes of the catalogues. Default: 20000 200000.",
    )
    figures = measure_all(parser.parse_args().titles)
    print_table(figures)
    print_json(figures)


if __name__ == "__main__":
    main()
