"""Another user of the same machine can neither read nor change anything of a running installation."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from accession.local.home import remove_home_data
from accession.local.servers import read_server_info
from accession.local.users import server_user
from tests.fixtures import neighbour
from tests.fixtures.commands import environment, run_command
from tests.fixtures.homes import processes_of
from tests.fixtures.machine import Account, account_of, as_root, free_port, public_folder
from tests.fixtures.neighbour import Target
from tests.fixtures.waiting import DEADLINE_SECONDS, wait_until

ACCOUNT_KEY = "key-of-alder-library"
USER_PASSWORD = "password of ann"
# An id without account, of which no service of the machine has a file or process.
NEIGHBOUR_UID = 54321


@dataclass(frozen=True)
class Installation:
    """A running installation, with a backup, and a folder for temporary files that everybody may use."""

    account: Account
    folder: Path
    web_port: int
    variables: dict[str, str] = field(repr=False)

    @property
    def home(self) -> Path:
        return self.folder / "own" / "home"

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        options = {**self.account.options, "env": {**self.variables, **variables}}
        return subprocess.Popen(
            [self.account.python, "-m", "accession", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def run(self, *arguments: str, **variables: str) -> None:
        process = self.start(*arguments, **variables)
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, output

    def roots(self) -> list[Path]:
        """Return the folders that hold everything, also what is outside the home."""
        links = [path for path in (self.home / "postgres", self.home / "sockets") if path.is_symlink()]
        return [*self.public_folders, *(link.readlink() for link in links)]

    def target(self) -> Target:
        """Return everything of the installation, for a neighbour to try to read and change."""
        paths = [path for root in self.roots() for path in (root, *root.rglob("*"))]
        processes = processes_of(self.home)
        ports = {each.laddr.port for process in processes for each in process.net_connections("tcp")}
        return Target(
            files=[str(path) for path in paths if path.is_file()],
            folders=[str(path) for path in paths if path.is_dir() and path not in self.public_folders],
            sockets=[str(path) for path in paths if path.is_socket()],
            pids=[process.pid for process in processes],
            ports=list(ports),
        )

    @property
    def public_folders(self) -> list[Path]:
        """Folders that everybody may list: that of the home, and that of temporary files."""
        return [self.folder / "own", self.folder / "tmp"]


@contextmanager
def running_installation(account: Account) -> Iterator[Installation]:
    """Run an installation of a user, with a user of the dashboard, a collection and a backup."""
    with public_folder() as folder:
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        (folder / "own").mkdir(mode=0o755)
        os.chown(folder / "own", account.uid, account.gid)
        port = free_port()
        variables = {"ACCESSION_WEB_PORT": port, "TMPDIR": str(folder / "tmp")}
        variables |= {"ACCESSION_HOME": str(folder / "own" / "home"), **account.environment}
        installation = Installation(account, folder, int(port), variables)
        up = installation.start("up", "--detach")
        try:
            output, _ = up.communicate(timeout=DEADLINE_SECONDS)
            assert up.returncode == 0, output
            installation.run("users", "add", "ann", "--role", "operator", ACCESSION_PASSWORD=USER_PASSWORD)
            names = ("--library-id", "alder", "--account-id", "alder")
            installation.run("collections", "add", "Alder Library", *names, ACCESSION_ACCOUNT_KEY=ACCOUNT_KEY)
            installation.run("backup", str(folder / "own" / "accession.backup"))
            yield installation
        finally:
            if installation.home.exists():
                stop_all(installation.home)
                remove_home_data(installation.home)


def stop_all(home: Path) -> None:
    for process in processes_of(home):
        if process.name() != "postgres":
            process.kill()
    wait_until(lambda: not processes_of(home), "all processes have ended")


@pytest.fixture(scope="module", params=["root", "nobody"])
def installation(request: pytest.FixtureRequest) -> Iterator[Installation]:
    with running_installation(account_of(request.param)) as installation:
        yield installation


def successes(uid: int, target: Target) -> list[str]:
    """Return what a user succeeded to read or change."""
    completed = subprocess.run(
        [sys.executable, "-I", neighbour.__file__, str(uid)],
        input=target.to_json(),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert completed.returncode == 0, completed.stderr
    result: list[str] = json.loads(completed.stdout)
    return result


@as_root
def test_neighbour_can_read_and_change_nothing(installation: Installation) -> None:
    target = installation.target()
    names = {Path(file).name for file in target.files}
    assert names >= {"secret.key", "servers.json", "password", "accession.backup", "worker.log", "PG_VERSION"}
    assert [Path(path).name for path in sorted(target.sockets)] == [".s.PGSQL.5432", "valkey.sock"]
    assert target.ports == [installation.web_port]
    assert len(target.pids) > 5

    assert successes(NEIGHBOUR_UID, target) == []


@as_root
def test_neighbour_can_read_a_public_file() -> None:
    """So that the other tests would notice one."""
    with public_folder() as folder:
        (folder / "file").touch(mode=0o644)
        target = Target(files=[str(folder / "file")], folders=[str(folder)], sockets=[], pids=[], ports=[])
        assert successes(NEIGHBOUR_UID, target) == [f"read {folder / 'file'}", f"list {folder}"]


@as_root
@pytest.mark.parametrize("installation", ["root"], indirect=True)
def test_user_of_postgresql_can_change_nothing_of_root(installation: Installation) -> None:
    user = server_user()
    assert user is not None
    target = installation.target()

    def of_root(paths: list[str]) -> list[str]:
        return [path for path in paths if Path(path).lstat().st_uid == 0]

    target = Target(
        files=of_root(target.files),
        folders=of_root(target.folders),
        sockets=of_root(target.sockets),
        pids=[pid for pid in target.pids if psutil.Process(pid).uids().real == 0],
        ports=target.ports,
    )
    assert str(installation.home / "postgres" / "password") in target.files
    assert successes(user.uid, target) == []


@as_root
@pytest.mark.parametrize("installation", ["root"], indirect=True)
def test_restart_follows_no_link_of_the_user_of_postgresql(installation: Installation) -> None:
    """Root gives away no file to which this user has linked, and quotes none in an error."""
    data = installation.home / "postgres" / "data"
    victim = installation.folder / "own" / "victim"
    victim.write_text("secret of root")
    victim.chmod(0o600)
    installation.run("down")
    for name in ("PG_VERSION", "postmaster.pid"):
        (data / name).rename(data / f"{name}.kept") if (data / name).exists() else None
        (data / name).symlink_to(victim)

    up = installation.start("up")
    output, _ = up.communicate(timeout=DEADLINE_SECONDS)

    for name in ("PG_VERSION", "postmaster.pid"):
        (data / name).unlink()
    (data / "PG_VERSION.kept").rename(data / "PG_VERSION")
    assert up.returncode == 1
    assert "secret of root" not in output
    assert (victim.read_text(), victim.stat().st_uid) == ("secret of root", 0)
    installation.run("up", "--detach")


@as_root
def test_arguments_of_processes_contain_no_secret(installation: Installation) -> None:
    info = read_server_info(installation.home)
    assert info is not None
    urls = (info.urls.database_url, info.urls.redis_url)
    passwords = [url.partition("@")[0].rpartition(":")[2] for url in urls]
    key = (installation.home / "secret.key").read_text().strip()
    arguments = [" ".join(process.cmdline()) for process in processes_of(installation.home)]
    assert any("accession worker" in each for each in arguments)
    for secret in (*passwords, key, ACCOUNT_KEY, USER_PASSWORD):
        assert len(secret) > 10
        assert not any(secret in each for each in arguments)


@as_root
def test_neighbour_needs_a_login_for_the_dashboard(installation: Installation) -> None:
    base_url = f"http://127.0.0.1:{installation.web_port}"
    with httpx.Client(base_url=base_url, trust_env=False) as client:
        assert client.get("/api/v1/status").status_code == 401
        assert client.get("/").headers["location"].startswith("/login")


@as_root
@pytest.mark.parametrize("installation", ["nobody"], indirect=True)
@pytest.mark.parametrize("command", ["up", "down"])
def test_root_refuses_to_use_the_home_of_another_user(installation: Installation, command: str) -> None:
    """Its owner could replace the files that root writes, and name any process for root to stop."""
    result = run_command(command, env=environment(ACCESSION_HOME=str(installation.home)))
    assert "because nobody or others may replace files in " in result.error
    assert read_server_info(installation.home) is not None
