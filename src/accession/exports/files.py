"""Files that are whole or not there: in a folder of this machine, or wherever fsspec reaches."""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.core import url_to_fs

from accession.core.errors import UserError
from accession.core.fs import settle
from accession.core.sanitize import harmless

STAMP = "%Y%m%dT%H%M%SZ"
_STAMP = r"\d{8}T\d{6}Z"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+@")


@contextmanager
def replaced(target: str) -> Iterator[BinaryIO]:
    """Write a file: what the block has written is at `target`, a path or any URL of fsspec, when the block
    ends well. When it does not, the file that was there stays as it was.

    A file of this machine is on disk then, and is everybody's to read as far as the umask lets it. Raises
    `UserError` when it cannot be written.
    """
    path = _local_path(target)
    with _replaced_here(path) if path is not None else _uploaded(target) as file:
        yield file


def keep_last(folder: str, prefix: str, number: int) -> None:
    """Afterwards the folder, a path or a URL, has no more than the last `number` files whose name is the
    prefix and a moment (`STAMP`) with a suffix. Others are left alone.

    Raises `UserError` when they cannot be removed.
    """
    ours = re.compile(rf"{re.escape(prefix)}{_STAMP}(\.\w+)+")
    with _told_of(folder):
        system, path = _reached(folder)
        system.invalidate_cache()
        names = [str(found).rpartition("/")[2] for found in system.ls(path, detail=False)]
        for name in sorted(filter(ours.fullmatch, names))[: -number or None]:
            system.rm_file(f"{path}/{name}")


def refuse_missing_folder(folder: str) -> None:
    """Raise `UserError` when the folder is on this machine and no file can be made in it."""
    path = _local_path(folder)
    if path is not None and not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
        raise UserError(f"{path} is no folder that can be written to: make it, or name another.")


def joined(folder: str, name: str) -> str:
    """The path or URL of a file in the folder."""
    return f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"


def shown(target: str) -> str:
    """The target as it may be shown: without a user and password."""
    return _CREDENTIALS.sub("", target)


def _local_path(target: str) -> Path | None:
    """Where on this machine the target is, None when it is elsewhere."""
    if "://" in target and not target.startswith(("file://", "local://")):
        return None
    # Where a link leads to: replaced is the file itself.
    return Path(target.removeprefix("file://").removeprefix("local://")).expanduser().resolve()


def _reached(target: str) -> tuple[Any, str]:
    local = _local_path(target)
    system, path = url_to_fs(target if local is None else f"file://{local}")
    return system, str(path).rstrip("/")


@contextmanager
def _replaced_here(path: Path) -> Iterator[BinaryIO]:
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file, and is not replaced by one: name a file.")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with _told_of(str(path), OSError):
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            settle(path.parent)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


@contextmanager
def _uploaded(target: str) -> Iterator[BinaryIO]:
    """Uploaded is what is whole: some stores make a file of whatever came before an error."""
    with _told_of(target):
        system, path = _reached(target)
    with tempfile.NamedTemporaryFile(prefix="accession-export-") as file:
        with _told_of(file.name, OSError):
            yield cast("BinaryIO", file)
            file.flush()
        with _told_of(target):
            _upload(system, file.name, path)


def _upload(system: Any, file: str, path: str) -> None:
    folder, _, name = path.rpartition("/")
    draft = f"{folder}/.{name}.{secrets.token_hex(4)}"
    try:
        system.put_file(file, draft)
        system.mv(draft, path)
    except NotImplementedError:
        system.put_file(file, path)
        system.rm_file(draft)
    except BaseException:
        with suppress(Exception):
            system.rm_file(draft)
        raise


@contextmanager
def _told_of(target: str, kind: type[Exception] = Exception) -> Iterator[None]:
    """Errors of the kind become one sentence; each place that fsspec reaches has kinds of its own."""
    try:
        yield
    except kind as error:
        if isinstance(error, UserError):
            raise
        reason = shown(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise UserError(
            f"{shown(target)} cannot be written ({harmless(reason)}): see that it is there, has room, and is "
            "yours to write."
        ) from None
