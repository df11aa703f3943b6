"""Simulated vendors that run in a process of their own."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import Response

from accession.core.clock import utc_now
from accession.sandbox.catalogue import Catalogue, Purchase, build_catalogue
from accession.sandbox.vendor import Sandbox
from benchmarks.processes import SPAWN
from tests.fixtures.running_sandbox import running_sandbox

_UNTIL = datetime(2024, 5, 1, tzinfo=UTC)


@dataclass(frozen=True)
class VendorSpec:
    """Purchases and latency of a simulated vendor.

    The titles are the same on every day, but shifted to end today: where calendar months begin among them,
    and so the number of requests of an import, depends on the date.

    Attributes:
        titles: Number of purchases, including a few whose record is unusable.
        days: Days in which they were purchased, until today's midnight (UTC).
        latency_ms: Delay of each response.
        seed: Another seed gives other titles.
    """

    titles: int
    days: int
    latency_ms: int = 0
    seed: int = 0

    @property
    def since(self) -> datetime:
        """Midnight of the first day (UTC)."""
        return days_ago(self.days)

    def purchases(self) -> Iterable[Purchase]:
        """Return the purchases, which cluster as in real libraries."""
        since = _UNTIL - timedelta(days=self.days)
        catalogue = build_catalogue(self.titles, since, _UNTIL, seed=self.seed)
        return shift(catalogue.purchases, days_ago(0) - _UNTIL)


def shift(purchases: Iterable[Purchase], by: timedelta) -> Iterator[Purchase]:
    """Return the same purchases, later by a time span."""
    return (replace(purchase, purchased_at=purchase.purchased_at + by) for purchase in purchases)


def days_ago(days: int) -> datetime:
    """Return the midnight (UTC) that many days before today's."""
    return utc_now().replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)


@dataclass(frozen=True)
class RunningVendors:
    """Simulated vendors that are being served by the process `pid`."""

    base_urls: tuple[str, ...]
    pid: int

    def count_requests(self) -> Counter[str]:
        """Return the number of requests to all vendors so far, by endpoint."""
        return sum((Counter(each["requests"]) for each in self._statistics()), Counter[str]())

    def busy_seconds(self) -> float:
        """Return in how many seconds so far the vendors had at least one request, summed over all vendors."""
        return sum(float(each["busy_seconds"]) for each in self._statistics())

    def count_usable_titles(self) -> int:
        """Return how many titles can be imported from all vendors."""
        return sum(each["usable_titles"] for each in self._statistics())

    def _statistics(self) -> list[dict[str, Any]]:
        return [httpx.get(f"{url}/sandbox/statistics", trust_env=False).json() for url in self.base_urls]


class TimedSandbox(Sandbox):
    """A simulated vendor that also measures how long it has had requests to respond to."""

    _requests_in_progress = 0
    _busy_since = 0.0
    _busy_seconds = 0.0

    async def marc(self, request: Request) -> Response:
        """Respond to a request for purchase records."""
        with self._measured():
            return await super().marc(request)

    async def items(self, request: Request) -> Response:
        """Respond to a request for titles."""
        with self._measured():
            return await super().items(request)

    def statistics(self) -> dict[str, Any]:
        """Return the statistics of the sandbox, with `busy_seconds`."""
        return {**super().statistics(), "busy_seconds": self._busy_seconds}

    @contextmanager
    def _measured(self) -> Iterator[None]:
        if not self._requests_in_progress:
            self._busy_since = time.monotonic()
        self._requests_in_progress += 1
        try:
            yield
        finally:
            self._requests_in_progress -= 1
            if not self._requests_in_progress:
                self._busy_seconds += time.monotonic() - self._busy_since


@contextmanager
def running_vendors(specs: Sequence[VendorSpec]) -> Iterator[RunningVendors]:
    """Serve a vendor for each spec, all in one process, until the context ends."""
    connection, child_connection = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(specs, child_connection))
    process.start()
    child_connection.close()
    try:
        yield RunningVendors(connection.recv(), process.pid or 0)
    finally:
        # An orderly shutdown of many servers would take a while.
        process.terminate()
        process.join()
        connection.close()


def _serve(specs: Sequence[VendorSpec], connection: Connection) -> None:
    with ExitStack() as stack:
        sandboxes = [TimedSandbox(Catalogue(spec.purchases()), latency_ms=spec.latency_ms) for spec in specs]
        servers = [stack.enter_context(running_sandbox(sandbox)) for sandbox in sandboxes]
        connection.send(tuple(server.base_url for server in servers))
        # The end of the connection shows that the measuring process has ended, even if it was killed.
        with suppress(EOFError):
            connection.recv()
