"""Differences between Linux and macOS: the identity of a process, of a boot, and the end of a child.

The end of a process's owner is in `accession.local.pdeathsig`, a script that can import nothing of this.
"""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import psutil

IS_LINUX = platform.system() == "Linux"


def start_time(pid: int) -> int | None:
    """Return when the process that has this pid now was started; None if there is none or only a zombie.

    Linux: in clock ticks since boot, so that setting the machine's clock does not change it. Elsewhere: in
    microseconds since 1970, as the kernel recorded it at the start.
    """
    return _start_time_from_proc(pid) if IS_LINUX else _start_time_from_psutil(pid)


def _start_time_from_proc(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, which may contain blanks and parentheses.
    fields = stat.rpartition(")")[2].split()
    state, threads, started = fields[0], int(fields[17]), int(fields[19])
    # A killed program is a zombie while other threads of it still hold its port.
    has_ended = state in "ZX" and threads <= 1
    return None if has_ended else started


def _start_time_from_psutil(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        return None if _is_zombie(process) else round(process.create_time() * 1_000_000)
    except psutil.NoSuchProcess:
        return None


@cache
def boot_id() -> str:
    """Return the id of this boot of the machine."""
    if IS_LINUX:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return subprocess.check_output(["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], text=True).strip()


def has_ended(child: int) -> bool:
    """Return whether a child of this process has ended; it is not reaped, so its pid is not reused."""
    if hasattr(os, "waitid"):
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    # On macOS, Python 3.13 is the first with `waitid`.
    return _is_zombie(psutil.Process(child))


def _is_zombie(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_ZOMBIE
