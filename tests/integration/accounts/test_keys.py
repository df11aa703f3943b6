"""Account keys are stored encrypted, with keys from the home or the environment."""

import stat
import threading
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts import keys
from accession.accounts.keys import KEY_FILE, decrypt_account_key, encrypt_secret, ensure_key_file
from accession.core.errors import UserError
from accession.db.models import Collection
from tests.fixtures.factories import ACCOUNT_KEY, TIMEOUT_SECONDS, make_collection, run_concurrently
from tests.fixtures.keys import set_secret_key


def test_stored_account_key_is_encrypted(session: Session, home: Path) -> None:
    collection = make_collection(session, "Alder Library")

    stored = session.scalar(select(Collection.account_key_encrypted))

    assert stored is not None
    assert ACCOUNT_KEY.encode() not in stored
    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY
    assert ACCOUNT_KEY not in repr(decrypt_account_key(collection))


def test_encrypting_the_same_key_twice_differs(home: Path) -> None:
    assert encrypt_secret(SecretStr("abc")) != encrypt_secret(SecretStr("abc"))


def test_key_file_is_created_on_first_use_with_mode_600(home: Path) -> None:
    encrypt_secret(SecretStr("abc"))

    (file,) = home.iterdir()
    assert file.name == KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_existing_key_file_is_kept(home: Path) -> None:
    ensure_key_file()
    before = (home / KEY_FILE).read_bytes()

    ensure_key_file()

    assert (home / KEY_FILE).read_bytes() == before


def test_concurrent_processes_create_one_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process has generated a key before the first one writes its key file."""
    all_generated = threading.Barrier(8, timeout=TIMEOUT_SECONDS)
    generated: list[bytes] = []
    read: list[bytes] = []
    generate = Fernet.generate_key

    def generate_together() -> bytes:
        key = generate()
        generated.append(key)
        all_generated.wait()
        return key

    monkeypatch.setattr(Fernet, "generate_key", generate_together)

    def start() -> None:
        ensure_key_file()
        read.append((home / KEY_FILE).read_bytes())

    run_concurrently(*[start] * 8)

    assert len(set(generated)) == 8
    assert len(set(read)) == 1
    assert [file.name for file in home.iterdir()] == [KEY_FILE]


def test_wrong_key_file_is_reported(session: Session, home: Path) -> None:
    collection = make_collection(session, "Alder Library")
    (home / KEY_FILE).write_bytes(Fernet.generate_key())
    keys._cipher.cache_clear()

    with pytest.raises(UserError, match='"Alder Library" was encrypted with another key file') as error:
        decrypt_account_key(collection)
    assert str(home) in str(error.value)


def test_collection_is_not_added_without_the_present_key(session: Session, home: Path) -> None:
    """A new key file must not replace a lost one, which the other account keys need."""
    make_collection(session, "Alder Library")
    (home / KEY_FILE).unlink()
    keys._cipher.cache_clear()

    with pytest.raises(UserError, match="restore it from your backup"):
        make_collection(session, "Birch Library")
    assert not (home / KEY_FILE).exists()


def test_missing_key_file_is_reported(session: Session, home: Path) -> None:
    collection = make_collection(session, "Alder Library")
    (home / KEY_FILE).unlink()
    keys._cipher.cache_clear()

    with pytest.raises(UserError, match=r"cannot be read .No such file or directory.: restore it"):
        decrypt_account_key(collection)


@pytest.mark.parametrize("content", [b"too short", b"\xff" * 44, b"A" * 44, b"A" * 43 + b"=\nhalf"])
def test_invalid_key_file_is_reported(home: Path, content: bytes) -> None:
    home.mkdir()
    (home / KEY_FILE).write_bytes(content)

    with pytest.raises(UserError, match="is not 32 bytes in URL-safe base64") as error:
        encrypt_secret(SecretStr("abc"))
    assert str(home / KEY_FILE) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_key_file_is_reported(home: Path, content: bytes) -> None:
    home.mkdir()
    (home / KEY_FILE).write_bytes(content)

    with pytest.raises(UserError, match=f"There is no key in {home / KEY_FILE}: restore it"):
        encrypt_secret(SecretStr("abc"))


def test_unwritable_home_is_reported(home: Path) -> None:
    home.write_text("a file instead of the folder")

    with pytest.raises(UserError, match=r"The key file .* cannot be created .*: make .* writable"):
        encrypt_secret(SecretStr("abc"))


def test_key_in_environment_creates_no_key_file(session: Session, home: Path) -> None:
    set_secret_key(Fernet.generate_key().decode())

    collection = make_collection(session, "Alder Library")

    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY
    assert not home.exists()


def test_empty_key_in_environment_is_reported(home: Path) -> None:
    set_secret_key(" , ")

    with pytest.raises(UserError, match="There is no key in ACCESSION_SECRET_KEY"):
        encrypt_secret(SecretStr("abc"))


@pytest.mark.parametrize("separator", [",", " ", ", ", "\n"])
def test_first_key_in_environment_encrypts_and_all_decrypt(
    session: Session, home: Path, separator: str
) -> None:
    new, old = (Fernet.generate_key().decode() for _ in range(2))
    set_secret_key(old)
    collection = make_collection(session, "Alder Library")

    set_secret_key(f"{new}{separator}{old}")

    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY
    assert Fernet(new).decrypt(encrypt_secret(SecretStr("abc"))) == b"abc"


def test_wrong_key_in_environment_is_reported(session: Session, home: Path) -> None:
    collection = make_collection(session, "Alder Library")
    set_secret_key(Fernet.generate_key().decode())

    with pytest.raises(UserError, match="than that in ACCESSION_SECRET_KEY: set the right one, and restart"):
        decrypt_account_key(collection)


def test_invalid_key_in_environment_is_not_disclosed(home: Path) -> None:
    set_secret_key("not-a-key")

    with pytest.raises(UserError, match="The key in ACCESSION_SECRET_KEY is not") as error:
        encrypt_secret(SecretStr("abc"))
    assert "not-a-key" not in str(error.value)
