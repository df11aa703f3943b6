"""The purchase import from nothing: 2,000 titles over two years, from a vendor with 20 ms of latency.

Prints a table, and as the last line the same figures as JSON. Run it with `make bench`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

TITLES = 2000
YEARS = 2
LATENCY_MS = 20


@contextmanager
def vendor(since: str) -> Iterator[str]:
    """A sandbox vendor in a process of its own; yields its base URL."""
    command = [sys.executable, "-m", "accession", "sandbox", "serve", "--port", "0", "--from", since]
    command += ["--titles", str(TITLES), "--latency-ms", str(LATENCY_MS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            first_line = process.stdout.readline() if process.stdout else ""
            yield first_line.split()[-1]
        finally:
            process.terminate()


@contextmanager
def accession(home: Path) -> Iterator[None]:
    """Everything of `accession up` in `home`, with this process attached to it."""
    os.environ["ACCESSION_HOME"] = str(home)
    from accession.cli.attach import attach
    from accession.local.postgres import remove_home_data
    from accession.local.supervisor import detach, stop_running

    try:
        detach([sys.executable, "-m", "accession", "up"], home)
        attach()
        yield
    finally:
        stop_running(home, 60)
        remove_home_data(home)
        shutil.rmtree(home)


def measure() -> dict[str, Any]:
    """One first import; what it took."""
    from accession.clock import utc_now, whole_second

    began = whole_second(utc_now()) - timedelta(days=365 * YEARS)
    home = Path(tempfile.mkdtemp(prefix="accession-bench-"))
    with vendor(f"{began:%Y-%m-%d}") as base_url, accession(home):
        collection_id = add_collection(base_url, began)
        from accession.cli.watch import watch
        from accession.tasks.purchases import start_imports

        started = time.monotonic()
        if not watch({collection_id: "Bench"}, start_imports([collection_id], force_reimport=False)):
            raise SystemExit("The import failed.")
        seconds = time.monotonic() - started
        statistics = httpx.get(f"{base_url}/sandbox/statistics", trust_env=False).json()
        parent, children = worker_peaks(home)
    titles = statistics["usable_titles"]
    return {
        "titles": titles,
        "years": YEARS,
        "latency_ms": LATENCY_MS,
        "requests_marc": statistics["requests"]["marc"],
        "requests_items": statistics["requests"]["items"],
        "seconds": round(seconds, 1),
        "titles_per_second": round(titles / seconds, 1),
        "worker_parent_peak_mib": parent,
        "worker_child_peak_mib": max(children),
    }


def add_collection(base_url: str, began: Any) -> int:
    """A collection whose purchases begin at `began`, so that the years before are not walked."""
    from accession.catalog.collections import add_collection as add
    from accession.catalog.ledger import Workflow, timestamp
    from accession.database import transaction
    from accession.sandbox.server import SandboxAccount

    account = SandboxAccount()
    with transaction() as session:
        collection = add(
            session,
            name="Bench",
            library_id=account.library_id,
            account_id=account.account_id,
            account_key=SecretStr(account.account_key),
            base_url=base_url,
        )
        timestamp(session, collection, Workflow.PURCHASES).finish = began
        return int(collection.id)


def worker_peaks(home: Path) -> tuple[int, list[int]]:
    """The highest memory (MiB) of the worker's parent, and of each of its children."""
    from accession.local.supervisor import parts

    parent = next(part.pid for part in parts(home) if part.name == "worker")
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return peak(parent), [peak(child) for child in children]


def peak(pid: object) -> int:
    """A process's peak resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def main() -> None:
    """Measure once and print."""
    figures = measure()
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):>24}  {value:,}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
