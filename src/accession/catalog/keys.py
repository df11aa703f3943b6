"""Account keys at rest: encrypted with a key that lies in the home, or comes from the environment."""

import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr

from accession.catalog.models import Collection
from accession.errors import UserError
from accession.settings import get_settings

KEY_FILE = "secret.key"


@cache
def _cipher() -> Fernet:
    settings = get_settings()
    if settings.secret_key is not None:
        key, place = settings.secret_key.get_secret_value().encode(), "ACCESSION_SECRET_KEY"
    else:
        path = settings.home / KEY_FILE
        place = str(path)
        try:
            key = path.read_bytes().strip()
        except OSError as error:
            raise UserError(
                f"The key file {path} cannot be read ({error.strerror}): put it back from your backup, "
                "or set ACCESSION_SECRET_KEY."
            ) from None
    try:
        return Fernet(key)
    except ValueError:
        raise UserError(
            f"The key in {place} is not 32 bytes in URL-safe base64: put the right one back from your backup."
        ) from None


def make_key_file_if_missing() -> None:
    """Afterwards the home has a key file of mode 600, unless the environment brings the key.

    Raises `UserError` when it cannot be made.
    """
    settings = get_settings()
    path = settings.home / KEY_FILE
    if settings.secret_key is not None:
        return
    try:
        if not path.exists():
            settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_key_file(path)
    except OSError as error:
        raise UserError(
            f"The key file {path} cannot be made ({error.strerror}): make its folder writable, "
            "or set ACCESSION_HOME or ACCESSION_SECRET_KEY."
        ) from None


def _make_key_file(path: Path) -> None:
    # Linked into place whole: of several that start at once, one makes the key for all.
    handle, draft = tempfile.mkstemp(prefix=f".{KEY_FILE}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)


def encrypt_account_key(account_key: SecretStr) -> bytes:
    """The account key as it may be stored. Makes the key file on first use."""
    make_key_file_if_missing()
    return _cipher().encrypt(account_key.get_secret_value().encode())


def account_key_of(collection: Collection) -> SecretStr:
    """The collection's account key in the clear, for signing requests and for nothing else.

    Raises `UserError` when it was encrypted with another key than the one at hand.
    """
    try:
        return SecretStr(_cipher().decrypt(collection.account_key_encrypted).decode())
    except InvalidToken:
        raise UserError(
            f'The account key of collection "{collection.name}" was encrypted with another key file: '
            f"put the right {KEY_FILE} back into {get_settings().home}, or set ACCESSION_SECRET_KEY."
        ) from None
