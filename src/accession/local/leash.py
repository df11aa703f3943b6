"""Becomes another program, which the kernel signals as soon as its owner ends, even by `kill -9`.

Run as a script, never imported: `leash.py OWNER_PID DEATH_SIGNAL USER PROGRAM ARGUMENT...`, where
USER is `-` or `uid:gid`. `accession.local.processes.leashed` puts the command together.

A program of its own, and not a `preexec_fn`, because running Python between fork and exec can
deadlock when the parent has threads, and Python 3.12 warns of it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:  # pragma: no cover - ends in exec, where coverage cannot follow
    owner, death_signal, user, *command = sys.argv[1:]
    if user != "-":
        uid, gid = map(int, user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After the change of user, which would clear it.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(death_signal)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(owner):
        sys.exit("The owner ended before its child could be tied to it.")
    # Python ignores it, and an ignored signal would stay ignored in the program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":  # pragma: no cover
    main()
