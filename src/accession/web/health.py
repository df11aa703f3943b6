"""Health endpoints for probes, open to everybody: `/healthz` (liveness) and `/readyz` (readiness)."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from threading import Lock, Thread
from typing import Any

import structlog
from fastapi import APIRouter, Response
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from accession.core.errors import UserError
from accession.tasks.broker import broker_client
from accession.tasks.health_checks import check_database, check_scheduler, check_schema, check_workers

log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS = 3.0
# A page must not wait longer for a broker that hangs.
_PAGE_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True)
class CheckResult:
    """Result of one check; `finding` names no server, user or secret."""

    ok: bool
    finding: str


class ReadinessChecks:
    """Checks that run in parallel, each in its own thread.

    A check that is still running is not started again, so one that hangs blocks one thread only.
    """

    def __init__(self, checks: Mapping[str, Callable[[], str]], timeout_seconds: float) -> None:
        """Create the checks by name; each returns its finding or raises."""
        self._checks = checks
        self._timeout_seconds = timeout_seconds
        self._lock = Lock()
        self._running: dict[str, Future[CheckResult]] = {}

    def run(self) -> dict[str, CheckResult]:
        """Return each check's result, waiting at most `timeout_seconds`."""
        with self._lock:
            futures = {name: self._start(name) for name in self._checks}
        done, _ = wait(futures.values(), timeout=self._timeout_seconds)
        timeout = CheckResult(False, f"no response within {self._timeout_seconds:g} seconds")
        return {name: future.result() if future in done else timeout for name, future in futures.items()}

    def _start(self, name: str) -> Future[CheckResult]:
        """Return the running check, starting it if it is not running."""
        future = self._running.get(name)
        if future is None or future.done():
            future = self._running[name] = Future()
            # A thread of a pool would keep the process from exiting while the check hangs.
            Thread(target=self._run_one, args=(name, future), name=f"check-{name}", daemon=True).start()
        return future

    def _run_one(self, name: str, future: Future[CheckResult]) -> None:
        future.set_result(_check_result(name, self._checks[name]))


def _check_result(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(True, check())
    except UserError as error:
        return CheckResult(False, str(error))
    except (SQLAlchemyError, RedisError) as error:
        # The message names hosts and users, so it goes to the log only.
        log.warning("dependency unavailable", check=name, reason=str(error).strip().splitlines()[0])
        dependency = "database" if isinstance(error, SQLAlchemyError) else "broker"
        return CheckResult(False, f"the {dependency} is unavailable")
    except Exception as error:
        log.exception("readiness check failed unexpectedly", check=name)
        return CheckResult(False, f"the check itself failed with {type(error).__name__}")


def _database() -> str:
    check_database()
    return "available"


def _broker() -> str:
    broker_client().ping()
    return "available"


READINESS = ReadinessChecks(
    {
        "database": _database,
        "schema": check_schema,
        "broker": _broker,
        "worker": check_workers,
        "scheduler": check_scheduler,
    },
    _TIMEOUT_SECONDS,
)
_PROCESSES = ReadinessChecks({"worker": check_workers, "scheduler": check_scheduler}, _PAGE_TIMEOUT_SECONDS)
_EFFECTS = {
    "worker": "No worker is running, so nothing is imported",
    "scheduler": "The scheduler is not running, so no scheduled run starts",
}

router = APIRouter(include_in_schema=False)


def find_missing_processes() -> dict[str, str]:
    """Return what does not happen because a process is missing, each with the finding of its check."""
    findings = {name: result.finding for name, result in _PROCESSES.run().items() if not result.ok}
    if len(findings) == len(_EFFECTS) and len(set(findings.values())) == 1:
        # Nothing is known about either of them.
        return {"Workers and scheduler cannot be checked": findings["worker"]}
    return {_EFFECTS[name]: finding for name, finding in findings.items()}


@router.get("/healthz")
async def liveness() -> dict[str, str]:
    """Return 200 whenever the process responds."""
    return {"status": "alive"}


@router.get("/readyz")
async def readiness(response: Response) -> dict[str, Any]:
    """Return 200 if all checks pass and 503 otherwise, with each check's finding."""
    # Not in the thread pool of the other routes, which may all wait for a server that hangs.
    results = await asyncio.to_thread(READINESS.run)
    is_ready = all(result.ok for result in results.values())
    response.status_code = 200 if is_ready else 503
    response.headers["Cache-Control"] = "no-store"
    return {
        "status": "ready" if is_ready else "not ready",
        "checks": {name: asdict(result) for name, result in results.items()},
    }
