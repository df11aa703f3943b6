"""Child processes that end with their owner, and what is left of those that did not."""

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
from accession.local import leash
from accession.local.files import write_private

HOME_VARIABLE = "ACCESSION_HOME"
"""Every child has it in its environment; it tells orphans of one home from anything else."""

_DEATH_SECONDS = 5.0
_LOG_LIMIT_BYTES = 20_000_000


@dataclass(frozen=True)
class User:
    """Whom a child runs as, when that is not ourselves."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class ProcessId:
    """One process, never mistaken for a later one that was given the same number.

    `started` is in clock ticks since the boot `boot`: unlike a time of day it does not move when the
    machine's clock is set.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """The process that has this number now; None when there is none, or only its zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The second field is the program's name in brackets, and may hold blanks and brackets itself.
        fields = stat.rpartition(")")[2].split()
        state, threads, started = fields[0], int(fields[17]), int(fields[19])
        # A killed program is shown as a zombie while other threads of it still hold its port.
        ended = state in "ZX" and threads <= 1
        return None if ended else cls(pid, started, _boot_id())

    @classmethod
    def own(cls) -> "ProcessId":
        """This process."""
        own = cls.of(os.getpid())
        assert own is not None  # noqa: S101 - a process that asks is alive
        return own

    @classmethod
    def read(cls, path: Path) -> "ProcessId | None":
        """The process recorded in the file; None when there is no file, or it is not a record."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self)))

    @property
    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def leashed(command: Sequence[str], death_signal: signal.Signals, user: User | None = None) -> list[str]:
    """The command line that runs `command` as `user` and sends it `death_signal` when we end.

    "We" is the *thread* that starts it: start long-lived children from the main thread.
    """
    who = "-" if user is None else f"{user.uid}:{user.gid}"
    script = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), str(int(death_signal)), who]
    return [*script, *command]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true within so many seconds; looked at fifty times a second."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class OwnedProcess:
    """A child in a session of its own, so that the terminal's Ctrl-C does not reach it.

    Its output is appended to `logs/NAME.log` in the home and its number kept in `run/NAME.json`.
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
    ) -> None:
        """Start the program in the current folder `folder`, or else the home.

        `environment` is all that it gets of ours, plus `ACCESSION_HOME`.
        """
        self.name = name
        self._record = _record(home, name)
        self.log = log_file(home, name)
        self._log_start = self.log.stat().st_size
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603
                leashed(command, death_signal, user),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment, HOME_VARIABLE: str(home)},
                cwd=folder or home,
                start_new_session=True,
                # Valkey and the schedule make files as anybody would.
                umask=0o077,
            )
        if started := ProcessId.of(self.pid):
            started.write(self._record)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """As `subprocess` has it: negative is a signal's number, None is still running."""
        return self._process.returncode

    def alive(self) -> bool:
        """Whether it still runs. When it does not, nothing of its process group does, either."""
        if self._process.returncode is not None:
            return False
        # Not reaped yet, so that the number of the group cannot belong to others when we kill it.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return True
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        return False

    def send(self, number: signal.Signals) -> None:
        """Signal the program itself, not its children; nothing happens when it has ended."""
        if self.alive():
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within so many seconds."""
        return wait_until(lambda: not self.alive(), seconds)

    def stop(self, *steps: tuple[signal.Signals, float]) -> None:
        """Send each signal in turn and wait its seconds; then kill it and its children."""
        for number, seconds in steps:
            self.send(number)
            if self.wait(seconds):
                break
        self.kill()

    def kill(self) -> None:
        """Afterwards it has ended, its children too, and it is no longer on record."""
        if self.alive():
            self._signal_group(signal.SIGKILL)
            self._process.wait()
        self._record.unlink(missing_ok=True)

    def last_words(self) -> str:
        """The last line that this process, not one before it, wrote to its log."""
        return last_line(text_from(self.log, self._log_start))

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def log_file(home: Path, name: str) -> Path:
    """`logs/NAME.log`, there to append to; one that has grown large becomes `NAME.log.1` first."""
    log = home / "logs" / f"{name}.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    log.touch(mode=0o600)
    if log.stat().st_size > _LOG_LIMIT_BYTES:
        log.rename(log.with_suffix(".log.1"))
        log.touch(mode=0o600)
    return log


def text_from(log: Path, offset: int) -> str:
    """What the log says from a byte onwards."""
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")


def last_line(text: str) -> str:
    """The last line that is not blank; a remark that there is none when that is so."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing"


def processes_on_record(home: Path) -> dict[str, ProcessId]:
    """By name, the processes of this home that were started and not stopped; some may have died."""
    records = sorted((home / "run").glob("*.json"))
    return {path.stem: process for path in records if (process := ProcessId.read(path))}


def end_leftovers(home: Path, name: str, seconds: float) -> None:
    """Afterwards nothing is left of the process that an earlier owner started under this name.

    It has had its death signal when that owner ended, so it gets `seconds` to finish before it is
    killed. Its orphaned children, such as the pool of a worker that was killed, are killed at once.
    """
    process = ProcessId.read(_record(home, name))
    if process is None or process.boot != _boot_id():
        return
    if not wait_until(lambda: not process.alive, seconds):
        _kill(process)
    for pid in psutil.pids():
        orphan = ProcessId.of(pid)
        if orphan and _is_orphan(pid, process, home):
            _kill(orphan)


def _kill(process: ProcessId) -> None:
    """Afterwards the process, which need not be a child of ours, has ended."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    if not wait_until(lambda: not process.alive, _DEATH_SECONDS):
        raise UserError(
            f"Process {process.pid} of an earlier run cannot be killed, as if a disk hung: "
            "restart the machine, or look after its disks."
        )


def _is_orphan(pid: int, leader: ProcessId, home: Path) -> bool:
    """Whether this is a process of the leader's session that was started for this home.

    The number of a session whose members are all gone may be another's by now; the home in the
    environment tells.
    """
    try:
        return os.getsid(pid) == leader.pid and psutil.Process(pid).environ().get(HOME_VARIABLE) == str(home)
    except (psutil.Error, ProcessLookupError):
        return False


def _record(home: Path, name: str) -> Path:
    folder = home / "run"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.json"
