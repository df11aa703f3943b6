"""Export files that are written atomically, on this machine or on any file system that fsspec supports."""

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
from accession.core.fs import atomic_write, follow_own_link
from accession.core.sanitize import redact_credentials, sanitize

TIME_FORMAT = "%Y%m%dT%H%M%SZ"
"""Format of the time in the name of an export file (UTC)."""

_TIME = r"\d{8}T\d{6}Z"


@contextmanager
def write_file_atomically(target: str) -> Iterator[BinaryIO]:
    """Write a file that appears at `target`, a path or fsspec URL, when the block ends without an error.

    After an error the previous file remains. A local file is flushed to disk and readable by everybody as far
    as the umask allows.

    Raises:
        UserError: the file cannot be written.
    """
    path = _local_path(target)
    with _local_file(path) if path is not None else _remote_file(target) as file:
        yield file


def prune_old_files(folder: str, prefix: str, keep: int) -> None:
    """Delete all but the newest `keep` files of a folder, a path or URL, that are named prefix + time.

    Other files are left alone.

    Raises:
        UserError: the folder cannot be read or a file cannot be deleted.
    """
    pattern = re.compile(rf"{re.escape(prefix)}{_TIME}(\.\w+)+")
    with _error_as_sentence(folder):
        system, path = _open_file_system(folder)
        system.invalidate_cache()
        names = [str(entry).rpartition("/")[2] for entry in system.ls(path, detail=False)]
        for name in sorted(filter(pattern.fullmatch, names))[: -keep or None]:
            system.rm_file(f"{path}/{name}")


def require_writable_folder(folder: str) -> None:
    """Check that a folder on this machine exists and is writable; folders on others are not checked.

    Raises:
        UserError: the folder does not exist or is not writable, or is a web address.
    """
    _require_no_web_address(folder)
    path = _local_path(folder)
    if path is not None and not (path.is_dir() and os.access(path, os.W_OK | os.X_OK)):
        raise UserError(f"{path} is not a writable folder: create it, or choose another.")


def join_url(folder: str, name: str) -> str:
    """Return the path or URL of a file in a folder."""
    return f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"


def _local_path(target: str) -> Path | None:
    """Return the path of a local target, None for a remote one."""
    if "://" in target and not target.startswith(("file://", "local://")):
        return None
    return follow_own_link(Path(target.removeprefix("file://").removeprefix("local://")).expanduser())


def _require_no_web_address(target: str) -> None:
    """Reject http and https, also behind other protocols (`filecache::https://...`).

    Files cannot be replaced there. The package for them would follow redirects to any host.
    """
    if any(part.lower().startswith(("http://", "https://")) for part in target.split("::")):
        raise UserError(
            f"{redact_credentials(target)} is a web address, to which no file can be written: "
            "choose a folder, or a URL such as sftp://host/folder or s3://bucket/folder."
        )


def _open_file_system(target: str) -> tuple[Any, str]:
    _require_no_web_address(target)
    local = _local_path(target)
    system, path = url_to_fs(target if local is None else f"file://{local}")
    return system, str(path).rstrip("/")


@contextmanager
def _local_file(path: Path) -> Iterator[BinaryIO]:
    if path.exists() and not path.is_file():
        raise UserError(f"{path} exists and is not a regular file: choose another name.")
    with _error_as_sentence(str(path), OSError), atomic_write(path, mode=0o644) as file:
        yield file


@contextmanager
def _remote_file(target: str) -> Iterator[BinaryIO]:
    """Write a temporary file and upload it when it is complete.

    Some stores keep a partial file when an upload fails.
    """
    with _error_as_sentence(target):
        system, path = _open_file_system(target)
    with tempfile.NamedTemporaryFile(prefix="accession-export-") as file:
        with _error_as_sentence(file.name, OSError):
            yield cast("BinaryIO", file)
            file.flush()
        with _error_as_sentence(target):
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
def _error_as_sentence(target: str, kind: type[Exception] = Exception) -> Iterator[None]:
    """Turn errors of a kind into a `UserError`; each file system of fsspec raises errors of its own."""
    try:
        yield
    except kind as error:
        if isinstance(error, UserError):
            raise
        reason = redact_credentials(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise UserError(
            f"{redact_credentials(target)} cannot be written ({sanitize(reason)}): check that it exists, has "
            "free space and is writable."
        ) from None
