"""Commands of `accession collections`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
import time_machine
from cryptography.fernet import Fernet
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts import keys
from accession.accounts.collections import mark_for_deletion
from accession.accounts.keys import decrypt_account_key
from accession.core.settings import get_settings
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.broker import Message
from tests.fixtures.commands import (
    Cli,
    CommandResult,
    add_sandbox_collection,
    background_command,
    environment,
    server_variables,
    settings,
    simulated_vendor,
)
from tests.fixtures.factories import ACCOUNT_KEY, make_collection, make_pool
from tests.fixtures.running_sandbox import RunningSandbox

KEY = "s3cret-of-alder"
FIELDS = {"name", "library_id", "account_id", "base_url", "titles", "created_at"}


def add(cli: Cli, name: str, *more: str, typed: str = "") -> CommandResult:
    return cli(
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


def stored_key(session: Session, name: str) -> str:
    collection = session.scalars(select(Collection).filter_by(name=name)).one()
    assert KEY.encode() not in collection.account_key_encrypted
    return decrypt_account_key(collection).get_secret_value()


@pytest.fixture
def sandbox() -> Iterator[RunningSandbox]:
    with simulated_vendor() as sandbox:
        yield sandbox


def test_add_reads_key_from_file(cli: Cli, session: Session, tmp_path: Path) -> None:
    file = tmp_path / "key"
    # With a byte order mark, as editors on Windows write it.
    file.write_text(f"\ufeff{KEY}\r\n", encoding="utf-8")
    result = add(cli, "Alder", "--account-key-file", str(file))
    assert result.exit_code == 0
    assert result.stdout == 'Added "Alder". Next: accession collections test "Alder"\n'
    assert stored_key(session, "Alder") == KEY


def test_add_names_collections_of_the_same_library(cli: Cli, session: Session, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    key = ("--account-key-file", str(file))
    add(cli, "Alder", *key)
    assert "same library" not in add(cli, "Elsewhere", *key, "--base-url", "https://other.example").stdout
    added = add(cli, "Branch", *key, "--base-url", "https://PARTNER.yourcloudlibrary.com/")
    assert added.stdout.splitlines() == [
        'Added "Branch". Next: accession collections test "Branch"',
        '"Alder" has the same library at the vendor, and so the same copies: exports of several collections '
        "count them once.",
    ]
    assert '\n"Alder" and "Branch" have the same library' in add(cli, "Bookmobile", *key).stdout


def add_sandbox(cli: Cli, sandbox: RunningSandbox, *more: str) -> CommandResult:
    """Add the library of the simulated vendor."""
    account = sandbox.account
    options = ("--library-id", account.library_id, "--account-id", account.account_id)
    return cli("collections", "add", "Sandbox", *options, "--base-url", sandbox.base_url, *more)


def test_add_can_test_the_account_and_start_the_import(
    cli: Cli, session: Session, sandbox: RunningSandbox, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", sandbox.account.account_key)
    result = add_sandbox(cli, sandbox, "--test", "--import")

    assert result.exit_code == 0
    added, tested, started = result.stdout.splitlines()
    assert added == 'Added "Sandbox".'
    assert tested.startswith('The vendor accepted the account of "Sandbox"')
    assert started == "The first import is queued. See its progress with: accession status"
    (message,) = cast(list[bytes], broker.lrange("default", 0, -1))
    assert Message.decode(message).task.endswith(".import_purchase_records_by_collection")


def test_failed_test_of_a_new_account_starts_no_import(
    cli: Cli, session: Session, sandbox: RunningSandbox, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", "wrong")
    result = add_sandbox(cli, sandbox, "--test", "--import")

    assert (result.exit_code, result.stdout) == (1, 'Added "Sandbox".\n')
    assert result.stderr.strip() == (
        'Collection "Sandbox": the vendor refused the credentials; check the account id and the account key.'
    )
    assert broker.llen("default") == 0


def test_add_asks_in_a_terminal(servers: ServerUrls, database: None, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    terminal, stdin = os.openpty()
    os.write(terminal, b"n\nn\n")
    options = ("--library-id", "alder", "--account-id", "a", "--account-key-file", str(tmp_path / "key"))
    process = subprocess.run(
        [sys.executable, "-m", "accession", "collections", "add", "Alder", *options],
        stdin=stdin,
        capture_output=True,
        text=True,
        check=True,
        env=environment(**server_variables(servers), ACCESSION_HOME=str(tmp_path)),
    )
    os.close(stdin)
    os.close(terminal)

    assert "Test the account now? [Y/n]: " in process.stdout
    assert "Start the first import now? [Y/n]: " in process.stdout
    assert 'Next: accession collections test "Alder"' in process.stdout


def test_add_reads_key_from_environment(cli: Cli, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    assert add(cli, "Alder").exit_code == 0
    assert stored_key(session, "Alder") == KEY


def test_add_prompts_for_key_without_echo(cli: Cli, session: Session) -> None:
    result = add(cli, "Alder", typed=f"{KEY}\n")
    assert result.exit_code == 0
    assert "Account key" in result.stdout
    assert KEY not in result.stdout + result.stderr
    assert stored_key(session, "Alder") == KEY
    collection = session.scalars(select(Collection)).one()
    assert collection.base_url == "https://partner.yourcloudlibrary.com"


def test_add_without_key_is_aborted(cli: Cli, session: Session) -> None:
    result = add(cli, "Alder")
    assert result.exit_code == 1
    assert "Aborted" in result.stderr
    assert session.scalars(select(Collection)).all() == []


def test_add_does_not_take_key_as_option(cli: Cli, database: None) -> None:
    assert add(cli, "Alder", "--account-key", KEY).exit_code == 2


def test_add_with_empty_key_is_rejected(cli: Cli, database: None, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("\n")
    assert add(cli, "Alder", "--account-key-file", str(file)).error == (
        "The account key is empty: enter it as the vendor issued it."
    )


@pytest.mark.parametrize("content", [None, b"\xff\xfes3cret"])
def test_unreadable_key_file_is_named_but_not_quoted(
    cli: Cli, database: None, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    error = add(cli, "Alder", "--account-key-file", str(file)).error
    assert error.startswith(f"The account key file {file} cannot be read (")
    assert error.count(str(file)) == 1
    assert "0xff" not in error


@pytest.mark.parametrize("name", ["", " Alder", "Alder ", "Al\x1bder", "Al\nder"])
def test_add_rejects_unusable_name(
    cli: Cli, session: Session, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    assert add(cli, name).error.startswith("The collection name")
    assert session.scalars(select(Collection)).all() == []


@pytest.mark.parametrize("url", ["http://vendor.example", "http://10.0.0.1", "ftp://localhost", "vendor", ""])
def test_add_rejects_unsafe_base_url(
    cli: Cli, session: Session, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    error = add(cli, "Alder", "--base-url", url).error
    assert 'base URL of collection "Alder" is invalid' in error
    assert "https://" in error
    assert session.scalars(select(Collection)).all() == []


def test_used_name_is_rejected_until_removal(
    cli: Cli, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    assert add(cli, "Alder").exit_code == 0
    assert add(cli, "Alder").error == (
        'A collection named "Alder" already exists: choose another name, '
        'or remove it with `accession collections remove "Alder"`.'
    )
    assert cli("collections", "remove", "Alder", "--yes").exit_code == 0
    assert add(cli, "Alder").exit_code == 0


def test_list_shows_all_fields_but_the_key(cli: Cli, session: Session, collection: Collection) -> None:
    make_pool(session, collection, "abc")
    make_collection(session, "Birch Library")
    table = cli("collections", "list")
    assert table.exit_code == 0
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["Name", "Alder", "Birch"]
    rows = cli("collections", "list", "--json").json
    assert [(row["name"], row["titles"]) for row in rows] == [("Alder Library", 1), ("Birch Library", 0)]
    assert set(rows[0]) == FIELDS
    assert rows[0]["created_at"].endswith("Z")
    assert "key" not in str(rows).lower()


def test_empty_list_says_how_to_add_a_collection(cli: Cli, database: None) -> None:
    assert cli("collections", "list").stdout == (
        "No collections yet. Add one with: accession collections add NAME ...\n"
    )
    assert cli("collections", "list", "--json").json == []


def test_valid_account_passes_connection_test(cli: Cli, session: Session, sandbox: RunningSandbox) -> None:
    add_sandbox_collection(session, sandbox)
    result = cli("collections", "test", "Alder Library")
    assert result.exit_code == 0
    assert result.stdout.startswith('The vendor accepted the account of "Alder Library"')
    assert sandbox.statistics()["requests"]["marc"] == 1


def test_wrong_key_fails_connection_test(cli: Cli, session: Session, sandbox: RunningSandbox) -> None:
    add_sandbox_collection(session, sandbox)
    sandbox.sandbox.account = type(sandbox.account)(account_key="another")
    error = cli("collections", "test", "Alder Library").error
    assert error == (
        'Collection "Alder Library": the vendor refused the credentials; '
        "check the account id and the account key."
    )
    debugged = cli("--debug", "collections", "test", "Alder Library").stderr
    assert f"{sandbox.base_url}/cirrus/library/sandbox/data/marc" in debugged
    assert "status 401" in debugged


def test_wrong_library_fails_connection_test(cli: Cli, session: Session, sandbox: RunningSandbox) -> None:
    add_sandbox_collection(session, sandbox).library_id = "elsewhere"
    session.commit()
    error = cli("collections", "test", "Alder Library").error
    assert error.startswith('Collection "Alder Library": the vendor')
    assert error.endswith("does not know this library; check the library id and the base URL.")


def test_unreachable_vendor_fails_connection_test(cli: Cli, collection: Collection) -> None:
    error = cli("collections", "test", "Alder Library").error
    assert error.startswith('Collection "Alder Library": the connection to the vendor failed: ')
    assert error.endswith("; check the base URL, and whether this machine may reach it.")


def test_wrong_clock_is_distinguished_from_wrong_key(cli: Cli, session: Session) -> None:
    """The vendor runs in its own process, because the clock of this one is changed."""
    serve = ("sandbox", "serve", "--port", "0", "--titles", "0")
    with background_command(*serve, env=environment(PYTHONUNBUFFERED="1")) as vendor:
        assert vendor.stdout is not None
        base_url = vendor.stdout.readline().split()[-1]
        collection = make_collection(session, "Alder Library")
        collection.library_id, collection.account_id, collection.base_url = (
            "sandbox",
            "library.sandbox",
            base_url,
        )
        session.commit()
        with time_machine.travel(datetime.now(UTC) + timedelta(minutes=20)):
            error = cli("collections", "test", "Alder Library").error
    assert "this machine's clock is 20 minutes ahead of the vendor's" in error


def test_declined_removal_keeps_the_collection(cli: Cli, session: Session, collection: Collection) -> None:
    result = cli("collections", "remove", "Alder Library", typed="n\n")
    assert result.exit_code == 1
    assert 'Mark "Alder Library" for deletion? Its imports will stop' in result.stdout
    assert len(cli("collections", "list", "--json").json) == 1


@pytest.mark.parametrize(("more", "typed"), [((), "y\n"), (("--yes",), "")])
def test_removed_collection_is_marked_and_hidden(
    cli: Cli, session: Session, collection: Collection, more: tuple[str, ...], typed: str
) -> None:
    make_pool(session, collection, "abc")
    result = cli("collections", "remove", "Alder Library", *more, typed=typed)
    assert result.exit_code == 0
    assert result.stdout.endswith('Marked "Alder Library" for deletion.\n')
    session.refresh(collection)
    assert collection.marked_for_deletion_at is not None
    assert cli("collections", "list", "--json").json == []
    assert cli("titles", "list", "--json").json == []
    assert cli("status", "--json").json == []


@pytest.mark.parametrize("verb", ["test", "remove"])
def test_unknown_collection_is_reported(cli: Cli, database: None, verb: str) -> None:
    assert cli("collections", verb, "Alder").error == 'No collection found named "Alder".'


def test_missing_key_file_is_reported(
    cli: Cli, home: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", KEY)
    assert add(cli, "Alder").exit_code == 0
    assert (home / "secret.key").stat().st_mode & 0o777 == 0o600
    os.rename(home / "secret.key", home / "lost.key")
    keys._cipher.cache_clear()
    assert f"The key file {home / 'secret.key'} cannot be read" in cli("collections", "test", "Alder").error


# A new account key


def set_key(cli: Cli, name: str, *more: str, typed: str = "") -> CommandResult:
    return cli("collections", "set-key", name, *more, typed=typed)


NEW_KEY = "n3w-secret-of-alder"


@pytest.mark.parametrize("source", ["file", "environment", "prompt"])
def test_set_key_replaces_account_key(
    cli: Cli,
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
    result = set_key(cli, "Alder Library", *more, typed=f"{NEW_KEY}\n" if source == "prompt" else "")

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == (
        'Changed the account key of "Alder Library". Next: accession collections test "Alder Library"'
    )
    assert NEW_KEY not in result.stdout + result.stderr
    session.expire_all()
    assert stored_key(session, "Alder Library") == NEW_KEY


def test_next_request_is_signed_with_new_key(
    cli: Cli, session: Session, sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_sandbox_collection(session, sandbox)
    sandbox.sandbox.account = type(sandbox.account)(account_key=NEW_KEY)
    assert "refused the credentials" in cli("collections", "test", "Alder Library").error
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", NEW_KEY)
    assert set_key(cli, "Alder Library").exit_code == 0
    assert cli("collections", "test", "Alder Library").exit_code == 0


def test_set_key_for_unknown_collection_does_not_prompt(cli: Cli, database: None) -> None:
    assert set_key(cli, "Alder", typed=f"{NEW_KEY}\n").error == 'No collection found named "Alder".'


@pytest.mark.parametrize("typed", ["", "\n", "  \n"])
def test_set_key_without_key_keeps_the_old_one(
    cli: Cli, session: Session, collection: Collection, typed: str
) -> None:
    before = stored_key(session, "Alder Library")
    assert set_key(cli, "Alder Library", typed=typed).exit_code == 1
    session.expire_all()
    assert stored_key(session, "Alder Library") == before


# A new encryption key


def rotate_key(cli: Cli) -> CommandResult:
    return cli("collections", "rotate-key")


def keys_in(home: Path) -> list[str]:
    return (home / "secret.key").read_text().split()


def keys_decrypted_with(session: Session, key: str) -> set[str]:
    session.expire_all()
    encrypted = session.scalars(select(Collection.account_key_encrypted))
    return {Fernet(key).decrypt(each).decode() for each in encrypted}


ROTATION_REPORT = """\
{summary} with the new key in {file}.
Copy that file to your backups and to other machines that run workers.
Keep the old key for as long as you keep older backups of the database.
"""


@pytest.mark.parametrize(
    ("names", "summary"),
    [
        (["Alder"], "Re-encrypted 1 account key"),
        (["Alder", "Birch"], "Re-encrypted 2 account keys"),
    ],
)
def test_rotation_replaces_key_in_home(
    cli: Cli, home: Path, session: Session, names: list[str], summary: str
) -> None:
    for name in names:
        make_collection(session, name)
    (old,) = keys_in(home)

    result = rotate_key(cli)

    assert result == CommandResult(0, ROTATION_REPORT.format(summary=summary, file=home / "secret.key"), "")
    (new,) = keys_in(home)
    assert new != old
    assert new not in result.stdout
    assert keys_decrypted_with(session, new) == {ACCOUNT_KEY}


def test_interrupted_rotation_is_completed(cli: Cli, home: Path, session: Session) -> None:
    make_collection(session, "Alder")
    (old,) = keys_in(home)
    new = Fernet.generate_key().decode()
    (home / "secret.key").write_text(f"{new}\n{old}\n")

    result = rotate_key(cli)

    summary = "Completed the interrupted rotation. Re-encrypted 1 account key"
    assert result == CommandResult(0, ROTATION_REPORT.format(summary=summary, file=home / "secret.key"), "")
    assert keys_in(home) == [new]
    assert keys_decrypted_with(session, new) == {ACCOUNT_KEY}


def test_rotation_reports_lost_key_of_removed_collection(cli: Cli, home: Path, session: Session) -> None:
    make_collection(session, "Alder")
    lost = make_collection(session, "Birch")
    lost.account_key_encrypted = Fernet(Fernet.generate_key()).encrypt(b"x")
    mark_for_deletion(lost)
    session.commit()

    result = rotate_key(cli)

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == (
        "Not changed: 1 account key of removed collections, encrypted with a lost key."
    )


def test_rotation_of_environment_key_explains_how(cli: Cli, home: Path, session: Session) -> None:
    old = Fernet.generate_key().decode()
    with key_from_environment(old):
        make_collection(session, "Alder")
        error = rotate_key(cli).error
    assert error.startswith("The key is set in ACCESSION_SECRET_KEY, which only you can change: create a new")
    assert old not in error
    assert keys_decrypted_with(session, old) == {ACCOUNT_KEY}


def test_rotation_uses_first_environment_key(cli: Cli, home: Path, session: Session) -> None:
    new, old = (Fernet.generate_key().decode() for _ in range(2))
    with key_from_environment(old):
        make_collection(session, "Alder")
    with key_from_environment(f"{new},{old}"):
        result = rotate_key(cli)
    assert result == CommandResult(
        0,
        "Re-encrypted 1 account key with the first key of ACCESSION_SECRET_KEY.\n"
        "Remove the other keys on every machine that runs Accession, and restart the workers.\n"
        "Keep the old key for as long as you keep older backups of the database.\n",
        "",
    )
    assert not home.exists()
    assert keys_decrypted_with(session, new) == {ACCOUNT_KEY}


@contextmanager
def key_from_environment(key: str) -> Iterator[None]:
    """Use encryption keys from the environment."""
    urls = get_settings().model_dump(include={"home", "database_url", "redis_url"})
    with settings(**urls, secret_key=SecretStr(key)):
        yield
