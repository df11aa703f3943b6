"""Unix sockets: whose process listens, and which paths are short enough."""

import os
import pwd
import runpy
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from accession.core import unix_socket
from accession.core.unix_socket import MAX_PATH_BYTES, is_short_enough, require_peer, user_name


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A connection to a socket of this process."""
    # The path of the temporary folder may be too long.
    monkeypatch.chdir(tmp_path)
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
    ):
        listener.bind("socket")
        listener.listen()
        client.connect("socket")
        yield client


def test_process_of_the_required_user_is_accepted(connection: socket.socket) -> None:
    require_peer(connection, pwd.getpwuid(os.geteuid()).pw_name)
    require_peer(connection, str(os.geteuid()))


def test_process_of_another_user_is_refused(connection: socket.socket) -> None:
    ours = pwd.getpwuid(os.geteuid()).pw_name
    with pytest.raises(ConnectionRefusedError, match=f"is a process of {ours}, and not of librarian$"):
        require_peer(connection, "librarian")


def test_user_without_account_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    assert user_name(4_000_000_000) == "4000000000"


def test_longest_path_of_a_socket_is_known(tmp_path: Path) -> None:
    longest = Path(f"/tmp/{'ü' * ((MAX_PATH_BYTES - 5) // 2)}")  # noqa: S108 - nothing is created
    assert is_short_enough(longest)
    too_long = Path(f"/tmp/{'a' * (MAX_PATH_BYTES - 4)}")  # noqa: S108 - nothing is created
    assert not is_short_enough(too_long)
    with socket.socket(socket.AF_UNIX) as listener, pytest.raises(OSError, match="too long"):
        listener.bind(str(too_long))


class MacSocket(socket.socket):
    """A socket as macOS has it: user 4711 listens at the other end."""

    def getsockopt(self, level: int, option: int, length: int = 0) -> bytes:  # type: ignore[override]
        assert (level, option, length) == (0, 1, 76)
        return struct.pack("2Ih", 0, 4711, 1).ljust(length, b"\0")


def test_process_of_another_user_is_refused_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    module = runpy.run_path(unix_socket.__file__)
    assert module["MAX_PATH_BYTES"] == 103
    with MacSocket(socket.AF_UNIX) as connection:
        module["require_peer"](connection, "4711")
        with pytest.raises(ConnectionRefusedError, match="is a process of 4711, and not of root"):
            module["require_peer"](connection, "root")
