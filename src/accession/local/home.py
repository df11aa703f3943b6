"""Home folder of an installation, and the lock of the process that runs it."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from accession.core.errors import UserError
from accession.local.files import require_trusted_home
from accession.local.processes import ProcessId
from accession.local.sockets import remove_socket_folders


def prepare_home(home: Path) -> None:
    """Create the home if it is missing; the mode of an existing folder is kept.

    Raises:
        UserError: the home cannot be created or is not writable, or we are root and others can write to it.
    """
    advice = "make it a writable folder, or set ACCESSION_HOME to one."
    try:
        # As root, PostgreSQL runs as another user that must be able to reach its data; everything else in
        # the home is closed to that user.
        home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"The home {home} is not a folder: {advice}") from None
    except OSError as error:
        raise UserError(f"The home {home} cannot be created ({error.strerror}): {advice}") from None
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"The home {home} is not writable: {advice}")
    require_trusted_home(home)


@contextmanager
def lock_home(home: Path) -> Iterator[None]:
    """Hold the lock of the home; the kernel releases it when this process ends.

    Raises:
        UserError: another process holds it.
    """
    with open(os.open(_lock_file(home), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = home_owner(home)
            pid = owner.pid if owner else "unknown"
            raise UserError(
                f"Accession is already running in {home} (process {pid}): stop it with `accession down`, "
                "or set ACCESSION_HOME to another folder for a second installation."
            ) from None
        lock.truncate()
        json.dump(asdict(ProcessId.own()), lock)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def home_owner(home: Path) -> ProcessId | None:
    """Return the process that runs this home, or None."""
    owner = ProcessId.read(_lock_file(home))
    return owner if owner and owner.is_alive else None


def _lock_file(home: Path) -> Path:
    return home / "accession.lock"


def remove_home_data(home: Path) -> None:
    """Delete data and sockets of the embedded servers of a home, also those in folders outside the home.

    Key file, settings and logs remain. The servers must be stopped.
    """
    link = home / "postgres"
    if link.is_symlink():
        shutil.rmtree(link.readlink(), ignore_errors=True)
        link.unlink()
    remove_socket_folders(home)
    for name in ("postgres", "valkey", "run"):
        shutil.rmtree(home / name, ignore_errors=True)
    (home / "servers.json").unlink(missing_ok=True)
