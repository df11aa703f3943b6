"""Command line `accession`: options of all commands, and errors in one sentence."""

import atexit
import gc
import sys
import traceback
from types import TracebackType
from typing import Annotated

import typer

from accession import __version__
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.cli.commands import CommandGroup
from accession.cli.output import error_console
from accession.cli.standard_output import protect_standard_output
from accession.core.errors import UserError
from accession.core.logging import configure_logging
from accession.core.sanitize import sanitize, sanitize_lines
from accession.core.settings import get_settings

app = typer.Typer(
    name="accession",
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Keep a library's catalogue in step with its purchases from Bibliotheca cloudLibrary.",
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"accession {__version__}")
        raise typer.Exit


# Commands that run until they are stopped log their progress; the others log only warnings and errors.
_LONG_RUNNING = ("up", "worker", "beat", "web", "sandbox", "demo")


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log everything, and show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    settings = get_settings()
    if settings.home.exists() and not settings.home.is_dir():
        raise UserError(f"The home {settings.home} is not a folder: set ACCESSION_HOME to one.")
    level = "debug" if debug else settings.log_level
    if level == "info" and context.invoked_subcommand not in _LONG_RUNNING:
        level = "warning"
    configure_logging(settings.model_copy(update={"log_level": level}))


def main() -> None:
    """Run the console script `accession`."""
    run_app(app)


def run_app(command: typer.Typer) -> None:
    """Run a command line, and report an expected error as one sentence with an exit code other than 0.

    With `--debug` the traceback is printed first. Unexpected errors are raised.
    """
    # The memory is released anyway: searching all modules for garbage would take a third of a short command.
    atexit.register(gc.freeze)
    protect_standard_output()
    try:
        try:
            command()
        finally:
            sys.stdout.flush()
    except Exception as error:
        message = _error_message(error)
        if message is None:
            sys.excepthook = _print_traceback
            raise
        if "--debug" in sys.argv:
            _print_traceback(type(error), error, error.__traceback__)
        error_console.print(sanitize(message), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None, /) -> None:
    """Print a traceback as Python does, but sanitized and without the values of variables."""
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(sanitize_lines(text) + "\n")


def _error_message(error: Exception) -> str | None:
    """Return the message for an expected error; None for an unexpected one, which is a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, RemoteIntegrationException):
        return str(error) if "--debug" in sys.argv else error.sentence
    # Imported here, where they are already loaded if they can be the cause: it keeps other commands fast.
    from kombu.exceptions import OperationalError as BrokerError
    from redis import RedisError
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.exc import OperationalError as DatabaseError

    from accession.db.blocking import describe_lock_timeout, is_lock_timeout
    from accession.db.engine import database_unavailable, permission_denied
    from accession.tasks.broker import broker_unavailable

    if is_lock_timeout(error):
        return describe_lock_timeout()
    if isinstance(error, DatabaseError):
        return database_unavailable(error)
    if isinstance(error, DBAPIError):
        return permission_denied(error)
    if isinstance(error, BrokerError | RedisError):
        return broker_unavailable(error)
    return None
