"""Health endpoints `/healthz` and `/readyz`."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, active_count
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis

from accession.core.settings import get_settings, use_settings
from accession.db.engine import make_engine
from accession.web.health import CheckResult, ReadinessChecks
from tests.fixtures.factories import SCHEMA_REVISION
from tests.fixtures.heartbeats import record_heartbeats
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until

NO_WORKER = "no heartbeat in the last 30 seconds: start a worker with `accession up`, or `accession worker`"


@pytest.fixture
def heartbeats(queues: Redis) -> None:
    """Record heartbeats of one worker and the scheduler."""
    record_heartbeats(queues, "alder")


@contextmanager
def broker_url(url: str) -> Iterator[None]:
    before = get_settings()
    use_settings(before.model_copy(update={"redis_url": SecretStr(url)}))
    yield
    use_settings(before)


def failed_checks(client: httpx.Client) -> dict[str, str]:
    """Return the findings of the failed checks by name."""
    response = client.get("/readyz")
    checks: dict[str, dict[str, Any]] = response.json()["checks"]
    failed = {name: check["finding"] for name, check in checks.items() if not check["ok"]}
    expected = (503, "not ready") if failed else (200, "ready")
    assert (response.status_code, response.json()["status"]) == expected
    return failed


def test_complete_installation_is_ready(client: httpx.Client, heartbeats: None) -> None:
    response = client.get("/readyz")

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json()["checks"] == {
        "database": {"ok": True, "finding": "available"},
        "schema": {"ok": True, "finding": SCHEMA_REVISION},
        "broker": {"ok": True, "finding": "available"},
        "worker": {"ok": True, "finding": "1 running"},
        "scheduler": {"ok": True, "finding": "the scheduler's last tick was 0 seconds ago"},
    }


def test_missing_worker_and_scheduler_are_not_ready(client: httpx.Client) -> None:
    failed = failed_checks(client)

    assert failed.keys() == {"worker", "scheduler"}
    assert failed["worker"] == NO_WORKER
    assert failed["scheduler"].endswith(": start it with `accession up`, or `accession beat`")


def test_overdue_scheduler_is_not_ready(client: httpx.Client, heartbeats: None, queues: Redis) -> None:
    queues.incrby("heartbeats:beat", -10_000)

    assert failed_checks(client).keys() == {"scheduler"}


def test_old_schema_is_not_ready(client: httpx.Client, heartbeats: None, next_revision: str) -> None:
    failed = failed_checks(client)

    assert failed.keys() == {"schema"}
    assert "run `accession db upgrade`" in failed["schema"]


def test_unavailable_broker_is_reported_without_its_url(client: httpx.Client) -> None:
    with broker_url("redis://:hidden@127.0.0.1:9/0"):
        failed = failed_checks(client)

    assert failed == dict.fromkeys(("broker", "worker", "scheduler"), "the broker is unavailable")


def test_hanging_broker_does_not_block_the_response(client: httpx.Client, heartbeats: None) -> None:
    # The socket accepts connections and never responds.
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        broker_url(f"redis://127.0.0.1:{silent.getsockname()[1]}/0"),
    ):
        failed = failed_checks(client)

    assert failed.keys() == {"broker", "worker", "scheduler"}


def test_unavailable_database_is_not_ready(
    client: httpx.Client, heartbeats: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks import health_checks

    unavailable = make_engine("postgresql://somebody:hidden@127.0.0.1:9/d")
    monkeypatch.setattr(health_checks, "engine", lambda: unavailable)

    assert failed_checks(client) == dict.fromkeys(("database", "schema"), "the database is unavailable")


def test_liveness_needs_no_broker(client: httpx.Client) -> None:
    with broker_url("redis://127.0.0.1:9/0"):
        response = client.get("/healthz")

    assert (response.status_code, response.json()) == (200, {"status": "alive"})


def test_hanging_check_blocks_one_thread_only() -> None:
    release = Event()

    def slow() -> str:
        release.wait(DEADLINE_SECONDS)
        return "done"

    checks = ReadinessChecks({"slow": slow}, timeout_seconds=0.01)
    before = active_count()
    for _ in range(3):
        assert checks.run() == {"slow": CheckResult(False, "no response within 0.01 seconds")}
    assert active_count() <= before + 1
    release.set()


def test_hanging_check_does_not_affect_other_checks() -> None:
    release = Event()

    def slow() -> str:
        release.wait(DEADLINE_SECONDS)
        return "done"

    checks = ReadinessChecks({"slow": slow, "quick": lambda: "ok"}, timeout_seconds=0.01)
    wait_until(lambda: checks.run()["quick"] == CheckResult(True, "ok"))
    release.set()
    wait_until(lambda: checks.run()["slow"] == CheckResult(True, "done"))


def test_unexpected_error_of_check_is_not_ready() -> None:
    def fail() -> str:
        raise KeyError("secret")

    results = ReadinessChecks({"broken": fail}, timeout_seconds=DEADLINE_SECONDS).run()

    assert results == {"broken": CheckResult(False, "the check itself failed with KeyError")}
    assert "secret" not in json.dumps(str(results))
