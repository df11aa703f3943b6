"""How fast the catalogue leaves as MARC, and in how much memory: the whole of it, written to a file.

    python -m benchmarks.exporting [TITLES ...]

exports made-up catalogues of so many titles (20,000 and 200,000, unless told otherwise), each in a process
that has done nothing else. It waits for the database and the database for it, so that both together keep one
core busy, and what a core can do is told by the processor time of both. Prints a table, and as the last line
the same figures as JSON. Memory is in MiB.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import SecretStr
from sqlalchemy import func, select

from accession.catalog.change_feed import FeedFilter
from accession.core.settings import Settings, get_settings, use_settings
from accession.db.engine import engine, snapshot
from accession.exports.files import replaced
from accession.exports.formats import FORMATS
from benchmarks.catalogue import fill
from benchmarks.million import database
from benchmarks.stage import one_by_one, print_json, resident, show

TITLES = (20_000, 200_000)
_OPTIONS = {
    "url_template": "https://ebook.yourcloudlibrary.com/library/alder-document_id-{identifier}",
    "availability": True,
}


@dataclass(frozen=True)
class Asked:
    """An export to be measured, on the database at the URL."""

    format: str
    database_url: str


@dataclass(frozen=True)
class Exported:
    """One export: its file in MB, what it took, and the processor time that the process and its database
    used; how many titles that is for a second of a core; the peak of the process's memory."""

    format: str
    titles: int
    megabytes: int
    seconds: float
    process_cpu: float
    database_cpu: float
    titles_a_core: int
    memory: int


def measure(asked: Asked) -> Exported:
    """One export into a file, in a process that has seen no other."""
    use_settings(Settings(database_url=SecretStr(asked.database_url)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records"
        began, own = time.monotonic(), time.process_time()
        with snapshot() as session, replaced(str(file)) as out:
            backend = psutil.Process(session.scalar(select(func.pg_backend_pid())))
            titles = FORMATS[asked.format].write(session, FeedFilter(), out, _OPTIONS, lambda _: None)
            database = sum(backend.cpu_times()[:2])
        process = time.process_time() - own
        return Exported(
            format=asked.format,
            titles=titles,
            megabytes=file.stat().st_size // 1_000_000,
            seconds=round(time.monotonic() - began, 1),
            process_cpu=round(process, 1),
            database_cpu=round(database, 1),
            titles_a_core=round(titles / (process + database)),
            memory=resident(os.getpid(), "VmHWM"),
        )


def measure_all(titles: Sequence[int]) -> list[Exported]:
    """Each format of catalogues of so many titles."""
    measured: list[Exported] = []
    for number in titles:
        # Each database has a server of its own.
        engine.cache_clear()
        with database(number):
            fill(engine(), number)
            url = get_settings().database_url
            asked = [Asked(name, url.get_secret_value() if url else "") for name in ("marc21", "marcxml")]
            measured += one_by_one(measure, asked)
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("titles", type=int, nargs="*", default=list(TITLES))
    measured = measure_all(parser.parse_args().titles)
    show(measured)
    print_json(measured)


if __name__ == "__main__":
    main()
