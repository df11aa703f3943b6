"""User that PostgreSQL runs as if we are root, and what it can reach."""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import structlog

from accession.core.errors import UserError

log = structlog.get_logger(__name__)

SERVER_ACCOUNTS = ("postgres", "accession-postgres")
"""Accounts that may run PostgreSQL for root, the preferred first; never `nobody`, which others share."""


@dataclass(frozen=True)
class User:
    """Operating system user that a child runs as."""

    name: str
    uid: int
    gid: int


def server_user() -> User | None:
    """Return the user that PostgreSQL runs as if we are root, which it refuses; else None.

    If the machine has no such user, the system account `accession-postgres` is created.

    Raises:
        UserError: the account cannot be created.
    """
    if os.geteuid() != 0:
        return None
    return _find_user() or _create_user(SERVER_ACCOUNTS[-1])


def _find_user() -> User | None:
    for name in SERVER_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return User(name, entry.pw_uid, entry.pw_gid)
    return None


def _create_user(name: str) -> User:
    """Create a system account that nobody can log in to.

    Raises:
        UserError: it cannot be created.
    """
    reason = "there is no program useradd"
    if program := shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        options = ("--system", "--user-group", "--home-dir=/nonexistent", "--shell=/usr/sbin/nologin")
        # It waits while another process changes the accounts.
        completed = subprocess.run(  # noqa: S603
            [program, *options, name], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        # Also if another process has created it meanwhile.
        if user := _find_user():
            log.info("system user created", user=user.name, reason="PostgreSQL does not run as root")
            return user
        reason = (completed.stderr.strip().splitlines() or ["useradd failed"])[0]
    raise UserError(
        f"PostgreSQL does not run as root, and no user for it can be created ({reason}): create one with "
        f"`useradd --system {name}`, run Accession as another user, or set ACCESSION_DATABASE_URL."
    )


def has_access(user: User, test: str, path: Path) -> bool:
    """Run `test` as this user, which takes access control lists and mounts into account."""
    command = ["/usr/bin/env", "test", test, str(path)]
    process = subprocess.run(command, user=user.uid, group=user.gid, extra_groups=[], cwd="/")  # noqa: S603
    return process.returncode == 0
