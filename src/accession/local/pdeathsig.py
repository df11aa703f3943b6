"""Script that executes a program with a parent-death signal.

The kernel sends the signal as soon as the owner ends, even after `kill -9`. Usage:
`pdeathsig.py OWNER_PID DEATH_SIGNAL USER PROGRAM ARGUMENT...`, where USER is `-` or `uid:gid`.
`accession.local.processes.with_death_signal` builds the command.

This is a script and not a `preexec_fn` because running Python between fork and exec can deadlock when the
parent has threads; Python 3.12 warns about it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:  # pragma: no cover - ends in exec, where coverage cannot follow
    """Set the parent-death signal, change the user and execute the program."""
    owner, death_signal, user, *command = sys.argv[1:]
    if user != "-":
        uid, gid = map(int, user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # Changing the user would clear the setting, so it comes afterwards.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(death_signal)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(owner):
        sys.exit("The owner ended before the parent-death signal was set.")
    # Python ignores SIGPIPE, and the program would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":  # pragma: no cover
    main()
