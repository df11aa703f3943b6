"""Child processes that end with their owner, their logs and records, and removal of orphans."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from accession.core.errors import UserError
from accession.core.settings import ENV_PREFIX
from accession.local import pdeathsig
from accession.local.files import write_private_file
from accession.local.logs import last_line, log_file, read_log_from
from accession.local.operating_system import boot_id, has_ended, start_time
from accession.local.users import User

HOME_VARIABLE = "ACCESSION_HOME"
"""Environment variable of every child; identifies orphans of a home."""

_KILL_SECONDS = 5.0


@dataclass(frozen=True)
class ProcessId:
    """Identity of a process, also after its pid has been reused.

    `started` and `boot` are those of `accession.local.operating_system`.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Return the process that has this pid now; None if there is none or only a zombie."""
        started = start_time(pid)
        return None if started is None else cls(pid, started, boot_id())

    @classmethod
    def own(cls) -> "ProcessId":
        """Return this process."""
        own = cls.of(os.getpid())
        assert own is not None  # noqa: S101 - this process is running
        return own

    @classmethod
    def read(cls, path: Path) -> "ProcessId | None":
        """Return the process recorded in a file; None if there is no valid record."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Record the process in a file."""
        write_private_file(path, json.dumps(asdict(self)))

    @property
    def is_alive(self) -> bool:
        """Return whether the process is running."""
        return ProcessId.of(self.pid) == self


def with_death_signal(
    command: Sequence[str], death_signal: signal.Signals, user: User | None = None
) -> list[str]:
    """Return the command that runs `command` as `user` with a parent-death signal.

    On Linux, the parent is the *thread* that starts it: start long-lived children from the main thread.
    """
    user_ids = "-" if user is None else f"{user.uid}:{user.gid}"
    arguments = [pdeathsig.__file__, str(os.getpid()), str(int(death_signal)), user_ids]
    return [sys.executable, "-I", "-S", *arguments, *command]


def environment_without_settings() -> dict[str, str]:
    """Return our environment for a program of others: without our settings, which may contain keys."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll a condition until it is true; return False if it is not after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class OwnedProcess:
    """Child process in a session of its own, so that Ctrl-C in the terminal does not reach it.

    Its output is appended to `logs/NAME.log` in the home, its identity recorded in `run/NAME.json`.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        command: Sequence[str],
        *,
        death_signal: signal.Signals,
        user: User | None = None,
        environment: Mapping[str, str],
        folder: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        """Start the program.

        Args:
            home: Home folder.
            name: Name of log and record.
            command: Program and arguments.
            death_signal: Signal when this process ends.
            user: User to run as.
            environment: Complete environment; `ACCESSION_HOME` is added.
            folder: Working directory, by default the home.
            descriptors: Open files and sockets that it inherits, at the same numbers.
        """
        self.name = name
        self._record_file = _record_file(home, name)
        self.log = log_file(home, name)
        self._log_start = self.log.stat().st_size
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                with_death_signal(command, death_signal, user),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, HOME_VARIABLE: str(home)},
                cwd=folder or home,
                start_new_session=True,
                pass_fds=descriptors,
                # Valkey and the scheduler would create files that other users can read.
                umask=0o077,
            )
        if started := ProcessId.of(self.pid):
            started.write(self._record_file)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code; a negative one is the number of a signal, None means still running."""
        return self._process.returncode

    def is_alive(self) -> bool:
        """Return whether it is running; if it has just ended, kill the rest of its process group."""
        if self._process.returncode is not None:
            return False
        # It is not reaped yet, so the group id cannot have been reused when the group is killed.
        if not has_ended(self.pid):
            return True
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program, not to its children; do nothing if it has ended."""
        if self.is_alive():
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Wait for the end; return False if it is still running after `seconds`."""
        return wait_until(lambda: not self.is_alive(), seconds)

    def stop(self, *steps: tuple[signal.Signals, float]) -> None:
        """Send each signal in turn and wait its number of seconds; then kill the process group."""
        for number, seconds in steps:
            self.send(number)
            if self.wait(seconds):
                break
        self.kill()

    def kill(self) -> None:
        """Kill the process group and delete the record."""
        if self.is_alive():
            self._signal_group(signal.SIGKILL)
            self._process.wait()
        self._record_file.unlink(missing_ok=True)

    def last_log_line(self) -> str:
        """Return the last line that this process wrote to its log."""
        return last_line(read_log_from(self.log, self._log_start))

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def recorded_processes(home: Path) -> dict[str, ProcessId]:
    """Return the recorded processes of a home by name; some may have ended."""
    records = sorted((home / "run").glob("*.json"))
    return {path.stem: process for path in records if (process := ProcessId.read(path))}


def reap_orphans(home: Path, name: str, seconds: float) -> None:
    """End what is left of a process that an earlier owner started under this name.

    It received its death signal when that owner ended, so it gets `seconds` to finish before it is killed.
    Then its own children, such as the pool of a killed worker, are killed.

    Raises:
        UserError: a process cannot be killed.
    """
    process = ProcessId.read(_record_file(home, name))
    if process is None or process.boot != boot_id():
        return
    if not wait_until(lambda: not process.is_alive, seconds):
        _kill(process)
    for pid in psutil.pids():
        orphan = ProcessId.of(pid)
        if orphan and _is_orphan(pid, process, home):
            _kill(orphan)


def _kill(process: ProcessId) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    if not wait_until(lambda: not process.is_alive, _KILL_SECONDS):
        raise UserError(
            f"Process {process.pid} of an earlier run cannot be killed, possibly because a disk hangs: "
            "check the disks or restart the machine."
        )


def _is_orphan(pid: int, leader: ProcessId, home: Path) -> bool:
    # The session id may have been reused, so the home in the environment must match too.
    try:
        return os.getsid(pid) == leader.pid and psutil.Process(pid).environ().get(HOME_VARIABLE) == str(home)
    except (psutil.Error, ProcessLookupError):
        return False


def _record_file(home: Path, name: str) -> Path:
    folder = home / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.json"
