"""Commands `up` and `down`: run everything on one machine, and stop it."""

import sys
from functools import partial
from typing import Annotated

import typer

from accession.cli.connect import require_broker, resolve_servers
from accession.cli.database_upgrade import offer_upgrade
from accession.cli.output import console, count_noun
from accession.cli.sandbox import DEFAULT_PORT
from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings
from accession.db import schema
from accession.db.engine import engine, transaction
from accession.local.control import start_in_background, stop_running
from accession.local.ports import port_is_free
from accession.local.supervised_process import ChildSpec
from accession.local.supervisor import Supervisor, child_specs
from accession.runs.ledger import active_runs
from accession.web.server import listen, require_user_unless_loopback


def up(
    detached: Annotated[bool, typer.Option("--detach", help="Run in the background.")] = False,
    sandbox: Annotated[
        int | None,
        typer.Option(
            metavar="TITLES", min=0, help="Also run a simulated vendor that has sold TITLES titles."
        ),
    ] = None,
    sandbox_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the simulated vendor.")
    ] = DEFAULT_PORT,
    sandbox_activity: Annotated[
        int,
        typer.Option(
            min=0, help="Events per hour at the simulated vendor: purchases, loans, returns, holds."
        ),
    ] = 0,
    durable: Annotated[
        bool,
        typer.Option(
            "--durable/--not-durable",
            help="Whether the embedded servers wait until the disk has stored what they write. Without that, "
            "a crash of the machine can destroy their data: use it for data that you can do without.",
        ),
    ] = True,
) -> None:
    """Run Accession on this machine: database, broker, worker, schedule and dashboard.

    PostgreSQL and Valkey are embedded and keep their data in the home, unless ACCESSION_DATABASE_URL and
    ACCESSION_REDIS_URL name other servers. Ctrl-C finishes the pages in progress and stops; a second Ctrl-C
    stops at once.
    """
    settings = get_settings()
    offer_upgrade(settings)
    if detached:
        command = [sys.executable, "-m", "accession", *(a for a in sys.argv[1:] if a != "--detach")]
        start_in_background(command, settings.home)
        _print_running(settings, "Stop it with: accession down")
        return
    children = child_specs(settings)
    if sandbox is not None:
        children = (*children, _sandbox_child(sandbox, sandbox_port, sandbox_activity))
    supervisor = Supervisor(
        settings,
        children,
        listen=partial(listen, settings.web_host, settings.web_port) if settings.web_port else None,
        prepare=lambda _: _prepare(None if sandbox is None else sandbox_port),
        on_ready=lambda _: _print_running(settings, "Stop it with Ctrl-C."),
        durable=durable,
    )
    supervisor.run()


def _print_running(settings: Settings, how_to_stop: str) -> None:
    lines = [f"Accession is running in {settings.home}. {how_to_stop}"]
    if settings.web_port:
        host = f"[{settings.web_host}]" if ":" in settings.web_host else settings.web_host
        lines.append(f"Dashboard: http://{host}:{settings.web_port}")
    console.print("\n".join(lines), soft_wrap=True, highlight=False)


def _sandbox_child(titles: int, port: int, activity: int) -> ChildSpec:
    options = ("--titles", str(titles), "--port", str(port), "--activity", str(activity))
    command = (sys.executable, "-m", "accession", "sandbox", "serve", *options)
    return ChildSpec("sandbox", command, 5)


def _prepare(sandbox_port: int | None) -> None:
    """Check port and broker, upgrade the schema and check users, before any child process starts.

    Raises:
        UserError: the port of the simulated vendor is in use, the broker cannot be used, or the dashboard
            would be served to other machines while there is no user.
    """
    if sandbox_port is not None and not port_is_free(sandbox_port):
        raise UserError(
            f"The simulated vendor's port {sandbox_port} is in use: choose another with --sandbox-port."
        )
    settings = get_settings()
    has_embedded_broker = settings.redis_url is None
    resolve_servers()
    require_broker()
    schema.upgrade(engine())
    if settings.web_port:
        with transaction() as session:
            require_user_unless_loopback(session, settings.web_host)
    if has_embedded_broker:
        with transaction() as session:
            interrupted = len(active_runs(session))
        if interrupted:
            # The worker resumes them when it connects to the broker.
            console.print(f"Resuming {count_noun(interrupted, 'interrupted run')}.")


def down(
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the pages in progress.")] = 120,
) -> None:
    """Stop Accession after the pages in progress are stored."""
    home = get_settings().home
    if not stop_running(home, timeout):
        raise UserError(f"Accession is not running in {home}: there is nothing to stop.")
    console.print("Accession has stopped.")
