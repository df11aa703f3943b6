"""`accession`: puts the commands together, and turns errors into one sentence."""

import sys
import traceback
from types import TracebackType
from typing import Annotated

import typer
from sqlalchemy.exc import OperationalError as DatabaseError

from accession import __version__
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.cli import backups, catalogue, collections, exports, imports, sandbox, servers, users
from accession.cli.attach import first_line, silent_broker
from accession.cli.demo import demo
from accession.cli.output import error_console
from accession.core.errors import UserError
from accession.core.logging import set_up_logging
from accession.core.sanitize import harmless, harmless_lines
from accession.core.settings import get_settings

app = typer.Typer(
    name="accession",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Keeps a library's catalogue in step with what it has bought from Bibliotheca cloudLibrary.",
)
app.command()(servers.up)
app.command()(servers.down)
app.command()(demo)
app.command()(catalogue.status)
app.add_typer(collections.app, name="collections")
app.add_typer(imports.app, name="import")
app.add_typer(exports.app, name="export")
app.add_typer(catalogue.titles, name="titles")
app.add_typer(catalogue.rejects, name="rejects")
app.add_typer(catalogue.runs, name="runs")
app.add_typer(users.app, name="users")
app.add_typer(users.tokens, name="tokens")
app.add_typer(servers.db, name="db")
app.command()(backups.backup)
app.command("restore")(backups.restore_backup)
app.command()(servers.env)
app.command()(servers.doctor)
app.command()(servers.worker)
app.command()(servers.beat)
app.command()(servers.web)
app.add_typer(sandbox.app, name="sandbox")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"accession {__version__}")
        raise typer.Exit


# They run on, and their log tells how it goes; other commands answer, and log only what goes wrong.
_RUN_ON = ("up", "worker", "beat", "web", "sandbox", "demo")


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, and log everything.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    settings = get_settings()
    if settings.home.exists() and not settings.home.is_dir():
        raise UserError(f"The home {settings.home} is not a folder: set ACCESSION_HOME to one.")
    level = "debug" if debug else settings.log_level
    if level == "info" and context.invoked_subcommand not in _RUN_ON:
        level = "warning"
    set_up_logging(settings.model_copy(update={"log_level": level}))


def main() -> None:
    """The console script."""
    run_app(app)


def run_app(command: typer.Typer) -> None:
    """Run a command line; what a person can put right ends it with one sentence and an exit code that
    is not 0. With `--debug` the traceback comes first."""
    try:
        command()
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            sys.excepthook = _print_traceback
            raise
        if "--debug" in sys.argv:
            _print_traceback(type(error), error, error.__traceback__)
        error_console.print(harmless(sentence), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None, /) -> None:
    """As Python does, but what an error quotes cannot command the terminal. No variables are told."""
    said = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(harmless_lines(said) + "\n")


def _sentence(error: Exception) -> str | None:
    """What to tell a person; None for an error that is a bug of ours."""
    # Imported here, where they are loaded already if they can be the cause: every command starts faster.
    from kombu.exceptions import OperationalError as BrokerError
    from redis import RedisError

    if isinstance(error, UserError | RemoteIntegrationException):
        return str(error)
    if isinstance(error, DatabaseError):
        return f"The database does not answer ({first_line(error)}): see that it runs and is the right one."
    if isinstance(error, BrokerError | RedisError):
        return silent_broker(error)
    return None
