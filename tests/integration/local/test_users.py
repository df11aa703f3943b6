"""Root runs PostgreSQL as a user of its own, never as `nobody`, which other services share."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from accession.core.errors import UserError
from accession.local.users import User, server_user


def account(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/usr/sbin/nologin"))


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> dict[str, pwd.struct_passwd]:
    """The accounts of a machine on which we are root."""
    accounts = {name: account(name, uid) for name, uid in (("root", 0), ("daemon", 1), ("nobody", 65534))}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", accounts.__getitem__)
    return accounts


@pytest.fixture
def useradd(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], str]], list[str]]:
    """Replace the program `useradd` by a function that gets the name and returns an error."""

    def replace(create: Callable[[str], str]) -> list[str]:
        commands: list[str] = []

        def run(command: Sequence[str], **_: Any) -> "subprocess.CompletedProcess[str]":
            commands.append(" ".join(command))
            error = create(command[-1])
            return subprocess.CompletedProcess(command, int(bool(error)), "", error)

        monkeypatch.setattr(shutil, "which", lambda name, path: f"/usr/sbin/{name}")
        monkeypatch.setattr(subprocess, "run", run)
        return commands

    return replace


def test_other_users_run_the_servers_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert server_user() is None


def test_user_postgres_is_preferred(accounts: dict[str, pwd.struct_passwd]) -> None:
    accounts["accession-postgres"] = account("accession-postgres", 999)
    assert server_user() == User("accession-postgres", 999, 999)
    accounts["postgres"] = account("postgres", 101)
    assert server_user() == User("postgres", 101, 101)


def test_account_of_root_by_another_name_is_not_used(accounts: dict[str, pwd.struct_passwd]) -> None:
    accounts["postgres"] = account("postgres", 0)
    accounts["accession-postgres"] = account("accession-postgres", 999)
    assert server_user() == User("accession-postgres", 999, 999)


def test_missing_user_is_created(
    accounts: dict[str, pwd.struct_passwd], useradd: Callable[[Callable[[str], str]], list[str]]
) -> None:
    def create(name: str) -> str:
        accounts[name] = account(name, 999)
        return ""

    commands = useradd(create)
    assert server_user() == User("accession-postgres", 999, 999)
    assert server_user() == User("accession-postgres", 999, 999)
    assert commands == [
        "/usr/sbin/useradd --system --user-group --home-dir=/nonexistent --shell=/usr/sbin/nologin "
        "accession-postgres"
    ]


def test_user_that_another_process_creates_is_used(
    accounts: dict[str, pwd.struct_passwd], useradd: Callable[[Callable[[str], str]], list[str]]
) -> None:
    def create(name: str) -> str:
        accounts[name] = account(name, 999)
        return f"useradd: user '{name}' already exists"

    useradd(create)
    assert server_user() == User("accession-postgres", 999, 999)


def test_user_that_cannot_be_created_is_reported(
    accounts: dict[str, pwd.struct_passwd],
    useradd: Callable[[Callable[[str], str]], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advice = (
        "create one with `useradd --system accession-postgres`, run Accession as another user, or set "
        "ACCESSION_DATABASE_URL."
    )
    useradd(lambda name: "useradd: cannot open /etc/passwd\n")
    with pytest.raises(UserError) as error:
        server_user()
    assert str(error.value) == (
        "PostgreSQL does not run as root, and no user for it can be created (useradd: cannot open "
        f"/etc/passwd): {advice}"
    )
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    with pytest.raises(UserError, match=r"created \(there is no program useradd\): create one with"):
        server_user()
