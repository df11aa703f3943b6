"""Account keys at rest: encrypted with a key that lies in the home, or comes from the environment.

Either place may hold several keys: the first encrypts, any decrypts. That is how the key is changed while
workers run: a rotation first lets the new key stand before the old one, then encrypts every account key
with it, and then drops the old one. Killed in between, it leaves keys with which all can be decrypted.
"""

import base64
import fcntl
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session, object_session

from accession.core.errors import UserError
from accession.core.fs import settle
from accession.core.settings import get_settings
from accession.db.models import Collection

KEY_FILE = "secret.key"
KEY_VARIABLE = "ACCESSION_SECRET_KEY"


@cache
def _cipher() -> MultiFernet:
    return _cipher_of(_keys_at_hand())


def _cipher_of(keys: Iterable[bytes]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def derived_key(purpose: str) -> bytes:
    """32 bytes for one purpose, the same wherever the key is the same; they tell nothing of the key itself.

    Others as soon as the key is changed. Makes the key file on first use.
    """
    make_key_file_if_missing()
    key = base64.urlsafe_b64decode(_keys_at_hand()[0])
    return HKDF(SHA256(), 32, salt=None, info=f"accession: {purpose}".encode()).derive(key)


def _keys_at_hand() -> list[bytes]:
    """Every key there is, the one that encrypts first; raises `UserError` when one cannot be used."""
    given = get_settings().secret_key
    if given is not None:
        return _usable(re.split(rb"[\s,]+", given.get_secret_value().encode()), KEY_VARIABLE)
    path = _key_file()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    return _usable(content.split(), str(path))


def _usable(words: Iterable[bytes], place: str) -> list[bytes]:
    keys = [word for word in words if word]
    if not keys:
        raise UserError(f"There is no key in {place}: put the right one back from your backup.")
    try:
        _cipher_of(keys)
    except ValueError:
        raise UserError(
            f"The key in {place} is not 32 bytes in URL-safe base64: put the right one back from your backup."
        ) from None
    return keys


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"The key file {path} cannot be read ({error.strerror}): put it back from your backup, "
        f"or set {KEY_VARIABLE}."
    )


def _key_file() -> Path:
    return get_settings().home / KEY_FILE


def make_key_file_if_missing() -> None:
    """Afterwards the home has a key file of mode 600, unless the environment brings the key.

    Raises `UserError` when it cannot be made.
    """
    path = _key_file()
    if get_settings().secret_key is not None:
        return
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_key_file(path)
    except OSError as error:
        raise UserError(
            f"The key file {path} cannot be made ({error.strerror}): make its folder writable, "
            f"or set ACCESSION_HOME or {KEY_VARIABLE}."
        ) from None


def _make_key_file(path: Path) -> None:
    # Linked into place whole: of several that start at once, one makes the key for all.
    handle, draft = tempfile.mkstemp(prefix=f".{KEY_FILE}.", dir=path.parent)
    try:
        _write_to_disk(handle, [Fernet.generate_key()])
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        os.unlink(draft)
    # Rows are encrypted with a key that must not be lost.
    settle(path.parent)


def _write_to_disk(handle: int, keys: Iterable[bytes]) -> None:
    with open(handle, "wb") as file:
        file.write(b"".join(key + b"\n" for key in keys))
        file.flush()
        os.fsync(file.fileno())


def hold_off_rotations(session: Session) -> None:
    """Until the transaction ends no rotation takes place: what it encrypts is not missed by one.

    Call it before `encrypt_account_key`, or a rotation may drop the key that was used.
    """
    session.execute(text("LOCK TABLE collections IN ROW EXCLUSIVE MODE"))


def encrypt_account_key(account_key: SecretStr) -> bytes:
    """The account key as it may be stored, encrypted with the key of this moment. Makes the key file on
    first use."""
    make_key_file_if_missing()
    _cipher.cache_clear()
    return _cipher().encrypt(account_key.get_secret_value().encode())


def account_key_of(collection: Collection) -> SecretStr:
    """The collection's account key in the clear, for signing requests and for nothing else.

    Raises `UserError` when it was encrypted with another key than those at hand.
    """
    try:
        return _decrypted(collection.account_key_encrypted)
    except InvalidToken:
        pass
    # A rotation may have changed both since they were read: the row before the file, as it commits the
    # rows before it drops the old key.
    session = object_session(collection)
    query = select(Collection.account_key_encrypted).filter_by(id=collection.id)
    stored = session.scalar(query) if session else None
    _cipher.cache_clear()
    try:
        return _decrypted(stored or collection.account_key_encrypted)
    except InvalidToken:
        raise _encrypted_otherwise(collection.name) from None


def _decrypted(account_key_encrypted: bytes) -> SecretStr:
    return SecretStr(_cipher().decrypt(account_key_encrypted).decode())


def _encrypted_otherwise(name: str) -> UserError:
    if get_settings().secret_key is not None:
        return UserError(
            f'The account key of collection "{name}" was encrypted with another key than that of '
            f"{KEY_VARIABLE}: set the right one, and start again what runs."
        )
    return UserError(
        f'The account key of collection "{name}" was encrypted with another key file: '
        f"put the right {KEY_FILE} back into {get_settings().home}, or set {KEY_VARIABLE}."
    )


@dataclass(frozen=True)
class Reencrypted:
    """How many account keys a rotation has encrypted anew, and how many it had to leave as they are:
    those of collections marked for deletion whose key was lost before."""

    done: int
    left: int


@dataclass(frozen=True)
class KeyRotation:
    """A change of the encryption key that is under way."""

    keys: Sequence[bytes] = field(repr=False)
    """The new key and then those before it."""
    file: Path | None
    """The key file; None when the keys come from the environment, which only the operator can change."""
    completes_another: bool
    """Whether the new key stood there already: an earlier rotation was interrupted, or the operator put
    it there."""

    def reencrypt(self, session: Session) -> Reencrypted:
        """Encrypt every collection's account key with the new key, once both stand in the key file.

        Nobody else adds or changes a collection until the transaction ends. Raises `UserError` before
        anything is changed when a collection in use has an account key that none of the keys decrypts, or
        the key file cannot be written.
        """
        # Unlike a stronger lock it lets chains go on, whose rows refer to their collection's.
        session.execute(text("LOCK TABLE collections IN SHARE ROW EXCLUSIVE MODE"))
        cipher = _cipher_of(self.keys)
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
                    raise _encrypted_otherwise(row.name) from None
        if self.file is not None:
            _replace_key_file(self.file, self.keys)
        if changes:
            session.execute(update(Collection), changes)
        return Reencrypted(done=len(changes), left=len(rows) - len(changes))


@contextmanager
def key_rotation() -> Iterator[KeyRotation]:
    """Change the encryption key: within the block call `reencrypt` and commit. Afterwards the key file
    holds the new key alone.

    When the block fails, or is killed, the key file decrypts every account key as before; a rotation later
    completes this one. One rotation of a key file at a time: `UserError` when another is under way, when
    the key file cannot be read or written, and when the environment brings a single key.
    """
    if get_settings().secret_key is not None:
        yield _rotation_of_environment()
        return
    # Where a link leads to: replaced is the file itself.
    path = _key_file().resolve()
    with _turn_at(path):
        keys = _keys_at_hand()
        interrupted = len(keys) > 1
        rotation = KeyRotation(keys if interrupted else [Fernet.generate_key(), *keys], path, interrupted)
        yield rotation
        _replace_key_file(path, rotation.keys[:1])


def _rotation_of_environment() -> KeyRotation:
    keys = _keys_at_hand()
    if len(keys) == 1:
        raise UserError(
            f"The key comes from {KEY_VARIABLE}, which only you can change: make a new key "
            "(openssl rand -base64 32 | tr +/ -_), put it and a comma before the old one wherever Accession "
            "runs, start the workers again, and then run `accession collections rotate-key` once more."
        )
    return KeyRotation(keys, None, True)


@contextmanager
def _turn_at(path: Path) -> Iterator[None]:
    """Be the only rotation of this key file; the kernel ends that with the process."""
    try:
        # Its folder, because the file itself is replaced.
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"The key in {path} is being changed by another rotation: wait for its end."
            ) from None
        yield
    finally:
        os.close(folder)


def _replace_key_file(path: Path, keys: Iterable[bytes]) -> None:
    """Afterwards the file holds these keys, in one step; it has mode 600 and the owner that it had."""
    draft = path.with_name(f".{path.name}.rotated")
    try:
        # Left by a rotation that was killed; there is one at a time.
        draft.unlink(missing_ok=True)
        owner = path.stat()
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        _write_to_disk(handle, keys)
        if owner.st_uid != os.geteuid():
            os.chown(draft, owner.st_uid, owner.st_gid)
        draft.replace(path)
        settle(path.parent)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise UserError(
            f"The key file {path} cannot be written ({error.strerror}): make it and its folder writable, "
            "and run `accession collections rotate-key` again."
        ) from None
    _cipher.cache_clear()
