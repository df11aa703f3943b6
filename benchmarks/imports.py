"""The purchase import from nothing, 2,000 titles over two years, and a sweep of them all when nothing has
changed, from a vendor with 20 ms of latency.

Prints a table, and as the last line the same figures as JSON. Run it with `make bench`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
from pydantic import SecretStr

# Five of their records are unusable.
BOUGHT = 2005
YEARS = 2
LATENCY_MS = 20


@contextmanager
def vendor(since: str, *, titles: int = BOUGHT, latency_ms: int = LATENCY_MS) -> Iterator[str]:
    """A sandbox vendor in a process of its own; yields its base URL."""
    command = [sys.executable, "-m", "accession", "sandbox", "serve", "--port", "0", "--from", since]
    command += ["--titles", str(titles), "--latency-ms", str(latency_ms)]
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
    """One first import and one sweep of its titles; what they took."""
    from accession.clock import utc_now, whole_second

    began = whole_second(utc_now()) - timedelta(days=365 * YEARS)
    home = Path(tempfile.mkdtemp(prefix="accession-bench-"))
    with vendor(f"{began:%Y-%m-%d}") as base_url, accession(home):
        collection_id = add_collection(base_url, began)
        from accession.catalog.ledger import Workflow
        from accession.catalog.queries import rows_written_since, write_mark
        from accession.database import transaction

        imported = run(Workflow.PURCHASES, collection_id, base_url)
        # The first sweep finds the titles that the vendor has sold and does not list.
        run(Workflow.CIRCULATION, collection_id, base_url)
        with transaction() as session:
            mark = write_mark(session)
        swept = run(Workflow.CIRCULATION, collection_id, base_url)
        with transaction() as session:
            written = rows_written_since(session, mark)
        titles = statistics(base_url)["usable_titles"]
        parent, children = worker_peaks(home)
    return {
        "titles": titles,
        "years": YEARS,
        "latency_ms": LATENCY_MS,
        "import_requests_marc": imported.requests["marc"],
        "import_requests_items": imported.requests["items"],
        "import_seconds": round(imported.seconds, 1),
        "import_titles_per_second": round(titles / imported.seconds, 1),
        "sweep_requests": swept.requests["items"],
        "sweep_seconds": round(swept.seconds, 1),
        "sweep_titles_per_second": round(titles / swept.seconds, 1),
        "sweep_rows_written": written,
        "worker_parent_peak_mib": parent,
        "worker_child_peak_mib": max(children),
    }


@dataclass(frozen=True)
class Took:
    """What one run took: seconds, and requests by endpoint."""

    seconds: float
    requests: Counter[str]


def run(workflow: Any, collection_id: int, base_url: str) -> Took:
    """Run a workflow of the collection to its end."""
    from accession.cli.watch import watch
    from accession.tasks.chain import start_chains
    from accession.tasks.workflows import CHAINS

    before, started = Counter(statistics(base_url)["requests"]), time.monotonic()
    if not watch(workflow, {collection_id: "Bench"}, start_chains(CHAINS[workflow], [collection_id])):
        raise SystemExit("The run failed.")
    return Took(time.monotonic() - started, Counter(statistics(base_url)["requests"]) - before)


def statistics(base_url: str) -> dict[str, Any]:
    """What the vendor has sold and been asked."""
    told: dict[str, Any] = httpx.get(f"{base_url}/sandbox/statistics", trust_env=False).json()
    return told


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
    parent = part(home, "worker")
    return resident(parent, "VmHWM"), [resident(child, "VmHWM") for child in children(parent)]


def part(home: Path, name: str) -> int:
    """The process of a part of the installation that runs."""
    from accession.local.supervisor import parts

    return next(part.pid for part in parts(home) if part.name == name and part.pid is not None)


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident(pid: int, which: Literal["VmHWM", "VmRSS", "RssAnon"]) -> int:
    """A process's resident memory in MiB: at its highest (`VmHWM`), now (`VmRSS`), or now and no file's or
    other process's (`RssAnon`)."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(which))
    return int(line.split()[1]) // 1024


def main() -> None:
    """Measure once and print."""
    figures = measure()
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):>24}  {value:,}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
