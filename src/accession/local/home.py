"""The home: the folder of one installation, and the lock that says who runs it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from accession.core.errors import UserError
from accession.local.processes import ProcessId


def prepare_home(home: Path) -> None:
    """Afterwards the folder is there and we may write into it; one that was there keeps its mode.

    Raises `UserError` when that cannot be.
    """
    advice = "make it a folder that you may write into, or set ACCESSION_HOME to one."
    try:
        # Root's PostgreSQL runs as another user, who must get through to its data; nothing else in
        # the home is open to that user.
        home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"The home {home} is not a folder: {advice}") from None
    except OSError as error:
        raise UserError(f"The home {home} cannot be made ({error.strerror}): {advice}") from None
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"The home {home} is not writable: {advice}")


@contextmanager
def owned_home(home: Path) -> Iterator[None]:
    """Be the one process that runs this home's servers; the kernel ends that with the process.

    Raises `UserError` when another is.
    """
    with open(os.open(_lock(home), os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = home_owner(home)
            number = owner.pid if owner else "unknown"
            raise UserError(
                f"Accession is already running in {home} (process {number}): stop it with `accession down`, "
                "or set another ACCESSION_HOME for a second one."
            ) from None
        lock.truncate()
        json.dump(asdict(ProcessId.own()), lock)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def home_owner(home: Path) -> ProcessId | None:
    """The process that runs this home's servers; None when none does."""
    owner = ProcessId.read(_lock(home))
    return owner if owner and owner.alive else None


def _lock(home: Path) -> Path:
    return home / "accession.lock"
