"""Rotation of the encryption key, also when it is interrupted or disturbed by others."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts import keys
from accession.accounts.collections import (
    add_collection,
    change_account,
    find_collection,
    mark_for_deletion,
)
from accession.accounts.keys import (
    KEY_FILE,
    KeyRotation,
    ReencryptionResult,
    decrypt_account_key,
    key_rotation,
)
from accession.core.errors import UserError
from accession.db.engine import engine, transaction
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.factories import (
    ACCOUNT_KEY,
    BackgroundThread,
    make_account,
    make_collection,
    wait_for_blocked,
)
from tests.fixtures.keys import KEY_FILE_DAMAGE, set_secret_key
from tests.fixtures.machine import as_root

KEY_LINE_BYTES = 45


def rotate() -> tuple[KeyRotation, ReencryptionResult]:
    with key_rotation() as rotation, transaction() as session:
        result = rotation.reencrypt(session)
    return rotation, result


def rotate_like_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotate without touching the keys that this process has cached."""
    with monkeypatch.context() as patch:
        patch.setattr(keys, "_cipher", cache(keys._cipher.__wrapped__))
        rotate()


def keys_in(home: Path) -> list[bytes]:
    return (home / KEY_FILE).read_bytes().split()


def stored_account_keys() -> dict[str, bytes]:
    """Return the encrypted account keys by name of the collection."""
    with transaction() as session:
        query = select(Collection.name, Collection.account_key_encrypted)
        return {row.name: row.account_key_encrypted for row in session.execute(query)}


def decrypt_all(key: bytes) -> set[str]:
    """Decrypt every stored account key with this encryption key alone."""
    return {Fernet(key).decrypt(encrypted).decode() for encrypted in stored_account_keys().values()}


def test_rotation_reencrypts_all_with_new_key(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    deleted = make_collection(session, "Birch Library")
    mark_for_deletion(deleted)
    session.commit()
    (old,) = keys_in(home)

    rotation, result = rotate()

    (new,) = keys_in(home)
    assert new != old
    assert decrypt_all(new) == {ACCOUNT_KEY}
    assert result == ReencryptionResult(reencrypted=2, skipped=0)
    assert not rotation.is_resumed
    assert repr(rotation).find(new.decode()) == -1
    for encrypted in stored_account_keys().values():
        with pytest.raises(InvalidToken):
            Fernet(old).decrypt(encrypted)


def test_rotation_leaves_private_key_file_and_no_draft(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    (home / f".{KEY_FILE}.rotated").write_text("draft of a killed rotation")
    (home / KEY_FILE).chmod(0o644)

    rotate()

    assert [file.name for file in home.iterdir()] == [KEY_FILE]
    assert (home / KEY_FILE).stat().st_mode & 0o777 == 0o600


@as_root
def test_rotation_by_root_keeps_owner_of_key_file(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    os.chown(home / KEY_FILE, 4711, 4712)

    rotate()

    owner = (home / KEY_FILE).stat()
    assert (owner.st_uid, owner.st_gid) == (4711, 4712)


def test_rotation_of_linked_key_file_replaces_the_target(
    session: Session, home: Path, tmp_path: Path
) -> None:
    make_collection(session, "Alder Library")
    target = tmp_path / "keys" / "accession"
    target.parent.mkdir()
    (home / KEY_FILE).rename(target)
    (home / KEY_FILE).symlink_to(target)
    before = target.read_bytes()

    rotate()

    assert (home / KEY_FILE).is_symlink()
    assert target.read_bytes() != before
    assert decrypt_all(target.read_bytes().strip()) == {ACCOUNT_KEY}


def test_rotation_without_collections_changes_the_key(session: Session, home: Path) -> None:
    keys.ensure_key_file()
    before = keys_in(home)

    assert rotate()[1] == ReencryptionResult(reencrypted=0, skipped=0)
    assert keys_in(home) != before


def test_worker_with_cached_old_key_reads_the_file_again(
    session: Session, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = make_collection(session, "Alder Library")
    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY

    rotate_like_another_process(monkeypatch)
    session.expire_all()

    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY


def test_worker_with_stale_row_reads_the_row_again(session: Session, home: Path) -> None:
    """The worker has loaded the row before the rotation, and reads the key file after it."""
    collection = make_collection(session, "Alder Library")
    assert collection.name

    rotate()

    before = collection.account_key_encrypted
    assert before != stored_account_keys()["Alder Library"]
    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY


def test_changes_during_rotation_use_the_new_key(
    session: Session, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changes begin after the rotation has read the account keys, before it writes the key file."""
    make_collection(session, "Alder Library")
    replace = keys._replace_key_file
    threads: list[BackgroundThread] = []

    def add() -> None:
        with transaction() as other:
            add_collection(other, make_account("Birch Library"))

    def change() -> None:
        with transaction() as other:
            alder = find_collection(other, "Alder Library")
            change_account(other, alder, account_key=SecretStr("another"))

    def start_changes_and_replace(path: Path, new_keys: Iterable[bytes]) -> None:
        if not threads:
            threads.extend([BackgroundThread(add), BackgroundThread(change)])
            with engine().connect() as connection:
                wait_for_blocked(connection, 2)
        replace(path, new_keys)

    monkeypatch.setattr(keys, "_replace_key_file", start_changes_and_replace)
    rotate()
    for thread in threads:
        thread.finish()

    (new,) = keys_in(home)
    assert decrypt_all(new) == {ACCOUNT_KEY, "another"}
    assert Fernet(new).decrypt(stored_account_keys()["Alder Library"]) == b"another"


def test_rotation_waits_for_uncommitted_collection(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    add_collection(session, make_account("Birch Library"))

    thread = BackgroundThread(rotate)
    with engine().connect() as connection:
        wait_for_blocked(connection, 1)
    session.commit()
    thread.finish()

    (new,) = keys_in(home)
    assert set(stored_account_keys()) == {"Alder Library", "Birch Library"}
    assert decrypt_all(new) == {ACCOUNT_KEY}


def test_second_concurrent_rotation_is_refused(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    with key_rotation() as first:
        with pytest.raises(UserError, match=r"^Another rotation of the key in .* is in progress: wait"):
            rotate()
        with transaction() as own:
            first.reencrypt(own)

    assert decrypt_all(keys_in(home)[0]) == {ACCOUNT_KEY}
    rotate()
    assert decrypt_all(keys_in(home)[0]) == {ACCOUNT_KEY}


KILL_AT_EACH_LINE = """
import os, signal, sys
from sqlalchemy import select
from accession.accounts import keys
from accession.core import fs
from accession.db.engine import engine, transaction
from accession.db.models import Collection

TRACED = {
    keys.key_rotation.__wrapped__.__code__,
    keys.KeyRotation.reencrypt.__code__,
    keys._replace_key_file.__code__,
    keys._write_key_file.__code__,
    fs.atomic_write.__wrapped__.__code__,
    fs.fsync_directory.__code__,
}

def rotate():
    with keys.key_rotation() as rotation, transaction() as session:
        rotation.reencrypt(session)
    return rotation

def rotate_until(line):
    lines_left = line
    def trace(frame, event, argument):
        nonlocal lines_left
        if frame.f_code not in TRACED:
            return None
        if event == "line":
            lines_left -= 1
            if lines_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    rotate()
    sys.settrace(None)

def check(line):
    with transaction() as session:
        for collection in session.scalars(select(Collection)):
            assert keys.decrypt_account_key(collection).get_secret_value() == sys.argv[1], line
    key_count = len((keys.get_settings().home / keys.KEY_FILE).read_bytes().split())
    assert rotate().is_resumed is (key_count == 2), line
    assert len((keys.get_settings().home / keys.KEY_FILE).read_bytes().split()) == 1, line
    return key_count

def rotate_in_child(line):
    child = os.fork()
    if child == 0:
        try:
            # The connections are those of this process, which remains.
            engine().dispose(close=False)
            rotate_until(line)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]

# Warm up the caches once, so that not every child has to.
rotate()
line = 1
while (status := rotate_in_child(line)) == signal.SIGKILL:
    print(check(line), end=" ", flush=True)
    line += 1
sys.exit(status)
"""


def test_rotation_killed_at_any_line_is_completed_by_next(
    session: Session, home: Path, servers: ServerUrls
) -> None:
    make_collection(session, "Alder Library")
    make_collection(session, "Birch Library")

    process = subprocess.run(
        [sys.executable, "-c", KILL_AT_EACH_LINE, ACCOUNT_KEY],
        env=os.environ | {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert process.returncode == 0, process.stderr
    # It was killed before, between and after the two changes of the key file.
    key_counts = process.stdout.split()
    assert len(key_counts) > 30
    phases = [
        first for first, second in zip(key_counts, [*key_counts[1:], ""], strict=True) if first != second
    ]
    assert phases == ["1", "2", "1"]
    assert decrypt_all(keys_in(home)[0]) == {ACCOUNT_KEY}


def test_rotation_uses_new_key_that_operator_put_first(session: Session, home: Path) -> None:
    """With a copy of the key file on each of several machines, all get both keys before the rotation."""
    make_collection(session, "Alder Library")
    (old,) = keys_in(home)
    new = Fernet.generate_key()
    (home / KEY_FILE).write_bytes(new + b"\n" + old + b"\n")

    rotation, _ = rotate()

    assert rotation.is_resumed
    assert keys_in(home) == [new]
    assert decrypt_all(new) == {ACCOUNT_KEY}


def test_undecryptable_account_key_stops_rotation(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    birch = make_collection(session, "Birch Library")
    birch.account_key_encrypted = Fernet(Fernet.generate_key()).encrypt(b"x")
    session.commit()
    before = (keys_in(home), stored_account_keys())

    with pytest.raises(UserError, match='"Birch Library" was encrypted with another key file: restore the'):
        rotate()

    assert (keys_in(home), stored_account_keys()) == before


def test_rotation_skips_lost_key_of_deleted_collection(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    deleted = make_collection(session, "Birch Library")
    deleted.account_key_encrypted = Fernet(Fernet.generate_key()).encrypt(b"x")
    mark_for_deletion(deleted)
    session.commit()
    before = stored_account_keys()["Birch Library"]

    assert rotate()[1] == ReencryptionResult(reencrypted=1, skipped=1)

    assert stored_account_keys()["Birch Library"] == before
    assert Fernet(keys_in(home)[0]).decrypt(stored_account_keys()["Alder Library"]).decode() == ACCOUNT_KEY


@pytest.mark.parametrize("failing_write", [2, 1], ids=["adding the new key", "removing the old key"])
def test_full_disk_during_rotation_loses_no_key(
    session: Session, home: Path, monkeypatch: pytest.MonkeyPatch, failing_write: int
) -> None:
    """`failing_write` is the number of keys in the key file that cannot be written."""
    collection = make_collection(session, "Alder Library")
    make_collection(session, "Birch Library")
    fsync = os.fsync

    def fail(handle: int) -> None:
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode) and status.st_size == failing_write * KEY_LINE_BYTES:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): make it and"):
        rotate()

    assert len(keys_in(home)) == (1 if failing_write == 2 else 2)
    assert [file.name for file in home.iterdir()] == [KEY_FILE]
    session.expire_all()
    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY
    monkeypatch.undo()
    rotate()
    assert decrypt_all(keys_in(home)[0]) == {ACCOUNT_KEY}


@pytest.mark.parametrize("damage", KEY_FILE_DAMAGE)
def test_damaged_key_file_stops_rotation_and_changes(
    session: Session, home: Path, damage: Callable[[Path], None]
) -> None:
    collection = make_collection(session, "Alder Library")
    damage(home / KEY_FILE)
    keys._cipher.cache_clear()
    before = stored_account_keys()

    with pytest.raises(UserError) as error:
        rotate()
    assert KEY_FILE_DAMAGE[damage] in str(error.value)
    with pytest.raises(UserError) as error:
        change_account(session, collection, account_key=SecretStr("another"))
    assert KEY_FILE_DAMAGE[damage] in str(error.value)

    session.rollback()
    assert stored_account_keys() == before


def test_rotation_without_home_is_refused(session: Session, home: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)"):
        rotate()


def test_rotation_with_two_keys_in_environment_uses_the_first(session: Session, home: Path) -> None:
    new, old = (Fernet.generate_key().decode() for _ in range(2))
    set_secret_key(old)
    make_collection(session, "Alder Library")
    set_secret_key(f"{new},{old}")

    rotation, result = rotate()

    assert (rotation.file, result) == (None, ReencryptionResult(reencrypted=1, skipped=0))
    assert decrypt_all(new.encode()) == {ACCOUNT_KEY}
    assert not home.exists()


def test_rotation_of_single_key_in_environment_is_refused(session: Session, home: Path) -> None:
    set_secret_key(Fernet.generate_key().decode())
    make_collection(session, "Alder Library")
    before = stored_account_keys()

    with pytest.raises(UserError, match="which only you can change: create a new key") as error:
        rotate()

    assert stored_account_keys() == before
    assert "\n" not in str(error.value)


def test_documented_command_creates_valid_key(home: Path) -> None:
    process = subprocess.run(
        ["bash", "-c", "openssl rand -base64 32 | tr +/ -_"], capture_output=True, text=True, check=True
    )
    set_secret_key(process.stdout)

    assert keys.encrypt_secret(SecretStr("abc"))
