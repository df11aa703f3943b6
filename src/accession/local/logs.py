"""Log files of a home's processes, and their rotation while the processes write to them."""

import os
import shutil
import time
from pathlib import Path
from typing import BinaryIO

import structlog

log = structlog.get_logger(__name__)

_POLL_SECONDS = 10.0
_MODE = 0o600


def log_file(home: Path, name: str) -> Path:
    """Return the path of `logs/NAME.log`, created if missing."""
    path = home / "logs" / f"{name}.log"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=_MODE)
    return path


def read_log_from(path: Path, offset: int) -> str:
    """Return the content of a log from a byte offset on; all of it if it has been rotated since."""
    with path.open("rb") as file:
        file.seek(offset if offset <= path.stat().st_size else 0)
        return file.read().decode(errors="replace")


def last_line(text: str) -> str:
    """Return the last line that is not blank, or a note that there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


class LogRotator:
    """Rotates the log files of a home that are larger than `max_bytes`, keeping `max_files` of each.

    The files are copied and emptied, as logrotate does with "copytruncate": the processes keep them open, in
    append mode, and need no restart.
    """

    def __init__(self, home: Path, *, max_bytes: int, max_files: int) -> None:
        self._folder = home / "logs"
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._next_poll = 0.0

    def poll(self) -> None:
        """Rotate what is too large, if the last time was more than ten seconds ago."""
        if time.monotonic() < self._next_poll:
            return
        self._next_poll = time.monotonic() + _POLL_SECONDS
        for path in sorted(self._folder.glob("*.log")):
            try:
                if path.stat().st_size > self._max_bytes:
                    self._rotate(path)
            except OSError as error:
                log.warning("log file cannot be rotated", file=str(path), reason=error.strerror)

    def _rotate(self, path: Path) -> None:
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        try:
            with (
                path.open("rb+") as source,
                open(draft, "xb", opener=lambda name, flags: os.open(name, flags, _MODE)) as copy,
            ):
                shutil.copyfileobj(source, copy)
                self._shift(path)
                draft.replace(_numbered(path, 1))
                _empty(source, copy)
        finally:
            draft.unlink(missing_ok=True)

    def _shift(self, path: Path) -> None:
        """Let the number 1 become free, and delete the files beyond those that are kept."""
        numbers = [
            int(each.suffix[1:]) for each in path.parent.glob(f"{path.name}.*") if each.suffix[1:].isdecimal()
        ]
        for number in sorted(numbers, reverse=True):
            if number >= self._max_files:
                _numbered(path, number).unlink()
            else:
                _numbered(path, number).replace(_numbered(path, number + 1))


def _empty(source: BinaryIO, copy: BinaryIO) -> None:
    """Empty the file after what was written to it meanwhile has been copied, too."""
    while os.fstat(source.fileno()).st_size > source.tell():
        shutil.copyfileobj(source, copy)
    # What is written in this moment is lost.
    os.ftruncate(source.fileno(), 0)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
