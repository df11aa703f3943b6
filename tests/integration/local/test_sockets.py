"""Sockets of the embedded servers: private, at paths that fit, and no password for whoever else listens."""

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
import pytest
from celery import Celery
from redis.exceptions import RedisError

from accession.core.database_url import with_password_protection
from accession.core.errors import UserError
from accession.core.redis_url import celery_url
from accession.local.home import prepare_home, remove_home_data
from accession.local.processes import recorded_processes
from accession.local.servers import EmbeddedServers, ServerUrls
from accession.local.sockets import find_socket_folder, remove_socket_folders, renew_socket_folder
from accession.local.users import User, server_user
from accession.local.valkey import EmbeddedValkey
from accession.tasks.broker import redis_client
from accession.tasks.transport import register_transport
from tests.fixtures.machine import as_root, new_home, public_folder

PASSWORD = "s3cret"
# A user that exists everywhere, and as which no test runs.
OTHER_USER = "daemon"
REQUEST_FOR_PASSWORD = b"R" + (8).to_bytes(4, "big") + (3).to_bytes(4, "big")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with new_home(tmp_path_factory.mktemp("sockets")) as home:
        yield home


@pytest.fixture(scope="module")
def urls(home: Path) -> Iterator[ServerUrls]:
    with EmbeddedServers(home, durable=False) as urls:
        yield urls


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A home in which a socket has a path that is short enough."""
    with public_folder() as folder, new_home(folder) as home:
        yield home


def test_servers_listen_on_private_unix_sockets_only(home: Path, urls: ServerUrls) -> None:
    owners = {"postgres": server_user(), "valkey": None}
    for name, process in recorded_processes(home).items():
        assert psutil.Process(process.pid).net_connections("inet") == []
        folder = (home / "sockets").resolve() / name
        user = owners[name]
        for path in (folder, *folder.iterdir()):
            status = path.lstat()
            assert status.st_uid == (user.uid if user else os.geteuid())
            assert stat.S_IMODE(status.st_mode) & 0o077 == 0
        # Others may pass through it, but not list or change it.
        assert stat.S_IMODE(folder.parent.stat().st_mode) & 0o066 == 0


@contextmanager
def impostor(response: bytes) -> Iterator[tuple[Path, Callable[[], bytes]]]:
    """Listen on a socket in place of a server, and answer what is sent first; yield how to get that."""
    received = bytearray()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(ConnectionError):
                    received.extend(connection.recv(1000))
                    connection.sendall(response)

    with public_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = folder / ".s.PGSQL.5432"
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path, lambda: bytes(received)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def database_url(socket_path: Path, **parameters: str) -> str:
    query = "".join(f"?{name}={value}" for name, value in parameters.items())
    folder = quote(str(socket_path.parent), safe="")
    return with_password_protection(f"postgresql://accession:{PASSWORD}@{folder}/accession{query}")


def test_database_password_is_not_sent_to_another_user() -> None:
    with impostor(REQUEST_FOR_PASSWORD) as (path, received):
        url = database_url(path, requirepeer=OTHER_USER)
        with pytest.raises(psycopg.OperationalError, match='requirepeer specifies "daemon", but actual'):
            psycopg.connect(url)
        assert received() == b""


def test_database_password_is_not_sent_in_clear_text() -> None:
    with impostor(REQUEST_FOR_PASSWORD) as (path, received):
        with pytest.raises(psycopg.OperationalError, match='requirement "scram-sha-256" failed'):
            psycopg.connect(database_url(path))
        assert b"user\0accession" in received()
        assert PASSWORD.encode() not in received()


def send_with_kombu(url: str) -> None:
    with (
        Celery("impostor", broker=celery_url(url), set_as_current=False) as app,
        app.connection_for_write() as connection,
        connection.channel() as channel,
    ):
        channel.client.ping()


def send_with_celery(url: str) -> None:
    with Celery("impostor", backend=celery_url(url), set_as_current=False) as app:
        app.backend.client.ping()


def send_with_redis(url: str) -> None:
    redis_client(url).ping()


@pytest.mark.parametrize("send", [send_with_redis, send_with_celery, send_with_kombu])
def test_broker_password_is_not_sent_to_another_user(send: Callable[[str], None]) -> None:
    register_transport()
    with impostor(b"+PONG\r\n") as (path, received):
        url = f"unix://:{PASSWORD}@{path}"
        with pytest.raises((RedisError, OSError), match=r"is a process of \w+, and not of daemon"):
            send(f"{url}?requirepeer={OTHER_USER}")
        assert received() == b""
        with suppress(RedisError, OSError):
            send(url)
        assert PASSWORD.encode() in received()


def test_socket_is_in_a_home_with_a_short_path(short_home: Path) -> None:
    folder = find_socket_folder(short_home, "valkey", None)
    renew_socket_folder(folder, None)
    assert folder == short_home.resolve() / "sockets" / "valkey"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["a" * 100, "a b", "a,b", "ü"])
def test_socket_is_outside_a_home_whose_path_does_not_fit(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    prepare_home(home)
    server = EmbeddedValkey(home, durable=False)
    server.start()
    try:
        url = server.url
        assert url.partition("@")[2].startswith(f"{Path('/tmp').resolve()}/accession-")  # noqa: S108
        with redis_client(url) as client:
            assert client.ping()
        server.start()
        assert server.url == url
    finally:
        server.stop()
        outside = (home / "sockets").readlink()
        remove_home_data(home)
    assert not outside.exists()


def test_socket_is_outside_a_home_that_others_can_change(short_home: Path) -> None:
    short_home.chmod(0o777)
    assert find_socket_folder(short_home, "valkey", None).parent.parent == Path("/tmp").resolve()  # noqa: S108
    assert (short_home / "sockets").is_symlink()


@as_root
def test_outside_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    """After a restart of the machine, /tmp is empty, and everybody can create a folder of that name."""
    home = tmp_path / ("a" * 100)
    prepare_home(home)
    folder = find_socket_folder(home, "valkey", None)
    assert find_socket_folder(home, "valkey", None) == folder
    os.chown(folder.parent, 65534, 65534)
    with pytest.raises(UserError, match=rf"^The folder {folder.parent} for sockets belongs to another user"):
        renew_socket_folder(folder, None)
    other = find_socket_folder(home, "valkey", None)
    assert other != folder
    remove_socket_folders(home)
    # It was another user's.
    folder.parent.rmdir()


def test_link_to_any_other_folder_is_not_followed(short_home: Path, tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    (short_home / "sockets").symlink_to(tmp_path)
    folder = find_socket_folder(short_home, "valkey", None)
    renew_socket_folder(folder, None)
    assert folder.parent == short_home.resolve() / "sockets"
    remove_socket_folders(short_home)
    assert (tmp_path / "valkey").exists()


def test_lost_folder_of_a_running_installation_is_created_again(short_home: Path) -> None:
    server = EmbeddedValkey(short_home, durable=False)
    server.start()
    remove_socket_folders(short_home)
    server.stop()
    assert server.ensure_running()
    with redis_client(server.url) as client:
        assert client.ping()
    server.stop()


@as_root
def test_socket_is_outside_a_home_that_postgres_cannot_reach(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare_home(home)
    user = User(OTHER_USER, 1, 1)
    folder = find_socket_folder(home, "postgres", user)
    renew_socket_folder(folder, user)
    assert folder.parent == (home / "sockets").readlink()
    assert folder.stat().st_uid == user.uid
    remove_socket_folders(home)
