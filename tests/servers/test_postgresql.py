"""PostgreSQL as operators have it: behind PgBouncer, with TLS, a role without privileges, several hosts."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.db.engine import make_engine
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.certificates import Authority
from tests.fixtures.commands import (
    background_command,
    environment,
    run_command,
)
from tests.fixtures.machine import free_port, http_status
from tests.fixtures.postgresql import (
    SystemPostgres,
    database_url,
    missing_program,
    pgbouncer,
    standby_of,
    system_postgres,
)
from tests.fixtures.waiting import wait_until
from tests.servers.commands import new_library, refused, run

TITLES = 12
# Nothing listens there.
UNREACHABLE = "127.0.0.1:9"


@pytest.fixture(scope="module", autouse=True)
def _programs_are_installed() -> None:
    if missing := missing_program():
        pytest.skip(f"POSTGRESQL OF THE SYSTEM IS NOT TESTED HERE: this machine lacks {missing}")


@pytest.fixture(scope="module")
def server(_programs_are_installed: None) -> Iterator[SystemPostgres]:
    with system_postgres() as server:
        yield server


@pytest.fixture
def database(server: SystemPostgres) -> Iterator[str]:
    """The name of an empty database."""
    name = f"library_{uuid4().hex}"
    with server.database(name):
        yield name


@pytest.fixture(scope="module")
def pooler_port(server: SystemPostgres) -> Iterator[str]:
    with pgbouncer(server) as port:
        yield port


@pytest.fixture
def variables(servers: ServerUrls, broker: Redis, tmp_path: Path) -> dict[str, str]:
    """The environment of an installation without a database."""
    return environment(
        ACCESSION_HOME=str(tmp_path / "home"),
        ACCESSION_REDIS_URL=servers.redis_url,
        ACCESSION_RETRY_BACKOFF_SECONDS="0",
    )


def arguments(command: str, folder: Path) -> list[str]:
    """Return the arguments of a command, with FILE replaced by a path in the folder."""
    return command.replace("FILE", str(folder / "file")).split()


@contextmanager
def imported_library(env: dict[str, str]) -> Iterator[None]:
    """Import a library with a worker, while the dashboard is served."""
    web = {**env, "ACCESSION_WEB_PORT": free_port()}
    with (
        new_library(env, TITLES),
        background_command("worker", "--concurrency=2", env=env),
        background_command("web", env=web),
    ):
        run(env, "import", "purchases", "--import-all", "--wait")
        base_url = f"http://127.0.0.1:{web['ACCESSION_WEB_PORT']}"
        wait_until(lambda: http_status(f"{base_url}/titles") == 200, "the dashboard shows titles")
        assert http_status(base_url) == 200
        doctor = run_command("doctor", env=env).stdout
        assert "ok    database: PostgreSQL 1" in doctor, doctor
        yield
    assert len(run(env, "titles", "list", "--json").json) == TITLES


def back_up_and_restore(env: dict[str, str], folder: Path) -> None:
    """Back up the database, lose a collection, and restore it."""
    run(env, "backup", str(folder / "file"))
    engine = make_engine(env["ACCESSION_DATABASE_URL"])
    with Session(engine) as session:
        session.query(Collection).one().name = "lost"
        session.commit()
    engine.dispose()
    assert "Restored the database" in run(env, "restore", "--yes", str(folder / "file")).stdout
    assert [each["name"] for each in run(env, "collections", "list", "--json").json] == ["Alder Library"]


def test_psql_of_the_system_takes_the_url_of_accession_env(servers: ServerUrls) -> None:
    command = ["psql", servers.database_url, "--no-psqlrc", "-Atc", "SELECT current_user"]
    assert subprocess.check_output(command, text=True) == "accession\n"


# PgBouncer in transaction mode


def test_import_through_pgbouncer(
    server: SystemPostgres, database: str, pooler_port: str, variables: dict[str, str]
) -> None:
    env = {**variables, "ACCESSION_DATABASE_URL": server.url(database, f"127.0.0.1:{pooler_port}")}
    with imported_library(env):
        pass
    # Nothing of a client is left in the sessions that the next ones use.
    with psycopg.connect(env["ACCESSION_DATABASE_URL"], autocommit=True, prepare_threshold=None) as client:
        for _ in range(8):
            assert client.execute("SHOW lock_timeout").fetchone() == ("0",)
            assert client.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_transaction_through_pgbouncer_has_time_limits(
    server: SystemPostgres, database: str, pooler_port: str
) -> None:
    engine = make_engine(server.url(database, f"127.0.0.1:{pooler_port}"))
    for _ in range(8):
        with Session(engine) as session:
            assert session.scalar(text("SHOW lock_timeout")) == "20s"
            assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "5min"
            assert session.scalar(text("SHOW timezone")) == "UTC"
    engine.dispose()


def test_vanished_server_is_noticed_within_25_seconds(server: SystemPostgres, database: str) -> None:
    engine = make_engine(server.url(database))
    with engine.connect() as session:
        connection = session.connection.driver_connection
        assert isinstance(connection, psycopg.Connection)
        names = ["keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"]
        parameters = connection.info.get_parameters()
        settings = [session.scalar(text(f"SHOW tcp_{name.removeprefix('tcp_')}")) for name in names]
    engine.dispose()
    assert [parameters[name] for name in names] == ["10", "5", "3", "25000"] == settings


def test_backup_and_restore_through_pgbouncer_are_refused(
    server: SystemPostgres, database: str, pooler_port: str, variables: dict[str, str], tmp_path: Path
) -> None:
    direct = {**variables, "ACCESSION_DATABASE_URL": server.url(database)}
    pooled = {**variables, "ACCESSION_DATABASE_URL": server.url(database, f"127.0.0.1:{pooler_port}")}
    message = (
        "The database cannot be backed up or restored through a connection pooler such as PgBouncer: "
        "set ACCESSION_DATABASE_URL to the PostgreSQL server itself for this command."
    )
    run(direct, "db", "upgrade")
    run(direct, "backup", str(tmp_path / "file"))
    assert refused(pooled, "backup", str(tmp_path / "another")) == message
    assert refused(pooled, "restore", "--yes", str(tmp_path / "file")) == message
    assert not (tmp_path / "another").exists()


# TLS, and a role that owns the database and is no superuser


def test_import_and_restore_with_tls_and_own_authority(
    server: SystemPostgres, database: str, variables: dict[str, str], tmp_path: Path
) -> None:
    authority = str(server.authority.certificate)
    url = server.url(database, f"localhost:{server.port}", sslmode="verify-full", sslrootcert=authority)
    env = {**variables, "ACCESSION_DATABASE_URL": url}
    with imported_library(env):
        pass
    back_up_and_restore(env, tmp_path)


@pytest.mark.parametrize("command", ["db upgrade", "worker", "beat", "web", "backup FILE"])
@pytest.mark.parametrize("fault", ["authority", "host"])
def test_wrong_certificate_is_refused(
    server: SystemPostgres, variables: dict[str, str], tmp_path: Path, command: str, fault: str
) -> None:
    other = Authority(tmp_path, "other").certificate
    authority = other if fault == "authority" else server.authority.certificate
    host = "127.0.0.1" if fault == "host" else "localhost"
    parameters = {"sslmode": "verify-full", "sslrootcert": str(authority)}
    url = server.url("postgres", f"{host}:{server.port}", **parameters)
    message = refused({**variables, "ACCESSION_DATABASE_URL": url}, *arguments(command, tmp_path))
    reasons = {
        "authority": "certificate verify failed",
        "host": 'does not match host name "127.0.0.1"',
    }
    assert reasons[fault] in message


def test_backup_with_tls_needs_programs_of_the_system(
    server: SystemPostgres, database: str, variables: dict[str, str], tmp_path: Path
) -> None:
    url = server.url(database, f"localhost:{server.port}", sslmode="require")
    env = {**variables, "ACCESSION_DATABASE_URL": url, "PATH": str(tmp_path)}
    assert refused(env, "backup", str(tmp_path / "file")) == (
        "The included pg_dump cannot connect with TLS, and this machine has no other: install the client "
        "programs of PostgreSQL (on Debian the package postgresql-client); nothing was changed."
    )


# Several hosts


def test_import_and_restore_with_several_hosts(
    server: SystemPostgres, database: str, variables: dict[str, str], tmp_path: Path
) -> None:
    """The first host is down and the second accepts no writes."""
    with standby_of(server) as standby_port:
        hosts = f"{UNREACHABLE},127.0.0.1:{standby_port},127.0.0.1:{server.port}"
        env = {**variables, "ACCESSION_DATABASE_URL": server.url(database, hosts)}
        with imported_library(env):
            pass
        assert f"at 127.0.0.1:{server.port}\n" in run_command("doctor", env=env).stdout
        back_up_and_restore(env, tmp_path)


@pytest.mark.parametrize("command", ["db upgrade", "worker", "beat", "web", "backup FILE", "status"])
def test_unreachable_hosts_are_reported(variables: dict[str, str], tmp_path: Path, command: str) -> None:
    env = {**variables, "ACCESSION_DATABASE_URL": database_url(f"{UNREACHABLE},{UNREACHABLE}", "library")}
    message = refused(env, *arguments(command, tmp_path))
    assert message.startswith("The database ")
    assert "Connection refused" in message


@pytest.mark.parametrize("command", ["worker", "beat", "web", "up", "db upgrade", "doctor", "backup file"])
@pytest.mark.parametrize("scheme", ["mysql", "postgresql+psycopg2"])
def test_other_drivers_are_refused(variables: dict[str, str], scheme: str, command: str) -> None:
    url = database_url(UNREACHABLE, "library").replace("postgresql", scheme)
    message = refused({**variables, "ACCESSION_DATABASE_URL": url}, *command.split())
    assert message == (
        "The setting ACCESSION_DATABASE_URL (or database_url in accession.toml) is invalid: "
        "enter it as postgresql://user:password@host:port/database."
    )


def test_user_who_does_not_own_database_is_refused(server: SystemPostgres, variables: dict[str, str]) -> None:
    env = {**variables, "ACCESSION_DATABASE_URL": server.url("postgres")}
    message = refused(env, "db", "upgrade")
    assert message == (
        "PostgreSQL refuses the user of ACCESSION_DATABASE_URL (permission denied for schema public): "
        "make this user the owner of the database and of its tables."
    )
    assert refused(env, "db", "check").startswith("The database has schema none")
