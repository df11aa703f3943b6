"""Files and folders of a home: private files, and folders that belong to the user of a server.

Where another user may write, a path can lead to any file of the machine a moment after it was checked. So
nothing there is opened, changed or given away by a path that follows symbolic links.
"""

import os
import secrets
import shutil
import stat
from pathlib import Path

from accession.core.errors import UserError
from accession.core.fs import atomic_write
from accession.core.unix_socket import user_name
from accession.local.users import User

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# A file of another user could be a named pipe, of which opening would wait.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_MAX_FOREIGN_BYTES = 4096


def write_private_file(path: Path, content: str | bytes, *, user: User | None = None) -> None:
    """Write a file atomically with mode 600; it belongs to `user`, or to us if that is None."""
    with atomic_write(path) as file:
        if user:
            os.fchown(file.fileno(), user.uid, user.gid)
        file.write(content.encode() if isinstance(content, str) else content)


def read_or_create_password(path: Path) -> str:
    """Return the password in a file; create one of 32 URL-safe characters on first use."""
    if not path.exists():
        write_private_file(path, secrets.token_urlsafe(24))
    return path.read_text()


def create_folder(path: Path, user: User | None, *, mode: int = 0o700) -> None:
    """Create a folder that belongs to `user`, or to us if that is None; its parent must be ours."""
    path.mkdir(mode=0o700)
    folder = os.open(path, _FOLDER_FLAGS)
    try:
        if user:
            os.fchown(folder, user.uid, user.gid)
        os.fchmod(folder, mode)
    finally:
        os.close(folder)


def remove_folder(path: Path) -> None:
    """Delete a folder with its content, if it exists; of a symbolic link only the link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def give_folder(path: Path, user: User) -> None:
    """Give a folder of root, such as a restored copy, with all its content to the user of a server.

    The folder itself is given last, so that nobody else can reach into it meanwhile.

    Raises:
        UserError: something in it belongs to a third user, or also has a name elsewhere.
    """
    for _, folders, files, handle in os.fwalk(path, topdown=False, follow_symlinks=False):
        for name in (*folders, *files):
            entry = os.stat(name, dir_fd=handle, follow_symlinks=False)
            is_linked = entry.st_nlink > 1 and not stat.S_ISDIR(entry.st_mode)
            if entry.st_uid not in (0, user.uid) or is_linked:
                raise UserError(
                    f"The file {name} in {path} belongs to another user, or has another name elsewhere: "
                    f"check the folder, and give it to {user.name}, the user that PostgreSQL runs as."
                )
            os.chown(name, user.uid, user.gid, dir_fd=handle, follow_symlinks=False)
    folder = os.open(path, _FOLDER_FLAGS)
    try:
        os.fchown(folder, user.uid, user.gid)
    finally:
        os.close(folder)


def read_foreign_file(path: Path) -> str:
    """Return the beginning of a file in a folder of another user; "" if there is no regular file."""
    try:
        handle = os.open(path, _FILE_FLAGS)
    except OSError:
        return ""
    with open(handle, "rb") as file:
        is_regular = stat.S_ISREG(os.fstat(handle).st_mode)
        return file.read(_MAX_FOREIGN_BYTES).decode(errors="replace") if is_regular else ""


def find_untrusted_folder(path: Path) -> Path | None:
    """Return the folder on the way to `path`, or `path`, in which others could replace what we write.

    It belongs to another user than root and us, or others may write in it. In a folder with the sticky bit,
    such as /tmp, others cannot replace what is ours.
    """
    for folder in reversed((path, *path.parents)):
        status = folder.stat()
        is_open = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
        if is_open or status.st_uid not in (0, os.geteuid()):
            return folder
    return None


def require_trusted_home(home: Path) -> None:
    """Check as root that nobody else can replace files of the home, by which root could be misled.

    Raises:
        UserError: someone can.
    """
    if os.geteuid() != 0:
        return
    path = home.resolve()
    if (folder := find_untrusted_folder(path)) is not None:
        raise UserError(
            f"Root cannot use the home {home}, because {user_name(folder.stat().st_uid)} or others may "
            f"replace files in {folder}: run Accession as the owner of the home, or set ACCESSION_HOME to a "
            "folder that only root can write to."
        )
