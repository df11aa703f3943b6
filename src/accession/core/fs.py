"""Durable file operations: fsync, and files that are written atomically."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def follow_own_link(path: Path) -> Path:
    """Return the absolute path of a file to replace: behind a symbolic link, that of the file it leads to.

    A link of another user is not followed, because it could lead to a file that only we can write.
    """
    path = path.absolute()
    try:
        is_own = path.lstat().st_uid in (0, os.geteuid())
    except OSError:
        is_own = False
    return path.resolve() if is_own else path


def fsync_directory(path: Path) -> None:
    """Flush a directory to disk, so that files created in it or renamed survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_write(
    path: Path,
    *,
    mode: int = 0o600,
    draft: Path | None = None,
    keep_owner: bool = False,
    overwrite: bool = True,
) -> Iterator[BinaryIO]:
    """Write a file in a draft beside `path`, and move it there, flushed to disk, when the block ends.

    If the block raises, the draft is deleted and an existing file stays. Only the file's name changes, so
    that readers see either the old or the new content. The yielded file's `name` is the path of the draft.

    Args:
        path: the file to create or replace.
        mode: permissions of the file, limited by the umask.
        draft: path of the draft, for callers that allow one writer at a time: what a killed one has left
            there
            is deleted first. Default: a random name.
        keep_owner: give the new file the owner of the existing one.
        overwrite: False to keep an existing file, and write nothing.
    """
    if draft is None:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    else:
        draft.unlink(missing_ok=True)
    try:
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if keep_owner:
                _copy_owner(path, file.fileno())
        if overwrite:
            draft.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(draft, path)
            draft.unlink()
        fsync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def _copy_owner(source: Path, target: int) -> None:
    """Give an open file the owner of another one.

    By its handle: in a folder of that owner, its path may lead to any file of the machine by now.
    """
    owner = source.lstat()
    if owner.st_uid != os.geteuid():
        os.fchown(target, owner.st_uid, owner.st_gid)
