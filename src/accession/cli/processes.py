"""Commands `worker`, `beat`, `web` and `env`: run one process of an installation, and show its servers."""

import os
import re
import shlex
import signal
import socket
import sys
from contextlib import suppress
from typing import Annotated

import typer

from accession.auth.settings_changes import record_settings
from accession.cli.commands import fast_imports
from accession.cli.connect import (
    open_catalogue,
    require_broker,
    require_schema,
    require_servers,
    wait_for_broker,
)
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.local.home import prepare_home
from accession.tasks.broker import APPLY_QUEUE, DEFAULT_QUEUE, BrokerUnavailable
from accession.web.server import inherited_host, listen, require_user_unless_loopback, serve

_PLAIN_URL = re.compile(r"[\w@%+=:,./?-]+", re.ASCII)

WaitForSchema = Annotated[
    bool,
    typer.Option("--wait-for-schema", help="Wait for the database, and for `accession db upgrade`."),
]


def worker(
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Number of tasks at a time. [default: ACCESSION_WORKER_CONCURRENCY]"),
    ] = None,
    wait_for_schema: WaitForSchema = False,
) -> None:
    """Run a worker, which executes imports and updates.

    `accession up` runs one. Any number may run, on any machine that reaches database and broker.
    """
    _end_on_sigterm()
    wait_for_broker()
    require_schema(waits=wait_for_schema)
    settings = get_settings()
    with transaction() as session:
        record_settings(session, "worker")
    with fast_imports():
        from accession.tasks.app import app

        app.loader.import_default_modules()
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


def beat(wait_for_schema: WaitForSchema = False) -> None:
    """Run the scheduler, which starts the workflows at their times.

    `accession up` runs it. Run one for all machines: a second one waits until the first has ended.
    """
    _end_on_sigterm()
    wait_for_broker()
    require_schema(waits=wait_for_schema)
    settings = get_settings()
    with transaction() as session:
        record_settings(session, "beat")
    prepare_home(settings.home)
    with fast_imports():
        from accession.tasks.app import app
        from accession.tasks.notifier import start_notifier
        from accession.tasks.webhook_sender import start_webhook_sender

        app.loader.import_default_modules()
    os.umask(0o077)
    schedule = settings.home / "beat-schedule"
    start_notifier()
    start_webhook_sender()
    app.start(["beat", f"--schedule={schedule}", f"--loglevel={settings.log_level}", "--pidfile="])


def web(
    wait_for_schema: WaitForSchema = False,
    descriptor: Annotated[
        int | None,
        typer.Option(
            "--fd",
            min=0,
            help="Serve on the open socket with this number, such as 3 from a socket unit of systemd. "
            "[default: listen at ACCESSION_WEB_HOST and ACCESSION_WEB_PORT]",
        ),
    ] = None,
) -> None:
    """Serve the dashboard, the API and the feeds.

    `accession up` runs it.
    """
    _end_on_sigterm()
    require_servers()
    # Without the broker, the catalogue and the feeds can be served all the same.
    with suppress(BrokerUnavailable):
        require_broker()
    require_schema(waits=wait_for_schema)
    settings = get_settings()
    host = settings.web_host if descriptor is None else inherited_host(descriptor)
    with open_catalogue() as session:
        require_user_unless_loopback(session, host)
        record_settings(session, "web")
    with fast_imports():
        from accession.tasks.notifier import start_notifier
        from accession.tasks.webhook_sender import start_webhook_sender
        from accession.web.app import create_app
    app = create_app()
    start_notifier()
    start_webhook_sender()
    serve(app, listen(host, settings.web_port) if descriptor is None else socket.socket(fileno=descriptor))


def env() -> None:
    """Print the URLs of database and broker, with passwords, for psql and other tools."""
    urls = require_servers().for_other_programs()
    typer.echo(f"ACCESSION_DATABASE_URL={_for_shell(urls.database_url)}")
    typer.echo(f"ACCESSION_REDIS_URL={_for_shell(urls.redis_url)}")


def _for_shell(url: str) -> str:
    """Quote a URL in which a shell would find something to do, such as `&`; in `?` of a value it does not."""
    return url if _PLAIN_URL.fullmatch(url) else shlex.quote(url)


def _end_on_sigterm() -> None:
    """End this process on SIGTERM, until Celery or the web server handles it.

    While the process waits for a server, nothing handles it, and Linux ignores it for process 1 of a
    container.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
