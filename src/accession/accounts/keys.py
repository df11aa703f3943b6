"""Encryption of secrets in the database: account keys, URLs of notification channels, secrets of webhooks.

The encryption key is in the home (`secret.key`) or in the environment. Either may contain several keys: the
first encrypts, any decrypts. This allows changing the key while workers run: a rotation first puts the new
key before the old one, then re-encrypts every secret, and then removes the old key. If it is killed in
between, the remaining keys still decrypt everything.
"""

import base64
import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr
from sqlalchemy import select, text, update
from sqlalchemy.orm import InstrumentedAttribute, Session, object_session

from accession.core.errors import UserError
from accession.core.fs import atomic_write
from accession.core.settings import get_settings
from accession.db.models import Collection, NotificationChannel, Webhook

KEY_FILE = "secret.key"
KEY_VARIABLE = "ACCESSION_SECRET_KEY"


@cache
def _cipher() -> MultiFernet:
    return _make_cipher(_load_keys())


def _make_cipher(keys: Iterable[bytes]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def derive_key(purpose: str) -> bytes:
    """Derive 32 bytes for one purpose from the encryption key, which they do not reveal.

    They change with the encryption key. Creates the key file on first use.
    """
    ensure_key_file()
    key = base64.urlsafe_b64decode(_load_keys()[0])
    return HKDF(SHA256(), 32, salt=None, info=f"accession: {purpose}".encode()).derive(key)


def _load_keys() -> list[bytes]:
    """Return the encryption keys, the one that encrypts first.

    Raises:
        UserError: there is none, or one is invalid.
    """
    secret_key = get_settings().secret_key
    if secret_key is not None:
        return _validate_keys(re.split(rb"[\s,]+", secret_key.get_secret_value().encode()), KEY_VARIABLE)
    path = _key_file()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable_error(path, error) from None
    return _validate_keys(content.split(), str(path))


def _validate_keys(words: Iterable[bytes], source: str) -> list[bytes]:
    keys = [word for word in words if word]
    if not keys:
        raise UserError(f"There is no key in {source}: restore it from your backup.")
    try:
        _make_cipher(keys)
    except ValueError:
        raise UserError(
            f"The key in {source} is not 32 bytes in URL-safe base64: restore it from your backup."
        ) from None
    return keys


def _unreadable_error(path: Path, error: OSError) -> UserError:
    return UserError(
        f"The key file {path} cannot be read ({error.strerror}): restore it from your backup, "
        f"or set {KEY_VARIABLE}."
    )


def _key_file() -> Path:
    return get_settings().home / KEY_FILE


def ensure_key_file() -> None:
    """Create the key file (mode 600) if it is missing and the environment does not provide the key.

    Of several processes that start together, one creates the key for all.

    Raises:
        UserError: the file cannot be created.
    """
    path = _key_file()
    if get_settings().secret_key is not None:
        return
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_key_file(path, [Fernet.generate_key()], overwrite=False)
    except OSError as error:
        raise UserError(
            f"The key file {path} cannot be created ({error.strerror}): make its folder writable, "
            f"or set ACCESSION_HOME or {KEY_VARIABLE}."
        ) from None


def _write_key_file(path: Path, keys: Iterable[bytes], **options: Any) -> None:
    with atomic_write(path, **options) as file:
        file.write(b"".join(key + b"\n" for key in keys))


def lock_against_rotation(session: Session) -> None:
    """Prevent key rotations until the transaction ends.

    Call it before `encrypt_secret`; otherwise a rotation may miss the new secret and drop the encryption key
    that was used for it.
    """
    session.execute(text("LOCK TABLE collections IN ROW EXCLUSIVE MODE"))


def encrypt_secret(secret: SecretStr) -> bytes:
    """Encrypt a secret for storage. Creates the key file on first use."""
    ensure_key_file()
    _cipher.cache_clear()
    return _cipher().encrypt(secret.get_secret_value().encode())


def decrypt_account_key(collection: Collection) -> SecretStr:
    """Return the collection's account key in clear text, for signing requests and nothing else.

    Raises:
        UserError: none of the present encryption keys decrypts it.
    """
    return _decrypt_column(
        collection, Collection.account_key_encrypted, f'account key of collection "{collection.name}"'
    )


def decrypt_channel_url(channel: NotificationChannel) -> SecretStr:
    """Return the channel's URL in clear text, for sending messages and nothing else.

    Raises:
        UserError: none of the present encryption keys decrypts it.
    """
    return _decrypt_column(
        channel, NotificationChannel.url_encrypted, f'URL of notification channel "{channel.name}"'
    )


def decrypt_webhook_secret(webhook: Webhook) -> SecretStr:
    """Return the webhook's secret in clear text, for signing requests and nothing else.

    Raises:
        UserError: none of the present encryption keys decrypts it.
    """
    return _decrypt_column(webhook, Webhook.secret_encrypted, _webhook_secret(webhook))


def decrypt_previous_webhook_secret(webhook: Webhook) -> SecretStr:
    """Return the webhook's previous secret, which must be stored; see `decrypt_webhook_secret`."""
    return _decrypt_column(webhook, Webhook.previous_secret_encrypted, _webhook_secret(webhook))


def _check_account_keys(session: Session) -> int:
    in_use = select(Collection).where(Collection.marked_for_deletion_at.is_(None)).order_by(Collection.name)
    return len([decrypt_account_key(each) for each in session.scalars(in_use)])


def _check_channel_urls(session: Session) -> int:
    channels = select(NotificationChannel).order_by(NotificationChannel.name)
    return len([decrypt_channel_url(each) for each in session.scalars(channels)])


def _check_webhook_secrets(session: Session) -> int:
    webhooks = session.scalars(select(Webhook).order_by(Webhook.name)).all()
    for webhook in webhooks:
        decrypt_webhook_secret(webhook)
        if webhook.previous_secret_encrypted is not None:
            decrypt_previous_webhook_secret(webhook)
    return len(webhooks)


SECRET_CHECKS: Mapping[str, Callable[[Session], int]] = {
    "account keys": _check_account_keys,
    "URLs of notification channels": _check_channel_urls,
    "secrets of webhooks": _check_webhook_secrets,
}
"""Functions that decrypt all secrets of a kind in the database, and return how many there are.

They raise `UserError` if one cannot be decrypted. A webhook counts as one.
"""


def _webhook_secret(webhook: Webhook) -> str:
    return f'secret of webhook "{webhook.name}"'


def _decrypt_column(
    row: Collection | NotificationChannel | Webhook, column: InstrumentedAttribute[Any], what: str
) -> SecretStr:
    encrypted: bytes = getattr(row, column.key)
    try:
        return _decrypt(encrypted)
    except InvalidToken:
        pass
    # A rotation may have changed row and key file since they were read. Read the row first: a rotation
    # commits the rows before it removes the old key.
    session = object_session(row)
    query = select(column).where(type(row).id == row.id)
    stored = session.scalar(query) if session else None
    _cipher.cache_clear()
    try:
        return _decrypt(stored or encrypted)
    except InvalidToken:
        raise _wrong_key_error(what) from None


def _decrypt(encrypted: bytes) -> SecretStr:
    return _decrypt_with(_cipher(), encrypted)


# Each step of a run decrypts the same account key. Other encryption keys are another cipher.
@lru_cache
def _decrypt_with(cipher: MultiFernet, encrypted: bytes) -> SecretStr:
    return SecretStr(cipher.decrypt(encrypted).decode())


def _wrong_key_error(what: str) -> UserError:
    if get_settings().secret_key is not None:
        return UserError(
            f"The {what} was encrypted with another key than that in "
            f"{KEY_VARIABLE}: set the right one, and restart all processes."
        )
    return UserError(
        f"The {what} was encrypted with another key file: "
        f"restore the right {KEY_FILE} in {get_settings().home}, or set {KEY_VARIABLE}."
    )


@dataclass(frozen=True)
class ReencryptionResult:
    """Numbers of account keys that a rotation re-encrypted and skipped, of channels' URLs, and of webhooks.

    Skipped are those of collections marked for deletion that no key decrypts any more.
    """

    reencrypted: int
    skipped: int
    channels: int = 0
    webhooks: int = 0


@dataclass(frozen=True)
class KeyRotation:
    """A rotation of the encryption key that is in progress."""

    keys: Sequence[bytes] = field(repr=False)
    """The new key, then the old ones."""
    file: Path | None
    """The key file; None when the keys come from the environment, which only the operator can change."""
    is_resumed: bool
    """True if the new key was already there: from an interrupted rotation, or put there by the operator."""

    def reencrypt(self, session: Session) -> ReencryptionResult:
        """Write the new key to the key file, and re-encrypt every secret with it.

        Until the transaction ends, no collection, notification channel or webhook can be added.

        Raises:
            UserError: a secret in use cannot be decrypted, or the key file cannot be written. Nothing
                is
                changed then.
        """
        # The weakest lock that stops changes of collections but not running imports, whose rows refer to
        # them.
        session.execute(text("LOCK TABLE collections IN SHARE ROW EXCLUSIVE MODE"))
        cipher = _make_cipher(self.keys)
        changes: list[dict[str, Any]] = []
        rows = session.execute(
            select(
                Collection.id,
                Collection.name,
                Collection.account_key_encrypted,
                Collection.marked_for_deletion_at,
            )
        ).all()
        for row in rows:
            try:
                changes.append(
                    {"id": row.id, "account_key_encrypted": cipher.rotate(row.account_key_encrypted)}
                )
            except InvalidToken:
                if row.marked_for_deletion_at is None:
                    raise _wrong_key_error(f'account key of collection "{row.name}"') from None
        channels, webhooks = _reencrypt_channels(session, cipher), _reencrypt_webhooks(session, cipher)
        if self.file is not None:
            _replace_key_file(self.file, self.keys)
        if changes:
            session.execute(update(Collection), changes)
        return ReencryptionResult(len(changes), len(rows) - len(changes), channels, webhooks)


def _reencrypt_channels(session: Session, cipher: MultiFernet) -> int:
    """Re-encrypt the URLs of the notification channels; return their number."""
    channels = session.scalars(select(NotificationChannel)).all()
    for channel in channels:
        try:
            channel.url_encrypted = cipher.rotate(channel.url_encrypted)
        except InvalidToken:
            raise _wrong_key_error(f'URL of notification channel "{channel.name}"') from None
    session.flush()
    return len(channels)


def _reencrypt_webhooks(session: Session, cipher: MultiFernet) -> int:
    """Re-encrypt the secrets of the webhooks, also previous ones; return the number of webhooks."""
    webhooks = session.scalars(select(Webhook)).all()
    for webhook in webhooks:
        try:
            webhook.secret_encrypted = cipher.rotate(webhook.secret_encrypted)
            if webhook.previous_secret_encrypted is not None:
                webhook.previous_secret_encrypted = cipher.rotate(webhook.previous_secret_encrypted)
        except InvalidToken:
            raise _wrong_key_error(_webhook_secret(webhook)) from None
    session.flush()
    return len(webhooks)


@contextmanager
def key_rotation() -> Iterator[KeyRotation]:
    """Rotate the encryption key: call `reencrypt` in the block, and commit.

    At the end of the block the old keys are removed from the key file. If the block fails or is killed, the
    keys in the file decrypt every secret as before, and the next rotation completes this one.

    Raises:
        UserError: another rotation of this key file is in progress, the file cannot be read or written, or
            the
            environment provides a single key.
    """
    if get_settings().secret_key is not None:
        yield _rotation_of_environment()
        return
    # Resolve a symbolic link: the file itself is replaced.
    path = _key_file().resolve()
    with _rotation_lock(path):
        keys = _load_keys()
        is_resumed = len(keys) > 1
        rotation = KeyRotation(keys if is_resumed else [Fernet.generate_key(), *keys], path, is_resumed)
        yield rotation
        _replace_key_file(path, rotation.keys[:1])


def _rotation_of_environment() -> KeyRotation:
    keys = _load_keys()
    if len(keys) == 1:
        raise UserError(
            f"The key is set in {KEY_VARIABLE}, which only you can change: create a new key "
            "(openssl rand -base64 32 | tr +/ -_), put it and a comma before the old one wherever Accession "
            "runs, restart the workers, and run `accession collections rotate-key` again."
        )
    return KeyRotation(keys, None, True)


@contextmanager
def _rotation_lock(path: Path) -> Iterator[None]:
    """Lock the key file's folder against other rotations; the kernel releases the lock with the process."""
    try:
        # The folder, because the file itself is replaced.
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise _unreadable_error(path, error) from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another rotation of the key in {path} is in progress: wait until it has ended."
            ) from None
        yield
    finally:
        os.close(folder)


def _replace_key_file(path: Path, keys: Iterable[bytes]) -> None:
    try:
        # A fixed name, so that the draft of a killed rotation does not remain: it contains keys.
        _write_key_file(path, keys, draft=path.with_name(f".{path.name}.rotated"), keep_owner=True)
    except OSError as error:
        raise UserError(
            f"The key file {path} cannot be written ({error.strerror}): make it and its folder writable, "
            "and run `accession collections rotate-key` again."
        ) from None
    _cipher.cache_clear()
