"""Whether the process is alive and the installation ready, as probes ask it."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, active_count
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import text

from accession.core.settings import get_settings, use_settings
from accession.db.engine import engine
from accession.web.health import Checks, Finding
from tests.fixtures.factories import NEWEST_SCHEMA
from tests.fixtures.web_server import served


@pytest.fixture
def client(database: None, queues: Redis) -> Iterator[httpx.Client]:
    from accession.web.app import create_app

    with served(create_app()) as client:
        yield client


@pytest.fixture
def all_there(queues: Redis) -> None:
    """A worker and beat have given a sign of life."""
    from accession.tasks.heartbeats import note_tick, note_worker

    note_worker("alder")
    note_tick()


@contextmanager
def broker_at(url: str) -> Iterator[None]:
    before = get_settings()
    use_settings(before.model_copy(update={"redis_url": SecretStr(url)}))
    yield
    use_settings(before)


def amiss(client: httpx.Client) -> dict[str, str]:
    """What is not as it should be."""
    answer = client.get("/readyz")
    checks: dict[str, dict[str, Any]] = answer.json()["checks"]
    found = {name: check["finding"] for name, check in checks.items() if not check["ok"]}
    assert (answer.status_code, answer.json()["status"]) == ((503, "not ready") if found else (200, "ready"))
    return found


def test_an_installation_with_all_its_parts_is_ready(client: httpx.Client, all_there: None) -> None:
    answer = client.get("/readyz")

    assert answer.status_code == 200
    beat = answer.json()["checks"].pop("beat")
    assert beat["ok"]
    assert beat["finding"].startswith("it looked at its schedule ")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json()["checks"] | {"beat": beat} == {
        "database": {"ok": True, "finding": "it answers"},
        "schema": {"ok": True, "finding": NEWEST_SCHEMA},
        "broker": {"ok": True, "finding": "it answers"},
        "worker": {"ok": True, "finding": "1 at work"},
        "beat": beat,
    }


def test_without_worker_and_beat_it_is_not_ready_and_says_what_to_start(client: httpx.Client) -> None:
    assert amiss(client) == {
        "worker": "none was there in the last half minute: start one with `accession worker`",
        "beat": "it has never looked at its schedule: start it with `accession beat`",
    }


def test_a_beat_that_hangs_is_told(client: httpx.Client, all_there: None, queues: Redis) -> None:
    queues.incrby("heartbeats:beat", -100)

    assert amiss(client).keys() == {"beat"}


def test_an_older_schema_is_told(client: httpx.Client, all_there: None) -> None:
    with engine().begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    try:
        assert amiss(client) == {"schema": f"0001 instead of {NEWEST_SCHEMA}: run `accession db upgrade`"}
    finally:
        with engine().begin() as connection:
            connection.execute(
                text("UPDATE alembic_version SET version_num = :newest"), {"newest": NEWEST_SCHEMA}
            )


def test_a_broker_that_is_away_is_told_without_its_address_or_password(client: httpx.Client) -> None:
    with broker_at("redis://:hidden@127.0.0.1:9/0"):
        found = amiss(client)

    assert found == dict.fromkeys(("broker", "worker", "beat"), "the broker does not answer")


def test_a_broker_that_hangs_costs_no_more_than_a_moment(client: httpx.Client, all_there: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with broker_at(f"redis://127.0.0.1:{silent.getsockname()[1]}/0"):
            found = amiss(client)
        assert time.monotonic() - began < 5

    assert found.keys() == {"broker", "worker", "beat"}


def test_a_database_that_does_not_answer_is_told(
    client: httpx.Client, all_there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.db.engine import make_engine
    from accession.web import health

    dead = make_engine("postgresql://somebody:hidden@127.0.0.1:9/d")
    monkeypatch.setattr(health, "engine", lambda: dead)

    assert amiss(client) == dict.fromkeys(("database", "schema"), "the database does not answer")


def test_alive_touches_no_server(client: httpx.Client) -> None:
    with broker_at("redis://127.0.0.1:9/0"):
        answer = client.get("/healthz")

    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


def test_a_check_that_hangs_costs_one_thread_however_often_it_is_asked_for() -> None:
    go = Event()

    def hangs() -> str:
        go.wait(10)
        return "at last"

    checks = Checks({"slow": hangs, "quick": lambda: "at once"}, within_seconds=0.05)
    before = active_count()
    for _ in range(3):
        assert checks.findings() == {
            "slow": Finding(False, "no answer within 0.05 seconds"),
            "quick": Finding(True, "at once"),
        }
    assert active_count() <= before + 1

    go.set()
    patient = Checks({"slow": hangs}, within_seconds=10)
    assert patient.findings() == {"slow": Finding(True, "at last")}


def test_a_check_that_is_broken_is_not_ready_and_throws_nothing() -> None:
    def broken() -> str:
        raise KeyError("secret")

    found = Checks({"broken": broken}, within_seconds=5).findings()

    assert found == {"broken": Finding(False, "the check itself has failed with KeyError")}
    assert "secret" not in json.dumps(str(found))
