"""Secrets that configuration files refer to: account keys, URLs of channels and secrets of webhooks."""

import os
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from accession.configuration.model import SecretReference
from accession.core.errors import InvalidInput
from accession.core.settings import get_settings

_MAX_BYTES = 64 * 1024


SecretReader = Callable[[SecretReference], SecretStr | None]
"""Function that reads a secret: None if there is none in this place, or if the caller may not read it.

It raises `InvalidInput` if the secret is empty or cannot be read.
"""


def read_secret(reference: SecretReference) -> SecretStr | None:
    """Read a secret for a person who runs a command: from the command's environment, or from any file."""
    if reference.file:
        return _read_file(Path(reference.file))
    value = os.environ.get(reference.env)
    return None if value is None else _check_secret(value, reference)


class FolderReader:
    """Reads secrets for a person who uses dashboard or API: only files in one folder.

    Anything else could make the server read its own keys and send them to a host of that person's choice.
    """

    def __init__(self, folder: Path | None) -> None:
        """Create a reader of this folder; with None it reads nothing."""
        self._folder = folder

    def __call__(self, reference: SecretReference) -> SecretStr | None:
        """Read a secret, as a `SecretReader`."""
        path = Path(reference.file)
        # Before links are followed, so that nothing tells which other files exist.
        if self._folder is None or ".." in path.parts or not path.is_relative_to(self._folder):
            return None
        # Kubernetes links the files to others in the folder.
        is_inside = path.resolve().is_relative_to(self._folder.resolve())
        return _read_file(path) if is_inside else None


def remote_reader() -> FolderReader:
    """Return the reader for people who use dashboard or API."""
    return FolderReader(get_settings().configuration_secrets_dir)


def _read_file(path: Path) -> SecretStr | None:
    try:
        with path.open("rb") as file:
            # Editors on Windows write a byte order mark.
            text = file.read(_MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise InvalidInput(f"The file {path} cannot be read ({reason}): name a readable text file.") from None
    return _check_secret(text, SecretReference(file=str(path)))


def _check_secret(text: str, reference: SecretReference) -> SecretStr:
    secret = text.strip()
    if not secret or not secret.isprintable():
        reason = "has line breaks or control characters" if secret else "is empty"
        place = str(reference)
        raise InvalidInput(f"{place[0].upper()}{place[1:]} {reason}: put the secret there, and nothing else.")
    return SecretStr(secret)
