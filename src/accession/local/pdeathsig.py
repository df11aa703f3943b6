"""Script that executes a program which receives a signal when its owner ends, even after `kill -9`.

Usage: `pdeathsig.py OWNER_PID DEATH_SIGNAL USER PROGRAM ARGUMENT...`, where USER is `-` or `uid:gid`.
`accession.local.processes.with_death_signal` builds the command. On Linux the kernel sends the signal. macOS
has no such signal: there a process waits for the end of the owner, and sends it.

This is a script and not a `preexec_fn` because running Python between fork and exec can deadlock when the
parent has threads; Python 3.12 warns about it.
"""

import ctypes
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:  # pragma: no cover - ends in exec, where coverage cannot follow
    """Change the user, arrange for the signal and execute the program."""
    owner, death_signal, user, *command = sys.argv[1:]
    if user != "-":
        uid, gid = map(int, user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # Changing the user would clear the setting of Linux, so it comes afterwards.
    request_signal(int(owner), int(death_signal))
    if os.getppid() != int(owner):
        sys.exit("The owner ended before the parent-death signal was set.")
    # Python ignores SIGPIPE, and the program would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(command[0], command)  # noqa: S606


if sys.platform == "linux":

    def request_signal(owner: int, death_signal: int) -> None:  # pragma: no cover
        """Request a signal for this process when the thread that started it ends."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")

else:

    def request_signal(owner: int, death_signal: int) -> None:  # pragma: no cover
        """Start a process that sends a signal to this one when the owner ends, and ends with this one.

        It is no child of this process, whose program would not expect one.
        """
        program = os.getpid()
        if child := os.fork():
            os.waitpid(child, 0)
            return
        try:
            if os.fork() == 0 and program not in wait_for_end(owner, program):
                os.kill(program, death_signal)
        finally:
            os._exit(0)

    def wait_for_end(*pids: int) -> set[int]:  # pragma: no cover
        """Wait until one of these processes ends, or return at once; return those that have ended."""
        events = [
            select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT) for pid in pids
        ]
        # A process that had ended before is reported as an error event.
        return {event.ident for event in select.kqueue().control(events, len(events))}


if __name__ == "__main__":  # pragma: no cover
    main()
