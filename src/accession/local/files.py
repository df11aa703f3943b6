"""Small files of the home that hold secrets or state: whole or not there, and nobody else's to read."""

import os
import secrets
from pathlib import Path


def write_private(path: Path, content: str | bytes) -> None:
    """Replace the file in one step; its mode is 600."""
    data = content.encode() if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    draft.replace(path)


def password_in(path: Path) -> str:
    """The password kept in the file, made on first use: 32 characters that need no quoting in a URL."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text()
