"""Small files of the home that hold secrets or state: whole or not there, and nobody else's to read."""

import secrets
from pathlib import Path

from accession.core.fs import atomic_write


def write_private(path: Path, content: str | bytes) -> None:
    """Replace the file in one step; its mode is 600."""
    with atomic_write(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def password_in(path: Path) -> str:
    """The password kept in the file, made on first use: 32 characters that need no quoting in a URL."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text()
