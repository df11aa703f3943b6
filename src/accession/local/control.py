"""Start, stop and inspect the Accession of a home from another process."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accession.core.errors import UserError
from accession.local.files import require_trusted_home
from accession.local.home import home_owner, prepare_home
from accession.local.logs import last_line, log_file, read_log_from
from accession.local.operating_system import has_ended
from accession.local.processes import HOME_VARIABLE, recorded_processes, wait_until
from accession.local.servers import ServerInfo, ServerUrls, read_server_info

_BACKGROUND_START_SECONDS = 300.0


def start_in_background(command: Sequence[str], home: Path) -> ServerUrls:
    """Run `command`, an `accession up` for this home, in the background until all its processes run.

    Its output goes to `logs/accession.log`.

    Returns:
        The URLs of its servers.

    Raises:
        UserError: it ended early; the message contains the last line of its log.
    """
    prepare_home(home)
    output = log_file(home, "accession")
    start = output.stat().st_size
    pid = os.posix_spawn(
        command[0],
        list(command),
        {**os.environ, HOME_VARIABLE: str(home)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_APPEND, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )

    def ready_servers() -> ServerInfo | None:
        info = read_server_info(home)
        return info if info and info.is_ready and info.owner.pid == pid else None

    try:
        wait_until(lambda: has_ended(pid) or ready_servers() is not None, _BACKGROUND_START_SECONDS)
    except KeyboardInterrupt:
        # Otherwise it would keep running without the user knowing.
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if info := ready_servers():
        return info.urls
    if not has_ended(pid):
        os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    raise UserError(f"Accession did not start: {last_line(read_log_from(output, start))}")


def stop_running(home: Path, timeout: float) -> bool:
    """Stop the Accession that runs in this home and wait for its end; return False if none was running.

    Raises:
        UserError: it has not ended within `timeout` seconds; it continues to stop. Or we are root, and others
            may have written the id of the process.
    """
    if home.exists():
        require_trusted_home(home)
    owner = home_owner(home)
    if owner is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(owner.pid, signal.SIGTERM)
    if not wait_until(lambda: not owner.is_alive, timeout):
        raise UserError(
            f"Accession in {home} (process {owner.pid}) is still finishing its current pages "
            f"after {timeout:g} seconds: wait for its end, or run `accession down` again to force the stop."
        )
    return True


@dataclass(frozen=True)
class ProcessStatus:
    """State of a process of an installation, as `accession doctor` shows it."""

    name: str
    pid: int | None
    state: Literal["running", "ended"]


def process_statuses(home: Path) -> tuple[ProcessStatus, ...]:
    """Return the states of the supervisor, named accession, and of its servers and children."""
    processes = {"accession": home_owner(home), **recorded_processes(home)}
    return tuple(
        ProcessStatus(name, process.pid, "running")
        if process is not None and process.is_alive
        else ProcessStatus(name, None, "ended")
        for name, process in processes.items()
    )
