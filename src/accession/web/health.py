"""Whether the process is alive, and whether the installation is ready: for probes, and open to everybody."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from threading import Lock, Thread
from typing import Any

import structlog
from fastapi import APIRouter, Response
from redis import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from accession.core.errors import UserError
from accession.db.engine import engine
from accession.db.schema import require_current
from accession.tasks.broker import quick_broker
from accession.tasks.heartbeats import read_heartbeats

log = structlog.get_logger(__name__)

_WITHIN_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """What one check has found, in words that name no server, user or secret."""

    ok: bool
    finding: str


class Checks:
    """Checks that are made side by side, each in a thread of its own, and none twice at once.

    One that hangs costs one thread, however often it is asked for.
    """

    def __init__(self, checks: Mapping[str, Callable[[], str]], within_seconds: float) -> None:
        self._checks = checks
        self._within_seconds = within_seconds
        self._lock = Lock()
        self._under_way: dict[str, Future[Finding]] = {}

    def findings(self) -> dict[str, Finding]:
        """What each check finds within the time that it has."""
        with self._lock:
            looking = {name: self._looking(name) for name in self._checks}
        done, _ = wait(looking.values(), timeout=self._within_seconds)
        late = Finding(False, f"no answer within {self._within_seconds:g} seconds")
        return {name: future.result() if future in done else late for name, future in looking.items()}

    def _looking(self, name: str) -> Future[Finding]:
        """The check under way, begun when there is none."""
        found = self._under_way.get(name)
        if found is None or found.done():
            found = self._under_way[name] = Future()
            # A thread of a pool would keep the process from ending while it hangs.
            Thread(target=self._look, args=(name, found), name=f"check-{name}", daemon=True).start()
        return found

    def _look(self, name: str, found: Future[Finding]) -> None:
        found.set_result(_finding(name, self._checks[name]))


def _finding(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(True, check())
    except UserError as amiss:
        return Finding(False, str(amiss))
    except (SQLAlchemyError, RedisError) as error:
        # The server's own words name hosts and users.
        log.warning("a server does not answer", check=name, reason=str(error).strip().splitlines()[0])
        server = "database" if isinstance(error, SQLAlchemyError) else "broker"
        return Finding(False, f"the {server} does not answer")
    except Exception as error:
        log.exception("a check of readiness is broken", check=name)
        return Finding(False, f"the check itself has failed with {type(error).__name__}")


def _database() -> str:
    with engine().connect() as connection:
        connection.execute(text("SELECT 1"))
    return "it answers"


def _schema() -> str:
    return require_current(engine())


def _broker() -> str:
    quick_broker().ping()
    return "it answers"


def _worker() -> str:
    workers = read_heartbeats().workers
    if not workers:
        raise UserError("none was there in the last half minute: start one with `accession worker`")
    return f"{workers} at work"


def _beat() -> str:
    found = read_heartbeats()
    if found.beat_is_overdue:
        raise UserError(f"{found.beat_in_words}: start it with `accession beat`")
    return found.beat_in_words


READINESS = Checks(
    {"database": _database, "schema": _schema, "broker": _broker, "worker": _worker, "beat": _beat},
    _WITHIN_SECONDS,
)

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """That the process answers, whatever else is the matter."""
    return {"status": "alive"}


@router.get("/readyz")
async def ready(response: Response) -> dict[str, Any]:
    """Whether all parts are there, with status 503 when one is not; each check with what it has found."""
    # Not in the threads of the other routes, which may all be waiting for the server that hangs.
    findings = await asyncio.to_thread(READINESS.findings)
    is_ready = all(found.ok for found in findings.values())
    response.status_code = 200 if is_ready else 503
    response.headers["Cache-Control"] = "no-store"
    return {
        "status": "ready" if is_ready else "not ready",
        "checks": {name: asdict(found) for name, found in findings.items()},
    }
