"""A new encryption key: whatever happens in between, every account key can be decrypted, and in the end
with the new key alone."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, InvalidToken
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts import keys
from accession.accounts.account import Account
from accession.accounts.collections import add_collection, find_collection, mark_for_deletion, set_account_key
from accession.accounts.keys import KEY_FILE, KeyRotation, ReencryptionResult, decrypt_account_key, key_rotation
from accession.core.errors import UserError
from accession.db.engine import engine, transaction
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.factories import ACCOUNT_KEY, BackgroundThread, make_collection, wait_for_blocked
from tests.fixtures.machine import as_root
from tests.integration.accounts.test_keys import use_key_of_environment


def rotate() -> tuple[KeyRotation, ReencryptionResult]:
    with key_rotation() as rotation, transaction() as session:
        done = rotation.reencrypt(session)
    return rotation, done


def rotate_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process does it: this one goes on with the keys that it has read before."""
    with monkeypatch.context() as patch:
        patch.setattr(keys, "_cipher", cache(keys._cipher.__wrapped__))
        rotate()


def keys_in(home: Path) -> list[bytes]:
    return (home / KEY_FILE).read_bytes().split()


def stored() -> dict[str, bytes]:
    """By name of collection, what lies in the table."""
    with transaction() as session:
        query = select(Collection.name, Collection.account_key_encrypted)
        return {row.name: row.account_key_encrypted for row in session.execute(query)}


def all_decrypted_with(key: bytes) -> set[str]:
    """The account keys, each of which this encryption key alone decrypts."""
    return {Fernet(key).decrypt(encrypted).decode() for encrypted in stored().values()}


def test_afterwards_a_new_key_alone_decrypts_every_account_key(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    leaving = make_collection(session, "Birch Library")
    mark_for_deletion(leaving)
    session.commit()
    (old,) = keys_in(home)

    rotation, done = rotate()

    (new,) = keys_in(home)
    assert new != old
    assert all_decrypted_with(new) == {ACCOUNT_KEY}
    assert done == ReencryptionResult(done=2, left=0)
    assert not rotation.completes_another
    assert repr(rotation).find(new.decode()) == -1
    for encrypted in stored().values():
        with pytest.raises(InvalidToken):
            Fernet(old).decrypt(encrypted)


def test_the_key_file_stays_its_owners_alone_and_nothing_is_left_beside_it(
    session: Session, home: Path
) -> None:
    make_collection(session, "Alder Library")
    (home / f".{KEY_FILE}.rotated").write_text("left by a rotation that was killed")
    (home / KEY_FILE).chmod(0o644)

    rotate()

    assert [file.name for file in home.iterdir()] == [KEY_FILE]
    assert (home / KEY_FILE).stat().st_mode & 0o777 == 0o600


@as_root
def test_a_key_file_that_root_rotates_stays_the_one_who_owned_it(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    os.chown(home / KEY_FILE, 4711, 4712)

    rotate()

    owner = (home / KEY_FILE).stat()
    assert (owner.st_uid, owner.st_gid) == (4711, 4712)


def test_a_key_file_elsewhere_that_the_home_links_to_is_changed_where_it_is(
    session: Session, home: Path, tmp_path: Path
) -> None:
    make_collection(session, "Alder Library")
    place = tmp_path / "keys" / "accession"
    place.parent.mkdir()
    (home / KEY_FILE).rename(place)
    (home / KEY_FILE).symlink_to(place)
    before = place.read_bytes()

    rotate()

    assert (home / KEY_FILE).is_symlink()
    assert place.read_bytes() != before
    assert all_decrypted_with(place.read_bytes().strip()) == {ACCOUNT_KEY}


def test_without_a_collection_the_key_is_changed_all_the_same(session: Session, home: Path) -> None:
    keys.ensure_key_file()
    before = keys_in(home)

    assert rotate()[1] == ReencryptionResult(done=0, left=0)
    assert keys_in(home) != before


def test_a_worker_that_has_read_the_old_key_reads_the_file_once_more(
    session: Session, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = make_collection(session, "Alder Library")
    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY

    rotate_elsewhere(monkeypatch)
    session.expire_all()

    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY


def test_a_worker_that_has_read_the_row_before_reads_it_once_more(session: Session, home: Path) -> None:
    """It first reads the key file when the old key is gone from there."""
    collection = make_collection(session, "Alder Library")
    assert collection.name

    rotate()

    before = collection.account_key_encrypted
    assert before != stored()["Alder Library"]
    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY


def test_whoever_adds_a_collection_while_the_key_changes_uses_the_new_one(
    session: Session, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when the rotation has read the account keys, and before the key file has the new key."""
    make_collection(session, "Alder Library")
    replace = keys._replace_key_file
    others: list[BackgroundThread] = []

    def add() -> None:
        with transaction() as own:
            make_collection_in(own, "Birch Library")

    def change() -> None:
        with transaction() as own:
            set_account_key(own, find_collection(own, "Alder Library"), SecretStr("another"))

    def somebody_comes(path: Path, keys_: Iterable[bytes]) -> None:
        if not others:
            others.extend([BackgroundThread(add), BackgroundThread(change)])
            with engine().connect() as connection:
                wait_for_blocked(connection, 2)
        replace(path, keys_)

    monkeypatch.setattr(keys, "_replace_key_file", somebody_comes)
    rotate()
    for other in others:
        other.finish()

    (new,) = keys_in(home)
    assert all_decrypted_with(new) == {ACCOUNT_KEY, "another"}
    assert Fernet(new).decrypt(stored()["Alder Library"]) == b"another"


def make_collection_in(session: Session, name: str) -> Collection:
    return add_collection(
        session,
        Account(
            collection=name,
            library_id="alder",
            account_id="library.alder",
            account_key=SecretStr(ACCOUNT_KEY),
            base_url="http://127.0.0.1:9",
        ),
    )


def test_a_collection_that_is_being_added_is_waited_for(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    make_collection_in(session, "Birch Library")

    job = BackgroundThread(rotate)
    with engine().connect() as connection:
        wait_for_blocked(connection, 1)
    session.commit()
    job.finish()

    (new,) = keys_in(home)
    assert set(stored()) == {"Alder Library", "Birch Library"}
    assert all_decrypted_with(new) == {ACCOUNT_KEY}


def test_of_two_rotations_at_once_the_second_is_refused(session: Session, home: Path) -> None:
    make_collection(session, "Alder Library")
    with key_rotation() as first:
        with pytest.raises(UserError, match=r"is being changed by another rotation: wait for its end\.$"):
            rotate()
        with transaction() as own:
            first.reencrypt(own)

    assert all_decrypted_with(keys_in(home)[0]) == {ACCOUNT_KEY}
    rotate()
    assert all_decrypted_with(keys_in(home)[0]) == {ACCOUNT_KEY}


KILLED_AT_EACH_LINE = """
import os, signal, sys
from sqlalchemy import select
from accession.catalog import keys
from accession.catalog.models import Collection
from accession.db.engine import engine, transaction

STEPS = {
    keys.key_rotation.__wrapped__.__code__,
    keys.KeyRotation.reencrypt.__code__,
    keys._replace_key_file.__code__,
    keys._write_to_disk.__code__,
    keys.settle.__code__,
}

def rotate():
    with keys.key_rotation() as rotation, transaction() as session:
        rotation.reencrypt(session)
    return rotation

def rotate_until(line):
    left = line
    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code not in STEPS:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    rotate()
    sys.settrace(None)

def look(line):
    with transaction() as session:
        for collection in session.scalars(select(Collection)):
            assert keys.account_key_of(collection).get_secret_value() == sys.argv[1], line
    told = len((keys.get_settings().home / keys.KEY_FILE).read_bytes().split())
    assert rotate().completes_another is (told == 2)
    assert len((keys.get_settings().home / keys.KEY_FILE).read_bytes().split()) == 1
    with transaction() as session:
        for collection in session.scalars(select(Collection)):
            keys.account_key_of(collection)
    if line:
        print(told, end=" ", flush=True)

def forked(work, line):
    child = os.fork()
    if child == 0:
        try:
            work(line)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]

# What is done for the first time takes longest, and each child would do it anew.
rotate()
look(0)
engine().dispose()

line = 1
while (ended := forked(rotate_until, line)) == signal.SIGKILL:
    if forked(look, line):
        sys.exit(f"after a kill at line {line}")
    line += 1
sys.exit(ended)
"""


def test_killed_at_any_line_it_leaves_readable_keys_and_is_completed_by_the_next(
    session: Session, home: Path, servers: ServerUrls
) -> None:
    make_collection(session, "Alder Library")
    make_collection(session, "Birch Library")

    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_LINE, ACCOUNT_KEY],
        env=os.environ | {"ACCESSION_DATABASE_URL": servers.database_url, "ACCESSION_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    # It was killed before, between and after the two changes of the key file.
    keys_left = done.stdout.split()
    assert len(keys_left) > 30
    changes = [
        first for first, second in zip(keys_left, [*keys_left[1:], ""], strict=True) if first != second
    ]
    assert changes == ["1", "2", "1"]
    assert all_decrypted_with(keys_in(home)[0]) == {ACCOUNT_KEY}


def test_a_key_that_the_operator_puts_first_is_the_one_that_is_rotated_to(
    session: Session, home: Path
) -> None:
    """As for several machines with a copy of the key file each: all have both keys before any account key
    is encrypted with the new one."""
    make_collection(session, "Alder Library")
    (old,) = keys_in(home)
    new = Fernet.generate_key()
    (home / KEY_FILE).write_bytes(new + b"\n" + old + b"\n")

    rotation, _ = rotate()

    assert rotation.completes_another
    assert keys_in(home) == [new]
    assert all_decrypted_with(new) == {ACCOUNT_KEY}


def test_an_account_key_that_nobody_can_decrypt_stops_it_before_anything_changes(
    session: Session, home: Path
) -> None:
    make_collection(session, "Alder Library")
    make_collection(session, "Birch Library").account_key_encrypted = Fernet(Fernet.generate_key()).encrypt(
        b"x"
    )
    session.commit()
    before = (keys_in(home), stored())

    with pytest.raises(UserError, match='"Birch Library" was encrypted with another key file: put the right'):
        rotate()

    assert (keys_in(home), stored()) == before


def test_a_removed_collection_whose_key_was_lost_long_ago_does_not_stand_in_the_way(
    session: Session, home: Path
) -> None:
    make_collection(session, "Alder Library")
    lost = make_collection(session, "Birch Library")
    lost.account_key_encrypted = Fernet(Fernet.generate_key()).encrypt(b"x")
    mark_for_deletion(lost)
    session.commit()
    before = stored()["Birch Library"]

    assert rotate()[1] == ReencryptionResult(done=1, left=1)

    assert stored()["Birch Library"] == before
    assert Fernet(keys_in(home)[0]).decrypt(stored()["Alder Library"]).decode() == ACCOUNT_KEY


@pytest.mark.parametrize("keys_left", [1, 2])
def test_a_key_file_that_cannot_be_written_is_told_and_every_account_key_stays_readable(
    session: Session, home: Path, monkeypatch: pytest.MonkeyPatch, keys_left: int
) -> None:
    """The disk is full when the new key is to come in, or when the old one is to go."""
    collection = make_collection(session, "Alder Library")
    make_collection(session, "Birch Library")
    write = keys._write_to_disk

    def full(handle: int, content: Sequence[bytes]) -> None:
        if len(content) != keys_left:
            write(handle, content)
            return
        os.close(handle)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys, "_write_to_disk", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): make it and"):
        rotate()

    assert len(keys_in(home)) == (1 if keys_left == 2 else 2)
    assert [file.name for file in home.iterdir()] == [KEY_FILE]
    session.expire_all()
    assert decrypt_account_key(collection).get_secret_value() == ACCOUNT_KEY
    monkeypatch.undo()
    rotate()
    assert all_decrypted_with(keys_in(home)[0]) == {ACCOUNT_KEY}


def lost(file: Path) -> None:
    file.unlink()


def emptied(file: Path) -> None:
    file.write_text("")


def damaged(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def unreadable(file: Path) -> None:
    file.unlink()
    file.mkdir()


def another(file: Path) -> None:
    file.write_bytes(Fernet.generate_key())


BROKEN: dict[Callable[[Path], None], str] = {
    lost: "cannot be read (No such file or directory)",
    emptied: "There is no key in",
    damaged: "is not 32 bytes in URL-safe base64",
    unreadable: "cannot be read (Is a directory)",
    another: "was encrypted with another key file",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_key_file_is_told_and_nothing_changes(
    session: Session, home: Path, broken: Callable[[Path], None]
) -> None:
    collection = make_collection(session, "Alder Library")
    broken(home / KEY_FILE)
    keys._cipher.cache_clear()
    before = stored()

    with pytest.raises(UserError) as refused:
        rotate()
    assert BROKEN[broken] in str(refused.value)
    with pytest.raises(UserError) as refused:
        set_account_key(session, collection, SecretStr("another"))
    assert BROKEN[broken] in str(refused.value)

    session.rollback()
    assert stored() == before


def test_a_home_that_is_not_there_has_no_key_to_change(session: Session, home: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\)"):
        rotate()


def test_with_two_keys_in_the_environment_the_first_takes_over(session: Session, home: Path) -> None:
    new, old = (Fernet.generate_key().decode() for _ in range(2))
    use_key_of_environment(old)
    make_collection(session, "Alder Library")
    use_key_of_environment(f"{new},{old}")

    rotation, done = rotate()

    assert (rotation.file, done) == (None, ReencryptionResult(done=1, left=0))
    assert all_decrypted_with(new.encode()) == {ACCOUNT_KEY}
    assert not home.exists()


def test_a_single_key_of_the_environment_cannot_be_changed_from_here(session: Session, home: Path) -> None:
    use_key_of_environment(Fernet.generate_key().decode())
    make_collection(session, "Alder Library")
    before = stored()

    with pytest.raises(UserError, match="which only you can change: make a new key") as error:
        rotate()

    assert stored() == before
    assert "\n" not in str(error.value)


def test_the_recipe_for_a_new_key_makes_one(home: Path) -> None:
    made = subprocess.run(
        ["bash", "-c", "openssl rand -base64 32 | tr +/ -_"], capture_output=True, text=True, check=True
    )
    use_key_of_environment(made.stdout)

    assert keys.encrypt_account_key(SecretStr("abc"))
