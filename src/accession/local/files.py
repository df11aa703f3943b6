"""Small private files of the home: atomic writes and passwords."""

import secrets
from pathlib import Path

from accession.core.fs import atomic_write


def write_private_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically with mode 600."""
    with atomic_write(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def read_or_create_password(path: Path) -> str:
    """Return the password in a file; create one of 32 URL-safe characters on first use."""
    if not path.exists():
        write_private_file(path, secrets.token_urlsafe(24))
    return path.read_text()
