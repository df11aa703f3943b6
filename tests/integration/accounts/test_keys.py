"""Account keys: never in the clear at rest, and one key file however many start at once."""

import stat
import threading
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts import keys
from accession.accounts.keys import KEY_FILE, decrypt_account_key, encrypt_account_key, ensure_key_file
from accession.core.errors import UserError
from accession.core.settings import get_settings, use_settings
from accession.db.models import Collection
from tests.fixtures.factories import ACCOUNT_KEY, TIMEOUT_SECONDS, make_collection, run_concurrently


def use_key_of_environment(key: str) -> None:
    use_settings(get_settings().model_copy(update={"secret_key": SecretStr(key)}))
    keys._cipher.cache_clear()


def test_what_lies_in_the_table_does_not_hold_the_key(session: Session, home: Path) -> None:
    collection = make_collection(session, "Alder Library")

    stored = session.scalar(select(Collection.account_key_encrypted))

    assert stored is not None
    assert ACCOUNT_KEY.encode() not in stored
    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY
    assert ACCOUNT_KEY not in repr(decrypt_account_key(collection))


def test_the_same_key_twice_does_not_look_the_same(home: Path) -> None:
    assert encrypt_account_key(SecretStr("abc")) != encrypt_account_key(SecretStr("abc"))


def test_the_key_file_is_made_on_first_use_for_its_owner_alone(home: Path) -> None:
    encrypt_account_key(SecretStr("abc"))

    (file,) = home.iterdir()
    assert file.name == KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_key_file_is_made_once(home: Path) -> None:
    ensure_key_file()
    before = (home / KEY_FILE).read_bytes()

    ensure_key_file()

    assert (home / KEY_FILE).read_bytes() == before


def test_programs_that_start_at_once_agree_on_one_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them have found no key file, and each has made a key, before the first puts its own there."""
    all_made = threading.Barrier(8, timeout=TIMEOUT_SECONDS)
    made: list[bytes] = []
    seen: list[bytes] = []
    generate = Fernet.generate_key

    def generate_together() -> bytes:
        made.append(generate())
        all_made.wait()
        return made[-1]

    monkeypatch.setattr(Fernet, "generate_key", generate_together)

    def start() -> None:
        ensure_key_file()
        seen.append((home / KEY_FILE).read_bytes())

    run_concurrently(*[start] * 8)

    assert len(set(made)) == 8
    assert len(set(seen)) == 1
    assert [file.name for file in home.iterdir()] == [KEY_FILE]


def test_another_key_file_is_told_as_such(session: Session, home: Path) -> None:
    collection = make_collection(session, "Alder Library")
    (home / KEY_FILE).write_bytes(Fernet.generate_key())
    keys._cipher.cache_clear()

    with pytest.raises(UserError, match='"Alder Library" was encrypted with another key file') as error:
        decrypt_account_key(collection)
    assert str(home) in str(error.value)


def test_a_collection_is_not_added_under_another_key_than_the_others(session: Session, home: Path) -> None:
    """Nor is a key file made in the place of one that is gone: the others' account keys need the old one."""
    make_collection(session, "Alder Library")
    (home / KEY_FILE).unlink()
    keys._cipher.cache_clear()

    with pytest.raises(UserError, match="put it back from your backup"):
        make_collection(session, "Birch Library")
    assert not (home / KEY_FILE).exists()


def test_a_key_file_that_is_gone_is_told_as_such(session: Session, home: Path) -> None:
    collection = make_collection(session, "Alder Library")
    (home / KEY_FILE).unlink()
    keys._cipher.cache_clear()

    with pytest.raises(UserError, match=r"cannot be read .No such file or directory.: put it back"):
        decrypt_account_key(collection)


@pytest.mark.parametrize("broken", [b"too short", b"\xff" * 44, b"A" * 44, b"A" * 43 + b"=\nhalf"])
def test_a_broken_key_file_is_told_as_such(home: Path, broken: bytes) -> None:
    home.mkdir()
    (home / KEY_FILE).write_bytes(broken)

    with pytest.raises(UserError, match="is not 32 bytes in URL-safe base64") as error:
        encrypt_account_key(SecretStr("abc"))
    assert str(home / KEY_FILE) in str(error.value)


@pytest.mark.parametrize("empty", [b"", b"\n \n"])
def test_an_empty_key_file_is_told_as_such(home: Path, empty: bytes) -> None:
    home.mkdir()
    (home / KEY_FILE).write_bytes(empty)

    with pytest.raises(UserError, match=f"There is no key in {home / KEY_FILE}: put the right one back"):
        encrypt_account_key(SecretStr("abc"))


def test_a_home_that_cannot_hold_a_key_file_is_told_as_such(home: Path) -> None:
    home.write_text("a file where the folder should be")

    with pytest.raises(UserError, match=r"The key file .* cannot be made .*: make .* writable"):
        encrypt_account_key(SecretStr("abc"))


def test_a_key_of_the_environment_leaves_the_home_alone(session: Session, home: Path) -> None:
    use_key_of_environment(Fernet.generate_key().decode())

    collection = make_collection(session, "Alder Library")

    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY
    assert not home.exists()


def test_an_empty_key_of_the_environment_is_told_as_such(home: Path) -> None:
    use_key_of_environment(" , ")

    with pytest.raises(UserError, match="There is no key in ACCESSION_SECRET_KEY"):
        encrypt_account_key(SecretStr("abc"))


@pytest.mark.parametrize("between", [",", " ", ", ", "\n"])
def test_of_several_keys_of_the_environment_the_first_encrypts_and_any_decrypts(
    session: Session, home: Path, between: str
) -> None:
    new, old = (Fernet.generate_key().decode() for _ in range(2))
    use_key_of_environment(old)
    collection = make_collection(session, "Alder Library")

    use_key_of_environment(f"{new}{between}{old}")

    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY
    assert Fernet(new).decrypt(encrypt_account_key(SecretStr("abc"))) == b"abc"


def test_another_key_of_the_environment_is_told_as_such(session: Session, home: Path) -> None:
    collection = make_collection(session, "Alder Library")
    use_key_of_environment(Fernet.generate_key().decode())

    with pytest.raises(UserError, match="than that of ACCESSION_SECRET_KEY: set the right one, and start"):
        decrypt_account_key(collection)


def test_a_broken_key_of_the_environment_is_named_and_not_shown(home: Path) -> None:
    use_key_of_environment("not-a-key")

    with pytest.raises(UserError, match="The key in ACCESSION_SECRET_KEY is not") as error:
        encrypt_account_key(SecretStr("abc"))
    assert "not-a-key" not in str(error.value)
