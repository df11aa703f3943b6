"""Private folders of the embedded servers' Unix sockets.

They are in `sockets/` of the home. Where a path there would be too long for a socket, could not be named in
a URL, or could be replaced by others, `sockets` is a symbolic link to a private folder in /tmp.
"""

import os
import re
import stat
import tempfile
from pathlib import Path

from accession.core.errors import UserError
from accession.core.unix_socket import is_short_enough
from accession.local.files import create_folder, find_untrusted_folder, remove_folder
from accession.local.users import User, has_access

FOLDER = "sockets"
_TEMPORARY = Path("/tmp").resolve()  # noqa: S108 - for folders with a random name, whose owner is checked
_PREFIX = "accession-"
_LONGEST = Path("postgres/.s.PGSQL.5432")
# libpq takes a comma in the folder for the end of a host, and Valkey a blank for the end of a path.
_PLAIN_PATH = re.compile(r"[\w/.+-]+", re.ASCII)


def find_socket_folder(home: Path, name: str, user: User | None) -> Path:
    """Return the folder for the socket of a server; it is the same at each start if that is possible.

    Args:
        home: Home folder.
        name: Name of the server.
        user: User that the server runs as, None for our own.
    """
    link = home / FOLDER
    if link.is_symlink() and _is_outside_folder(link.readlink()):
        return link.readlink() / name
    inside = home.resolve() / FOLDER
    if _is_suitable(inside, user):
        if link.is_symlink():
            link.unlink()
        return inside / name
    # What is there may lead to a folder that somebody else has created after a restart of the machine.
    remove_folder(link)
    outside = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_TEMPORARY))
    outside.chmod(_mode())
    link.symlink_to(outside)
    return outside / name


def renew_socket_folder(folder: Path, user: User | None) -> None:
    """Create the folder of a server, empty, such that only the user of the server can enter it.

    Raises:
        UserError: others could replace it.
    """
    if not folder.parent.exists():
        create_folder(folder.parent, None, mode=_mode())
    if not _is_ours(folder.parent):
        raise UserError(
            f"The folder {folder.parent} for sockets belongs to another user or is open to others: "
            "delete it, so that Accession can create it."
        )
    remove_folder(folder)
    create_folder(folder, user)


def remove_socket_folders(home: Path) -> None:
    """Delete the folders of all servers of a home."""
    link = home / FOLDER
    if link.is_symlink() and _is_outside_folder(link.readlink()):
        remove_folder(link.readlink())
    remove_folder(link)


def _is_suitable(folder: Path, user: User | None) -> bool:
    """Return whether servers and clients can use sockets in this folder of the home."""
    path = folder / _LONGEST
    return (
        is_short_enough(path)
        and _PLAIN_PATH.fullmatch(str(path)) is not None
        and find_untrusted_folder(folder.parent) is None
        and (user is None or has_access(user, "-x", folder.parent))
    )


def _is_outside_folder(folder: Path) -> bool:
    return folder.parent == _TEMPORARY and folder.name.startswith(_PREFIX) and _is_ours(folder)


def _is_ours(folder: Path) -> bool:
    """Return whether a folder is ours and can be changed by nobody else."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    mode = stat.S_IMODE(status.st_mode)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not mode & ~_mode()


def _mode() -> int:
    """Return the mode of the parent folder: the user that PostgreSQL runs as for root must traverse it."""
    return 0o711 if os.geteuid() == 0 else 0o700
