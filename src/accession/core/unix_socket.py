"""Unix domain sockets: the length of their paths, and the user whose process listens."""

import errno
import os
import pwd
import socket
import struct
import sys
from pathlib import Path

MAX_PATH_BYTES = 107 if sys.platform == "linux" else 103
"""Longest path of a socket; macOS permits four bytes fewer than Linux."""

if sys.platform == "linux":

    def _listening_user(connection: socket.socket) -> int:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
        _pid, uid, _gid = struct.unpack("iII", credentials)
        return int(uid)

else:
    # `LOCAL_PEERCRED` at the level `SOL_LOCAL` returns a `struct xucred`: version, user id, 16 groups.
    _SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES = 0, 1, 76

    def _listening_user(connection: socket.socket) -> int:
        credentials = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES)
        _version, uid = struct.unpack_from("II", credentials)
        return int(uid)


def require_peer(connection: socket.socket, user: str) -> None:
    """Check which user's process listens at the other end, before a password is sent to it.

    Args:
        connection: A connection to a Unix domain socket.
        user: Name, or number, of the user.

    Raises:
        ConnectionRefusedError: it is another user's.
    """
    uid = _listening_user(connection)
    if user not in (str(uid), user_name(uid)):
        reason = f"The server is a process of {user_name(uid)}, and not of {user}"
        raise ConnectionRefusedError(errno.ECONNREFUSED, reason)


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one without an account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_short_enough(path: Path) -> bool:
    """Return whether a socket can have this path."""
    return len(os.fsencode(path)) <= MAX_PATH_BYTES
