"""Standard output that is full or closed: one sentence instead of a traceback, or the code of SIGPIPE."""

import io
import os
import signal
import sys

from accession.core.errors import UserError

_CLOSED_PIPE_CODE = 128 + signal.SIGPIPE


class _StandardOutput(io.FileIO):
    """The file descriptor of the standard output.

    After an error, everything else that is written to it is discarded, also at the end of the process.
    """

    def write(self, data: object, /) -> int:
        """Write data.

        Raises:
            SystemExit: the reader has closed the pipe, as `head` does.
            UserError: the data cannot be written.
        """
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            self._discard_everything_else()
            raise SystemExit(_CLOSED_PIPE_CODE) from None
        except OSError as error:
            self._discard_everything_else()
            raise UserError(
                f"The output cannot be written ({error.strerror}): what was written so far is incomplete; "
                "write it to another place."
            ) from None

    def _discard_everything_else(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def protect_standard_output() -> None:
    """Replace the standard output of this process, unless something else has replaced it."""
    stdout = sys.stdout
    if stdout is not sys.__stdout__:
        return
    if stdout is None:
        # The process was started without one: what it prints is discarded.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        return
    buffer = io.BufferedWriter(_StandardOutput(stdout.fileno(), "wb", closefd=False))
    sys.stdout = io.TextIOWrapper(
        buffer, encoding=stdout.encoding, errors=stdout.errors, line_buffering=stdout.line_buffering
    )
