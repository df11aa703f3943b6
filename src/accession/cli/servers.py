"""`accession up` and its kin: running everything on one machine, or a part of it anywhere."""

import os
import sys
from typing import Annotated

import typer
from rich.text import Text

from accession.cli.attach import attach, attached_servers, catalogue
from accession.cli.care import care_checks
from accession.cli.checks import Check, part_checks, run_checks
from accession.cli.output import console, counted, print_json
from accession.cli.sandbox import DEFAULT_PORT
from accession.core.errors import UserError
from accession.core.sanitize import harmless
from accession.core.settings import Settings, get_settings
from accession.db import schema
from accession.db.engine import engine, transaction
from accession.local.embedded import port_is_free
from accession.local.home import prepare_home
from accession.local.supervisor import ChildSpec, Supervisor, detach, programs, stop_running
from accession.runs.ledger import active_runs
from accession.web.loopback import refuse_open_house
from accession.web.server import listen, serve

db = typer.Typer(no_args_is_help=True, help="The database's schema.")


def up(
    detached: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
    sandbox: Annotated[
        int | None,
        typer.Option(
            metavar="TITLES", min=0, help="Also serve a sandbox vendor that has sold TITLES titles."
        ),
    ] = None,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65535, help="The sandbox's port.")] = DEFAULT_PORT,
    sandbox_activity: Annotated[
        int, typer.Option(min=0, help="Events an hour in the sandbox: sales, loans, returns, holds.")
    ] = 0,
) -> None:
    """Run everything: servers, worker and schedule.

    PostgreSQL and Valkey are embedded, with their data in the home, unless ACCESSION_DATABASE_URL and
    ACCESSION_REDIS_URL name others. Ctrl-C finishes the page at hand and stops; twice hurries.
    """
    settings = get_settings()
    if detached:
        command = [sys.executable, "-m", "accession", *(a for a in sys.argv[1:] if a != "--detach")]
        detach(command, settings.home)
        console.print(
            f"Accession runs in {settings.home}; stop it with: accession down{_dashboard(settings)}",
            soft_wrap=True,
            highlight=False,
        )
        return
    children = programs(settings)
    if sandbox is not None:
        children = (*children, _sandbox_child(sandbox, sandbox_port, sandbox_activity))
    supervisor = Supervisor(
        settings,
        children,
        prepare=lambda _: _prepare(None if sandbox is None else sandbox_port),
        on_ready=lambda _: console.print(
            f"Accession runs in {settings.home}; Ctrl-C stops it.{_dashboard(settings)}",
            soft_wrap=True,
            highlight=False,
        ),
    )
    supervisor.run()


def _dashboard(settings: Settings) -> str:
    """A line that says where the dashboard is; nothing where there is none."""
    if not settings.web_port:
        return ""
    host = f"[{settings.web_host}]" if ":" in settings.web_host else settings.web_host
    return f"\nThe dashboard is at http://{host}:{settings.web_port}"


def _sandbox_child(titles: int, port: int, activity: int) -> ChildSpec:
    options = {"--titles": titles, "--port": port, "--activity": activity}
    command = (
        "-m",
        "accession",
        "sandbox",
        "serve",
        *(str(part) for item in options.items() for part in item),
    )
    return ChildSpec("sandbox", (sys.executable, *command), 5)


def _prepare(port: int | None) -> None:
    """Before any child starts: the schema, and a word on the work that a crash has interrupted.

    Raises `UserError` when a port is taken that the sandbox or the dashboard is to have, and when the
    dashboard would be open to other machines.
    """
    if port is not None and not port_is_free(port):
        raise UserError(f"The sandbox vendor's port {port} is taken: choose another with --sandbox-port.")
    settings = get_settings()
    if settings.web_port:
        listen(settings.web_host, settings.web_port).close()
    broker_is_ours = settings.redis_url is None
    attach()
    schema.upgrade(engine())
    if settings.web_port:
        with transaction() as session:
            refuse_open_house(session, settings.web_host)
    if broker_is_ours:
        with transaction() as session:
            interrupted = len(active_runs(session))
        if interrupted:
            # The worker sees to it when it connects to the broker.
            console.print(f"Going on with {counted(interrupted, 'interrupted run')}.")


def down(
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the pages at hand.")] = 120,
) -> None:
    """Stop what `accession up` runs for this home, after the pages at hand."""
    home = get_settings().home
    if not stop_running(home, timeout):
        raise UserError(f"Accession is not running in {home}: there is nothing to stop.")
    console.print("Accession has stopped.")


def env() -> None:
    """Print the URLs of the servers in use, passwords included, for psql and friends."""
    urls = attached_servers()
    typer.echo(f"ACCESSION_DATABASE_URL={urls.database_url}")
    typer.echo(f"ACCESSION_REDIS_URL={urls.redis_url}")


def worker(
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Tasks side by side. [default: ACCESSION_WORKER_CONCURRENCY]")
    ] = None,
) -> None:
    """Run a worker, as `accession up` does; any number may run, on any machine that reaches the servers."""
    attached_servers()
    settings = get_settings()
    from accession.tasks.app import APPLY_QUEUE, DEFAULT_QUEUE, app

    app.worker_main(
        [
            "worker",
            f"--concurrency={concurrency or settings.worker_concurrency}",
            f"--queues={DEFAULT_QUEUE},{APPLY_QUEUE}",
            f"--loglevel={settings.log_level}",
            f"--hostname=accession-{os.getpid()}@%h",
            "--without-gossip",
            "--without-mingle",
        ]
    )


def beat() -> None:
    """Run the schedule, as `accession up` does; one is enough for all machines."""
    attached_servers()
    settings = get_settings()
    prepare_home(settings.home)
    from accession.tasks.app import app

    os.umask(0o077)
    schedule = settings.home / "beat-schedule"
    app.start(["beat", f"--schedule={schedule}", f"--loglevel={settings.log_level}", "--pidfile="])


def web() -> None:
    """Serve the dashboard and the API, as `accession up` does."""
    settings = get_settings()
    with catalogue() as session:
        refuse_open_house(session, settings.web_host)
    serve(settings.web_host, settings.web_port)


@db.command()
def upgrade() -> None:
    """Migrate the database to this program's schema."""
    attached_servers()
    before = schema.upgrade(engine())
    if before.current:
        console.print(f"The database has schema {before.wanted} already.")
    else:
        console.print(f"The database is migrated from schema {before.found or 'none'} to {before.wanted}.")


@db.command()
def check() -> None:
    """Tell whether the database has this program's schema; exits with 1 when not."""
    attached_servers()
    state = schema.schema_state(engine())
    schema.refuse_newer(state)
    if not state.current:
        raise UserError(
            f"The database has schema {state.found or 'none'}, this program wants {state.wanted}: "
            "run `accession db upgrade`."
        )
    console.print(f"The database has schema {state.wanted}, as it should.")


def doctor(
    fix: Annotated[
        bool, typer.Option("--fix", help="Repair what can be repaired safely, and say what was done.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check home, key, servers, schema, workers, beat, locks, checkpoints, metadata and runs.

    Exits with 1 when something is wrong and is not repaired.
    """
    checks = [*part_checks(), *care_checks(fix=fix), *run_checks()]
    if as_json:
        print_json(checks)
    else:
        for found in checks:
            _print_check(found)
    if not all(found.ok for found in checks):
        raise typer.Exit(1)


def _print_check(found: Check) -> None:
    mark, repaired = "[green]ok  [/green]" if found.ok else "[red]BAD [/red]", ""
    if found.repaired is not None:
        mark, repaired = "[yellow]DONE[/yellow]", f"; {found.repaired}"
    console.print(mark, Text(harmless(f"{found.what}: {found.finding}{repaired}")), soft_wrap=True)
