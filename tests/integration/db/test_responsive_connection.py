"""Connections whose server falls silent are replaced: reads do not wait for ever."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from accession.db import responsive_connection
from accession.db.engine import connection_parameters, make_engine
from accession.local.servers import ServerUrls
from tests.fixtures.heartbeats import record_heartbeats
from tests.fixtures.silent_proxy import SilentProxy, silent_proxy
from tests.fixtures.waiting import wait_until


@pytest.fixture
def proxy(servers: ServerUrls) -> Iterator[SilentProxy]:
    """A proxy in front of the database server."""
    parameters = connection_parameters(servers.database_url)
    path = Path(parameters["host"]) / f".s.PGSQL.{parameters.get('port', '5432')}"

    def connect() -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(path))
        return server

    with silent_proxy(connect) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: SilentProxy, servers: ServerUrls, database: None) -> Iterator[Engine]:
    """An engine that reaches the database through the proxy."""
    parameters = connection_parameters(servers.database_url)
    user, password = parameters["user"], parameters.get("password", "")
    engine = make_engine(
        f"postgresql://{user}:{password}@127.0.0.1:{proxy.port}/{parameters['dbname']}?sslmode=disable"
    )
    yield engine
    engine.dispose()


def read_one(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT 1")) or 0)


def test_connection_of_the_pool_that_is_silent_is_replaced(
    proxied: Engine, proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responsive_connection, "CHECK_SECONDS", 0.1)
    assert read_one(proxied) == 1
    proxy.hold()

    assert read_one(proxied) == 1


def test_statement_without_response_is_an_error(
    proxied: Engine, proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responsive_connection, "RESPONSE_SECONDS", 0.1)
    with proxied.connect() as connection:
        proxy.hold()
        with pytest.raises(OperationalError, match=r"no response within 0\.1 seconds"):
            connection.execute(text("SELECT 1"))
    monkeypatch.undo()

    assert read_one(proxied) == 1, "the connection was not put back into the pool"


def test_connection_without_limit_waits(proxied: Engine) -> None:
    with proxied.connect() as connection:
        driver_connection = connection.connection.driver_connection
        assert isinstance(driver_connection, responsive_connection.ResponsiveConnection)
        assert driver_connection.limit_seconds == responsive_connection.RESPONSE_SECONDS
        responsive_connection.wait_without_limit(connection)
        assert driver_connection.limit_seconds is None
        assert connection.scalar(text("SELECT 1")) == 1


def test_readiness_recovers_from_silent_connections(
    client: httpx.Client, queues: Redis, proxied: Engine, proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks import health_checks

    monkeypatch.setattr(responsive_connection, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(health_checks, "engine", lambda: proxied)
    record_heartbeats(queues, "accession-1@a")
    wait_until(lambda: client.get("/readyz").status_code == 200, "everything is available")
    proxy.hold()

    wait_until(lambda: client.get("/readyz").status_code == 200, "new connections are used")
