"""Embedded PostgreSQL server, used if no database is configured."""

import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql

from accession.core.errors import UserError
from accession.local.embedded import LOOPBACK, EmbeddedServer, server_environment
from accession.local.files import read_or_create_password, write_private_file
from accession.local.postgres_files import (
    Installation,
    data_folder,
    readable_installation,
    server_user,
    wheel_installation,
)
from accession.local.processes import OwnedProcess, last_line, log_file, with_death_signal

ROLE = "accession"


DATABASE = "accession"


_CONFIGURATION = """\
# Written by Accession at every start of the server.
listen_addresses = '{address}'
port = {port}
unix_socket_directories = ''
max_connections = 60
shared_buffers = 128MB
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
cluster_name = 'accession'
"""


_NOT_DURABLE = """\
fsync = off
synchronous_commit = off
full_page_writes = off
"""


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL with its data in `postgres/` of the home; root runs it as an unprivileged user.

    If that user cannot reach the home, the data are below `/var/lib/accession` and `postgres` in the home is
    a symbolic link to them.
    """

    name: ClassVar[str] = "postgres"
    title: ClassVar[str] = "PostgreSQL"
    # Fast shutdown, then immediate shutdown, after which the next start runs crash recovery.
    stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]] = (
        (signal.SIGINT, 30),
        (signal.SIGQUIT, 5),
    )

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        super().__init__(home, durable=durable)
        self._user = server_user()
        self._installation: Installation | None = None
        self._folder = home / "postgres"

    @property
    def url(self) -> str:
        """URL of the database with its password."""
        return f"postgresql://{ROLE}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def _password(self) -> str:
        return read_or_create_password(self._folder / "password")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        """Start the server and create the database if it does not exist.

        Raises:
            UserError: the server does not start, the data were written by another major version of
                PostgreSQL, or the user that it runs as cannot reach them.
        """
        super().start()
        with psycopg.connect(self._maintenance_dsn, autocommit=True) as connection:
            row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if row is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    @property
    def _maintenance_dsn(self) -> str:
        return f"{self.url.removesuffix(DATABASE)}postgres?connect_timeout=5"

    def _prepare(self) -> None:
        self._installation = readable_installation(wheel_installation(), self._user)
        self._folder = data_folder(self.home, self._user)
        if not self._data.exists():
            self._initdb(self._installation)
        major = (self._data / "PG_VERSION").read_text().strip()
        if major != self._installation.major:
            raise UserError(
                f"The data in {self._data} were written by PostgreSQL {major}, and this version of Accession "
                f"includes PostgreSQL {self._installation.major}: dump them with that version, or "
                f"set ACCESSION_DATABASE_URL to a PostgreSQL {major} that serves them."
            )
        if not (self._folder / "password").exists():
            raise UserError(
                f"The password file {self._folder / 'password'} is missing: restore it from your backup."
            )

    def _initdb(self, installation: Installation) -> None:
        """Create an empty cluster in a draft folder and rename it, so that a kill leaves no partial one."""
        for unfinished in self._folder.glob("new-*"):
            shutil.rmtree(unfinished)
        draft = self._folder / f"new-{secrets.token_hex(4)}"
        read_or_create_password(self._folder / "password")
        self._give_to_user(self._folder / "password")
        command = [
            str(installation.programs / "initdb"),
            f"--pgdata={draft}",
            f"--username={ROLE}",
            f"--pwfile={self._folder / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Without the builtin locale, lower('Á') would return 'Á'.
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        ]
        process = subprocess.run(  # noqa: S603
            with_death_signal(command, signal.SIGKILL, self._user),
            cwd=self._folder,
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if process.returncode:
            log = log_file(self.home, "initdb")
            log.write_text(process.stdout)
            reason = last_line(process.stdout)
            raise UserError(
                f"PostgreSQL's initdb failed in {self._folder} ({reason}): see {log} for the cause."
            )
        draft.rename(self._data)

    def _spawn(self) -> OwnedProcess:
        assert self._installation is not None  # noqa: S101 - `start` has prepared it
        configuration = self._folder / "postgresql.conf"
        text = _CONFIGURATION.format(address=LOOPBACK, port=self.port)
        write_private_file(configuration, text if self.durable else text + _NOT_DURABLE)
        self._give_to_user(configuration)
        return OwnedProcess(
            self.home,
            self.name,
            [
                str(self._installation.programs / "postgres"),
                f"--config-file={configuration}",
                "-D",
                str(self._data),
            ],
            death_signal=signal.SIGINT,
            user=self._user,
            environment={**server_environment(), **self._stale_pid_environment()},
            folder=self._folder,
        )

    def _stale_pid_environment(self) -> dict[str, str]:
        """Return an environment in which PostgreSQL ignores a stale `postmaster.pid`.

        Our last postmaster has certainly ended. After a reboot, and at every start in a container, its pid
        may belong to another process of the same user, and PostgreSQL would refuse to start. It accepts the
        pid that this variable names as its grandparent's; it still checks for surviving backends.
        """
        pid_file = self._data / "postmaster.pid"
        lines = pid_file.read_text().splitlines() if pid_file.exists() else []
        return {"PG_GRANDPARENT_PID": lines[0].strip()} if lines else {}

    def _accepts_commands(self) -> bool:
        try:
            psycopg.connect(self._maintenance_dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    def _give_to_user(self, path: Path) -> None:
        if self._user:
            os.chown(path, self._user.uid, self._user.gid)
