"""Collections: accounts come in, are tried out, and go."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts import keys
from accession.accounts.collections import mark_for_deletion
from accession.accounts.keys import account_key_of
from accession.core.settings import get_settings
from accession.db.models import Collection
from accession.sandbox.server import RunningSandbox
from tests.fixtures.commands import Answer, Run, customer, environment, process, serving, settings
from tests.fixtures.factories import ACCOUNT_KEY, make_collection, make_pool

KEY = "s3cret-of-alder"
FIELDS = {"name", "library_id", "account_id", "base_url", "titles", "created_at"}


def add(run: Run, name: str, *more: str, typed: str = "") -> Answer:
    return run(
        "collections",
        "add",
        name,
        "--library-id",
        "alder",
        "--account-id",
        "library.alder",
        *more,
        typed=typed,
    )


def key_of(session: Session, name: str) -> str:
    collection = session.scalars(select(Collection).filter_by(name=name)).one()
    assert KEY.encode() not in collection.account_key_encrypted
    return account_key_of(collection).get_secret_value()


@pytest.fixture
def sandbox() -> Iterator[RunningSandbox]:
    with serving() as sandbox:
        yield sandbox


def test_a_collection_is_added_with_the_key_from_a_file(run: Run, session: Session, tmp_path: Path) -> None:
    file = tmp_path / "key"
    # As Windows' editor writes it.
    file.write_text(f"\ufeff{KEY}\r\n", encoding="utf-8")
    answer = add(run, "Alder", "--account-key-file", str(file))
    assert answer.code == 0
    assert answer.out == 'Added "Alder". Next: accession collections test "Alder"\n'
    assert key_of(session, "Alder") == KEY


def test_a_collection_is_added_with_the_key_from_the_environment(
    run: Run, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    assert add(run, "Alder").code == 0
    assert key_of(session, "Alder") == KEY


def test_a_collection_is_added_with_the_key_typed_and_not_shown(run: Run, session: Session) -> None:
    answer = add(run, "Alder", typed=f"{KEY}\n")
    assert answer.code == 0
    assert "Account key" in answer.out
    assert KEY not in answer.out + answer.err
    assert key_of(session, "Alder") == KEY
    collection = session.scalars(select(Collection)).one()
    assert collection.base_url == "https://partner.yourcloudlibrary.com"


def test_whoever_types_no_key_adds_nothing(run: Run, session: Session) -> None:
    answer = add(run, "Alder")
    assert answer.code == 1
    assert "Aborted" in answer.err
    assert session.scalars(select(Collection)).all() == []


def test_the_key_cannot_be_an_argument(run: Run, database: None) -> None:
    assert add(run, "Alder", "--account-key", KEY).code == 2


def test_an_empty_key_is_refused(run: Run, database: None, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("\n")
    assert add(run, "Alder", "--account-key-file", str(file)).sentence == (
        "The account key is empty: copy it from the vendor's account page."
    )


@pytest.mark.parametrize("content", [None, b"\xff\xfes3cret"])
def test_an_unreadable_key_file_is_named_and_not_quoted(
    run: Run, database: None, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    sentence = add(run, "Alder", "--account-key-file", str(file)).sentence
    assert sentence.startswith(f"The account key file {file} cannot be read (")
    assert sentence.count(str(file)) == 1
    assert "0xff" not in sentence


@pytest.mark.parametrize("name", ["", " Alder", "Alder ", "Al\x1bder", "Al\nder"])
def test_a_name_that_nobody_could_type_again_is_refused(
    run: Run, session: Session, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    assert add(run, name).sentence.startswith("A collection cannot be named")
    assert session.scalars(select(Collection)).all() == []


@pytest.mark.parametrize("url", ["http://vendor.example", "http://10.0.0.1", "ftp://localhost", "vendor", ""])
def test_an_unsafe_base_url_is_refused(
    run: Run, session: Session, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    sentence = add(run, "Alder", "--base-url", url).sentence
    assert 'base URL of collection "Alder" is invalid' in sentence
    assert "https://" in sentence
    assert session.scalars(select(Collection)).all() == []


def test_a_name_in_use_is_refused_and_free_again_after_removal(
    run: Run, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    assert add(run, "Alder").code == 0
    assert add(run, "Alder").sentence == (
        'There is a collection named "Alder" already: choose another name, '
        'or remove it with `accession collections remove "Alder"`.'
    )
    assert run("collections", "remove", "Alder", "--yes").code == 0
    assert add(run, "Alder").code == 0


def test_the_list_shows_everything_but_the_key(run: Run, session: Session, collection: Collection) -> None:
    make_pool(session, collection, "abc")
    make_collection(session, "Birch Library")
    table = run("collections", "list")
    assert table.code == 0
    assert [line.split()[0] for line in table.out.splitlines()] == ["Name", "Alder", "Birch"]
    found = run("collections", "list", "--json").json
    assert [(row["name"], row["titles"]) for row in found] == [("Alder Library", 1), ("Birch Library", 0)]
    assert set(found[0]) == FIELDS
    assert found[0]["created_at"].endswith("Z")
    assert "key" not in str(found).lower()


def test_an_empty_list_says_what_to_do_next(run: Run, database: None) -> None:
    assert run("collections", "list").out == (
        "No collections yet. Add one with: accession collections add NAME ...\n"
    )
    assert run("collections", "list", "--json").json == []


def test_a_right_account_is_confirmed(run: Run, session: Session, sandbox: RunningSandbox) -> None:
    customer(session, sandbox)
    answer = run("collections", "test", "Alder Library")
    assert answer.code == 0
    assert answer.out.startswith('The vendor answers for "Alder Library": the account is right')
    assert sandbox.statistics()["requests"]["marc"] == 1


def test_a_wrong_key_is_said(run: Run, session: Session, sandbox: RunningSandbox) -> None:
    customer(session, sandbox)
    sandbox.sandbox.account = type(sandbox.account)(account_key="another")
    sentence = run("collections", "test", "Alder Library").sentence
    assert sentence.startswith(
        'Collection "Alder Library": the vendor refused the credentials; '
        "check the account id and the account key ("
    )
    assert "status 401" in sentence


def test_a_wrong_library_is_said(run: Run, session: Session, sandbox: RunningSandbox) -> None:
    customer(session, sandbox).library_id = "elsewhere"
    session.commit()
    sentence = run("collections", "test", "Alder Library").sentence
    assert sentence.startswith('Collection "Alder Library": the vendor')
    assert "library" in sentence
    assert "status 404" in sentence


def test_nobody_listening_is_said(run: Run, collection: Collection) -> None:
    sentence = run("collections", "test", "Alder Library").sentence
    assert sentence.startswith('Collection "Alder Library": the connection to the vendor failed: ')
    assert "http://127.0.0.1:9/" in sentence


def test_a_clock_that_is_wrong_is_told_from_a_wrong_key(run: Run, session: Session) -> None:
    """The vendor in a process of its own, where it is another time."""
    serve = ("sandbox", "serve", "--port", "0", "--titles", "0")
    with process(*serve, env=environment(PYTHONUNBUFFERED="1")) as vendor:
        assert vendor.stdout is not None
        base_url = vendor.stdout.readline().split()[-1]
        made = make_collection(session, "Alder Library")
        made.library_id, made.account_id, made.base_url = "sandbox", "library.sandbox", base_url
        session.commit()
        with time_machine.travel(datetime.now(UTC) + timedelta(minutes=20)):
            sentence = run("collections", "test", "Alder Library").sentence
    assert "this machine's clock is 20 minutes ahead of the vendor's; set the clock right" in sentence


def test_removal_asks_and_a_no_keeps_the_collection(
    run: Run, session: Session, collection: Collection
) -> None:
    asked = run("collections", "remove", "Alder Library", typed="n\n")
    assert asked.code == 1
    assert 'Mark "Alder Library" for deletion? Its imports stop' in asked.out
    assert len(run("collections", "list", "--json").json) == 1


@pytest.mark.parametrize(("more", "typed"), [((), "y\n"), (("--yes",), "")])
def test_a_removed_collection_is_marked_and_out_of_sight(
    run: Run, session: Session, collection: Collection, more: tuple[str, ...], typed: str
) -> None:
    make_pool(session, collection, "abc")
    answer = run("collections", "remove", "Alder Library", *more, typed=typed)
    assert answer.code == 0
    assert answer.out.endswith('"Alder Library" is marked for deletion.\n')
    session.refresh(collection)
    assert collection.marked_for_deletion_at is not None
    assert run("collections", "list", "--json").json == []
    assert run("titles", "list", "--json").json == []
    assert run("status", "--json").json == []


@pytest.mark.parametrize("verb", ["test", "remove"])
def test_an_unknown_collection_is_said(run: Run, database: None, verb: str) -> None:
    assert run("collections", verb, "Alder").sentence == 'No collection found named "Alder".'


def test_a_collection_whose_key_file_is_gone_says_so(
    run: Run, home: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    assert add(run, "Alder").code == 0
    assert (home / "secret.key").stat().st_mode & 0o777 == 0o600
    os.rename(home / "secret.key", home / "lost.key")
    keys._cipher.cache_clear()
    assert (
        f"The key file {home / 'secret.key'} cannot be read" in run("collections", "test", "Alder").sentence
    )


# A new account key


def set_key(run: Run, name: str, *more: str, typed: str = "") -> Answer:
    return run("collections", "set-key", name, *more, typed=typed)


NEW_KEY = "n3w-secret-of-alder"


@pytest.mark.parametrize("source", ["file", "environment", "prompt"])
def test_a_collection_gets_the_new_account_key_that_the_vendor_issued(
    run: Run,
    session: Session,
    collection: Collection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
) -> None:
    more: tuple[str, ...] = ()
    if source == "file":
        (tmp_path / "key").write_text(f"{NEW_KEY}\n")
        more = ("--account-key-file", str(tmp_path / "key"))
    elif source == "environment":
        monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", NEW_KEY)
    answer = set_key(run, "Alder Library", *more, typed=f"{NEW_KEY}\n" if source == "prompt" else "")

    assert answer.code == 0
    assert answer.out.splitlines()[-1] == (
        '"Alder Library" has a new account key. Next: accession collections test "Alder Library"'
    )
    assert NEW_KEY not in answer.out + answer.err
    session.expire_all()
    assert key_of(session, "Alder Library") == NEW_KEY


def test_the_new_account_key_is_the_one_that_the_next_request_is_signed_with(
    run: Run, session: Session, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer(session, sandbox)
    sandbox.sandbox.account = type(sandbox.account)(account_key=NEW_KEY)
    assert "refused the credentials" in run("collections", "test", "Alder Library").sentence
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", NEW_KEY)
    assert set_key(run, "Alder Library").code == 0
    assert run("collections", "test", "Alder Library").code == 0


def test_an_account_key_for_nobody_is_not_asked_for(run: Run, database: None) -> None:
    assert set_key(run, "Alder", typed=f"{NEW_KEY}\n").sentence == 'No collection found named "Alder".'


@pytest.mark.parametrize("typed", ["", "\n", "  \n"])
def test_whoever_types_no_new_account_key_keeps_the_old_one(
    run: Run, session: Session, collection: Collection, typed: str
) -> None:
    before = key_of(session, "Alder Library")
    assert set_key(run, "Alder Library", typed=typed).code == 1
    session.expire_all()
    assert key_of(session, "Alder Library") == before


# A new encryption key


def rotate_key(run: Run) -> Answer:
    return run("collections", "rotate-key")


def keys_in(home: Path) -> list[str]:
    return (home / "secret.key").read_text().split()


def only_decrypted_with(session: Session, key: str) -> set[str]:
    session.expire_all()
    encrypted = session.scalars(select(Collection.account_key_encrypted))
    return {Fernet(key).decrypt(each).decode() for each in encrypted}


ROTATED = """\
{what} encrypted with the new key in {file}.
Copy that file to your backups and to other machines that run workers.
Keep the old key for as long as you keep backups of the database made before.
"""


@pytest.mark.parametrize(
    ("names", "what"), [(["Alder"], "1 account key is"), (["Alder", "Birch"], "2 account keys are")]
)
def test_a_new_key_takes_the_place_of_the_one_in_the_home(
    run: Run, home: Path, session: Session, names: list[str], what: str
) -> None:
    for name in names:
        make_collection(session, name)
    (old,) = keys_in(home)

    answer = rotate_key(run)

    assert answer == Answer(0, ROTATED.format(what=what, file=home / "secret.key"), "")
    (new,) = keys_in(home)
    assert new != old
    assert new not in answer.out
    assert only_decrypted_with(session, new) == {ACCOUNT_KEY}


def test_a_rotation_that_was_interrupted_is_completed(run: Run, home: Path, session: Session) -> None:
    make_collection(session, "Alder")
    (old,) = keys_in(home)
    new = Fernet.generate_key().decode()
    (home / "secret.key").write_text(f"{new}\n{old}\n")

    answer = rotate_key(run)

    what = "The rotation that was begun is complete: 1 account key is"
    assert answer == Answer(0, ROTATED.format(what=what, file=home / "secret.key"), "")
    assert keys_in(home) == [new]
    assert only_decrypted_with(session, new) == {ACCOUNT_KEY}


def test_of_a_removed_collection_a_key_that_is_lost_is_told(run: Run, home: Path, session: Session) -> None:
    make_collection(session, "Alder")
    lost = make_collection(session, "Birch")
    lost.account_key_encrypted = Fernet(Fernet.generate_key()).encrypt(b"x")
    mark_for_deletion(lost)
    session.commit()

    answer = rotate_key(run)

    assert answer.code == 0
    assert answer.out.splitlines()[-1] == (
        "Left as before: 1 account key of removed collections, encrypted with a key that is gone."
    )


def test_with_a_key_of_the_environment_the_operator_is_told_how_to_change_it(
    run: Run, home: Path, session: Session
) -> None:
    old = Fernet.generate_key().decode()
    with environment_key(old):
        make_collection(session, "Alder")
        sentence = rotate_key(run).sentence
    assert sentence.startswith(
        "The key comes from ACCESSION_SECRET_KEY, which only you can change: make a new"
    )
    assert old not in sentence
    assert only_decrypted_with(session, old) == {ACCOUNT_KEY}


def test_with_two_keys_of_the_environment_the_first_takes_over(
    run: Run, home: Path, session: Session
) -> None:
    new, old = (Fernet.generate_key().decode() for _ in range(2))
    with environment_key(old):
        make_collection(session, "Alder")
    with environment_key(f"{new},{old}"):
        answer = rotate_key(run)
    assert answer == Answer(
        0,
        "1 account key is encrypted with the first key of ACCESSION_SECRET_KEY.\n"
        "Take the others out wherever Accession runs, and start the workers again.\n"
        "Keep the old key for as long as you keep backups of the database made before.\n",
        "",
    )
    assert not home.exists()
    assert only_decrypted_with(session, new) == {ACCOUNT_KEY}


@contextmanager
def environment_key(key: str) -> Iterator[None]:
    """For a while the keys are those of the environment."""
    urls = get_settings().model_dump(include={"home", "database_url", "redis_url"})
    with settings(**urls, secret_key=SecretStr(key)):
        yield
