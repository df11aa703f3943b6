"""Embedded PostgreSQL server, used if no database is configured."""

import os
import secrets
import signal
import subprocess
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import psycopg
from psycopg import sql

from accession.core.database_url import with_password_protection
from accession.core.errors import UserError
from accession.core.unix_socket import user_name
from accession.local.embedded import EmbeddedServer, server_environment
from accession.local.files import (
    create_folder,
    read_foreign_file,
    read_or_create_password,
    remove_folder,
    write_private_file,
)
from accession.local.logs import last_line, log_file
from accession.local.postgres_files import (
    Installation,
    finish_replacement,
    postgres_folder,
    readable_installation,
    require_data_of,
    take_data,
    wheel_installation,
)
from accession.local.processes import OwnedProcess, with_death_signal
from accession.local.users import server_user

ROLE = "accession"


DATABASE = "accession"


_CONFIGURATION = """\
# Written by Accession at every start of the server.
listen_addresses = ''
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
max_connections = 60
shared_buffers = 128MB
# Most machines have SSDs: with the default of 4, the planner reads whole tables instead of indexes.
random_page_cost = 1.1
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
    """PostgreSQL with its data in `postgres/data` of the home; root runs it as an unprivileged user.

    If that user cannot reach the home, `postgres` is a symbolic link to a folder that it can reach. The data
    and the socket belong to that user, and everything else to us.
    """

    name: ClassVar[str] = "postgres"
    title: ClassVar[str] = "PostgreSQL"
    # Fast shutdown, then immediate shutdown, after which the next start runs crash recovery.
    stop_steps: ClassVar[tuple[tuple[signal.Signals, float], ...]] = (
        (signal.SIGINT, 30),
        (signal.SIGQUIT, 5),
    )

    def __init__(
        self,
        home: Path,
        *,
        durable: bool = True,
        installation: Installation | None = None,
        data: Path | None = None,
    ) -> None:
        """Configure the server.

        Args:
            home: Home folder.
            durable: False to disable fsync, for tests.
            installation: Programs that its user can reach, by default those of the wheel.
            data: Folder of the data, by default `postgres/data` of the home.
        """
        super().__init__(home, user=server_user(), durable=durable)
        self._installation = installation
        self._folder = home / "postgres"
        self._given_data = data

    @property
    def url(self) -> str:
        """URL of the database with its password, and with the user that the server runs as."""
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        user = self._user.name if self._user else user_name(os.geteuid())
        location = f"{ROLE}:{self._password}@{quote(str(self._sockets), safe='')}/{database}"
        return with_password_protection(f"postgresql://{location}?requirepeer={quote(user, safe='')}")

    @property
    def _password(self) -> str:
        return read_or_create_password(self._folder / "password")

    @property
    def _data(self) -> Path:
        return self._given_data or self._folder / "data"

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
        return f"{self._url('postgres')}&connect_timeout=5"

    def _prepare(self) -> None:
        if self._installation is None:
            self._installation = readable_installation(wheel_installation(), self._user)
        self._folder = postgres_folder(self.home, self._user)
        finish_replacement(self._data)
        if not self._data.exists():
            self._initdb(self._installation)
        take_data(self._data, self._user)
        require_data_of(self._installation, self._data)
        if not (self._folder / "password").exists():
            raise UserError(
                f"The password file {self._folder / 'password'} is missing: restore it from your backup."
            )

    def _initdb(self, installation: Installation) -> None:
        """Create an empty cluster in a draft folder and rename it, so that a kill leaves no partial one."""
        for unfinished in self._data.parent.glob("new-*"):
            remove_folder(unfinished)
        draft = self._data.with_name(f"new-{secrets.token_hex(4)}")
        create_folder(draft, self._user)
        # A copy, because the user of the server cannot read ours.
        password_file = self._folder / "initdb-password"
        password = read_or_create_password(self._folder / "password")
        write_private_file(password_file, password, user=self._user)
        command = [
            str(installation.programs / "initdb"),
            f"--pgdata={draft}",
            f"--username={ROLE}",
            f"--pwfile={password_file}",
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
        password_file.unlink()
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
        configuration = self._data.with_name("postgresql.conf")
        text = _CONFIGURATION.format(sockets=self._sockets)
        write_private_file(configuration, text if self.durable else text + _NOT_DURABLE, user=self._user)
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
        lines = read_foreign_file(self._data / "postmaster.pid").splitlines()
        return {"PG_GRANDPARENT_PID": lines[0].strip()} if lines else {}

    def _accepts_commands(self) -> bool:
        try:
            psycopg.connect(self._maintenance_dsn).close()
        except psycopg.OperationalError:
            return False
        return True
