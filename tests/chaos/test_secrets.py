"""Secrets of a running installation appear in no database, message, file, process list or command output."""

import base64
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from redis import Redis
from sqlalchemy import select, text

from accession.accounts.collections import find_collection
from accession.core.clock import utc_now
from accession.db.engine import connection_parameters
from accession.db.models import LicensePool
from accession.db.models import Run as LedgerRun
from accession.local.control import process_statuses, stop_running
from accession.local.home import remove_home_data
from accession.local.postgres_files import wheel_installation
from accession.local.servers import running_servers
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.faults import Faults
from accession.sandbox.signatures import SandboxAccount
from accession.sandbox.vendor import Sandbox
from accession.tasks.broker import redis_client
from tests.fixtures.commands import (
    COMMAND_TIMEOUT_SECONDS,
    Cli,
    CommandResult,
    add_sandbox_collection,
    all_commands,
    set_checkpoint,
    settings,
)
from tests.fixtures.factories import PASSWORD
from tests.fixtures.homes import database_session, processes_of, run_in_home
from tests.fixtures.machine import public_folder, umask
from tests.fixtures.running_sandbox import RunningSandbox, running_sandbox
from tests.fixtures.waiting import repeated

KEY, WRONG_KEY = "right-key-9c1f77d0", "wrong-key-51b2ae46"
ALDER, BIRCH = "Alder Library", "Birch Library"
SIGNATURE = re.compile(rb"3MCLAUTH\s+\S+:[A-Za-z0-9+/]{20,}|[A-Za-z0-9+/]{43}=\W+GET\W")
MESSAGE_BODY = re.compile(rb'"body"\s*:\s*"([A-Za-z0-9+/=]+)"')


@dataclass
class Installation:
    """An installation in which everything that could leak a secret has happened.

    `command_lines` are the command lines of all processes that started on the machine meanwhile.
    """

    home: Path
    sandbox: RunningSandbox
    results: dict[str, CommandResult] = field(default_factory=dict)
    command_lines: set[bytes] = field(default_factory=set)
    old_keys: list[bytes] = field(default_factory=list)

    def run(self, *arguments: str, **variables: str) -> CommandResult:
        result = run_in_home(self.home, *arguments, **variables)
        self.results[" ".join(arguments)] = result
        return result

    def secrets(self) -> dict[str, bytes]:
        keys = [*self.old_keys, *(self.home / "secret.key").read_bytes().split()]
        return {
            "an account key": KEY.encode(),
            "a wrong account key": WRONG_KEY.encode(),
            "a password": PASSWORD.encode(),
            **{f"encryption key {number}": key for number, key in enumerate(keys)},
            "PostgreSQL's password": (self.home / "postgres" / "password").read_bytes(),
            "Valkey's password": (self.home / "valkey" / "password").read_bytes(),
        }

    def secrets_in(self, data: bytes) -> set[str]:
        """Return the names of the secrets in the data, in clear text, hexadecimal or base64."""
        forms = {
            (name, form)
            for name, secret in self.secrets().items()
            for form in (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"=")[:-1])
        }
        names = {name for name, form in forms if form in data}
        return names | ({"a signature"} if SIGNATURE.search(data) else set())


@contextmanager
def recorded_command_lines(command_lines: set[bytes]) -> Iterator[None]:
    """Record the command line of every new process of this machine, which every user can see."""
    old = set(psutil.pids())

    def record() -> None:
        for pid in set(psutil.pids()) - old:
            with suppress(OSError):
                command_lines.add(Path(f"/proc/{pid}/cmdline").read_bytes())

    with repeated(record, 0.05):
        yield


@contextmanager
def faulty_vendor() -> Iterator[RunningSandbox]:
    now = utc_now()
    catalogue = build_catalogue(60, now - timedelta(days=4), now, seed=1)
    faults = Faults.parse("bad-gateway=0.05,html=0.05,drop=0.03,truncated=0.05", seed=1)
    activity = Activity(catalogue, 200, now - timedelta(hours=1), seed=1)
    account = SandboxAccount(account_key=KEY)
    with running_sandbox(Sandbox(catalogue, account, faults, activity=activity)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """One installation for all tests of this module."""
    with public_folder() as folder, faulty_vendor() as sandbox:
        installation = Installation(folder / "home", sandbox)
        try:
            with recorded_command_lines(installation.command_lines):
                run_everything(installation)
            yield installation
        finally:
            stop_running(installation.home, COMMAND_TIMEOUT_SECONDS)
            for process in processes_of(installation.home):
                process.kill()
            remove_home_data(installation.home)


def run_everything(installation: Installation) -> None:
    """Run all workflows to good and bad ends, at debug level, with a umask that protects nothing."""
    run = installation.run
    with umask(0):
        up = run("up", "--detach", ACCESSION_LOG_LEVEL="debug", ACCESSION_RETRY_BACKOFF_SECONDS="0.1")
    assert up.exit_code == 0, up
    with database_session(installation.home) as session:
        add_sandbox_collection(session, installation.sandbox, ALDER)
    account = ("--library-id", "sandbox", "--account-id", "library.sandbox")
    base_url = ("--base-url", installation.sandbox.base_url)
    with umask(0):
        added = run("collections", "add", BIRCH, *account, *base_url, ACCESSION_ACCOUNT_KEY=WRONG_KEY)
    assert added.exit_code == 0, added
    assert run("import", "purchases", "--import-all", "--wait").exit_code == 1
    assert run("--debug", "import", "events", "--import-all", "--wait").exit_code == 1
    # Without titles, the collection with the wrong key sends no request.
    assert run("--debug", "import", "circulation", "--import-all", "--wait").exit_code == 0
    installation.old_keys += (installation.home / "secret.key").read_bytes().split()
    with umask(0):
        assert run("collections", "rotate-key").exit_code == 0
    crash_in_step(installation)
    assert run("--debug", "doctor").exit_code == 1


def crash_in_step(installation: Installation) -> None:
    """Cause an unexpected error in the middle of a page, where stack frames hold the account key."""
    with database_session(installation.home) as session:
        session.execute(text("ALTER TABLE purchase_records RENAME TO renamed"))
        set_checkpoint(session, find_collection(session, ALDER), utc_now() - timedelta(days=4))
        result = installation.run("--debug", "import", "purchases", "--import-all", "--wait")
        session.execute(text("ALTER TABLE renamed RENAME TO purchase_records"))
        session.commit()
    assert result.exit_code == 1


def test_installation_has_done_everything(installation: Installation) -> None:
    """Otherwise the other tests would search nothing."""
    with database_session(installation.home) as session:
        states = {(run.workflow, run.state) for run in session.scalars(select(LedgerRun))}
        assert session.scalars(select(LicensePool)).first() is not None
    assert {("purchases", "succeeded"), ("purchases", "failed"), ("circulation", "succeeded")} <= states
    log = (installation.home / "logs" / "worker.log").read_text()
    for phrase in (
        "[debug",
        "retrying invalid response",
        "status 401",
        "Traceback",
        "UndefinedTable",
        "Birch Library",
    ):
        assert phrase in log, phrase
    assert installation.sandbox.statistics()["requests"]["marc"] > 5
    assert any(b"accession\0worker" in line for line in installation.command_lines)
    signature = b"3MCLAUTH library.sandbox:HZHNGfn6WVceakGrwXaJQ9zIY0Ai5opGct38j9/bHrE="
    assert installation.secrets_in(signature)
    assert installation.secrets_in(base64.b64encode(KEY.encode())) == {"an account key"}


def test_database_contains_no_secret(installation: Installation) -> None:
    urls = running_servers(installation.home)
    assert urls is not None
    dump = subprocess.run(
        [str(wheel_installation().programs / "pg_dump"), "--inserts"],
        env={**os.environ, **connection_variables(urls.database_url)},
        capture_output=True,
        check=True,
    ).stdout
    assert b"Birch Library" in dump
    # pg_dump writes binary values as hexadecimal digits.
    binary = b"\n".join(bytes.fromhex(digits.decode()) for digits in re.findall(rb"'\\x([0-9a-f]+)'", dump))
    assert b"gAAAA" in binary
    assert installation.secrets_in(dump + binary) == set()


def connection_variables(url: str) -> dict[str, str]:
    """Return the parts of the URL as environment variables, so that the password is no argument."""
    names = {"user": "PGUSER", "password": "PGPASSWORD", "host": "PGHOST", "dbname": "PGDATABASE"}
    parameters = connection_parameters(url)
    return {variable: parameters[name] for name, variable in names.items()}


def test_broker_contains_no_secret(installation: Installation) -> None:
    urls = running_servers(installation.home)
    assert urls is not None
    with redis_client(urls.redis_url) as broker:
        content = b"\n".join(repr((key, broker_value(broker, key))).encode() for key in broker.scan_iter())
    assert b"celery-task-meta" in content
    assert installation.secrets_in(with_decoded_messages(content)) == set()


def broker_value(broker: Redis, key: bytes) -> object:
    match broker.type(key):
        case b"string":
            return broker.get(key)
        case b"list":
            return broker.lrange(key, 0, -1)
        case b"hash":
            return broker.hgetall(key)
        case b"set":
            return broker.smembers(key)
        case b"zset":
            return broker.zrange(key, 0, -1)
        case other:
            raise AssertionError(f"values of type {other!r} are not searched")


def with_decoded_messages(data: bytes) -> bytes:
    """Return the data and the bodies of the messages in it, which kombu encodes."""
    bodies = [base64.b64decode(body) for body in MESSAGE_BODY.findall(data)]
    return b"\n".join([data, *bodies])


def test_journal_of_all_messages_contains_no_secret(installation: Installation) -> None:
    folder = installation.home / "valkey" / "appendonlydir"
    messages = with_decoded_messages(b"".join(path.read_bytes() for path in folder.iterdir()))
    assert b"import_purchase_records_by_collection" in messages
    assert b'"offset": ' in messages
    assert installation.secrets_in(messages) == set()


SECRET_FILES = {
    "secret.key": "encryption key",
    "servers.json": "password",
    "postgres/password": "PostgreSQL's password",
    "valkey/password": "Valkey's password",
    "valkey/valkey.conf": "Valkey's password",
}


def test_only_secret_files_contain_secrets(installation: Installation) -> None:
    names = set()
    for path in files_of(installation.home):
        # PostgreSQL, which is running, deletes some of its files.
        with suppress(FileNotFoundError):
            content = path.read_bytes()
            name = str(path.relative_to(installation.home))
            names.add(name)
            for secret in installation.secrets_in(content):
                assert SECRET_FILES.get(name, "nothing") in secret, f"{secret} in {name}"
    assert names >= SECRET_FILES.keys()
    assert {"logs/worker.log", "logs/beat.log", "logs/accession.log", "logs/postgres.log"} <= names
    assert any(name.startswith("postgres/data/pg_wal/") for name in names)


def test_files_of_home_are_private(installation: Installation) -> None:
    """Although the umask gave new files to everybody."""
    home = installation.home
    assert home.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    # The user that PostgreSQL runs as for root passes through these.
    passages = [home / "postgres", home / "sockets"] if os.geteuid() == 0 else []
    accessible = []
    for path in home.rglob("*"):
        with suppress(FileNotFoundError):
            mode = path.stat().st_mode
            if mode & (0o066 if path in passages else 0o077) and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                accessible.append(f"{path.relative_to(home)} {mode & 0o777:o}")
    assert accessible == []
    assert list(home.glob("beat-schedule*"))


def files_of(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def test_command_lines_contain_no_secret(installation: Installation) -> None:
    assert len(installation.command_lines) > 10
    revealing = [line for line in installation.command_lines if installation.secrets_in(line)]
    assert revealing == []


def test_environment_of_servers_contains_no_secret(installation: Installation) -> None:
    """They may run as another user."""
    statuses = process_statuses(installation.home)
    servers = {status.name: status.pid for status in statuses if status.name in ("postgres", "valkey")}
    assert len(servers) == 2
    for pid in servers.values():
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert installation.secrets_in(environment) == set()


# Output of commands

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "apply": ("-f", "-"),
    "collections add": (ALDER, "--library-id", "x", "--account-id", "x"),
    "collections test": (BIRCH,),
    "collections set-key": (BIRCH,),
    "collections remove": ("Nowhere", "--yes"),
    "titles refresh": ("x", "--collection", BIRCH),
    "titles show": ("x",),
    # Binary output goes to memory.
    "export parquet": ("--output", "memory://titles.parquet"),
    "rejects show": ("1",),
    "users add": ("ann", "--role", "viewer"),
    "users set-password": ("ann",),
    "users set-role": ("ann", "operator"),
    "users remove": ("bob", "--yes"),
    "tokens revoke": ("script",),
}
# These run until they are stopped, stop the installation, or print secrets on purpose: `env` the passwords of
# the servers, `tokens add` the token, `sandbox serve` the public key of the simulated vendor.
EXCLUDED = {"down", "demo", "env", "worker", "beat", "web", "tokens add", "sandbox serve"}
# These use the Celery app, which reads the broker's URL once per process: they run in their own processes.
IN_OWN_PROCESS = {"import purchases", "import events", "import circulation", "doctor"}
COMMANDS = {name.removeprefix("accession "): command for name, command in all_commands().items()}
IN_THIS_PROCESS = sorted(COMMANDS.keys() - EXCLUDED - IN_OWN_PROCESS)


def variants(name: str) -> list[tuple[str, ...]]:
    """Return the command lines of a command: with and without --json and --debug."""
    command = (*name.split(), *ARGUMENTS.get(name, ()))
    has_json = any("--json" in parameter.opts for parameter in COMMANDS[name].params)
    lines = [command, (*command, "--json")] if has_json else [command]
    return [(*debug, *line) for debug in ((), ("--debug",)) for line in lines]


@pytest.mark.parametrize("name", IN_THIS_PROCESS)
def test_command_output_contains_no_secret(
    cli: Cli, installation: Installation, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", WRONG_KEY)
    monkeypatch.setenv("ACCESSION_PASSWORD", PASSWORD)
    with settings(home=installation.home, log_level="debug"):
        for arguments in variants(name):
            result = cli(*arguments)
            assert result.stdout + result.stderr
            assert installation.secrets_in((result.stdout + result.stderr).encode()) == set()


@pytest.mark.parametrize("name", sorted(IN_OWN_PROCESS))
def test_debug_output_of_command_in_own_process_was_checked(installation: Installation, name: str) -> None:
    (result,) = [
        result for line, result in installation.results.items() if line.startswith(f"--debug {name}")
    ]
    assert BIRCH in result.stdout + result.stderr


def test_output_of_all_commands_so_far_contains_no_secret(installation: Installation) -> None:
    for line, result in installation.results.items():
        assert installation.secrets_in((result.stdout + result.stderr).encode()) == set(), line


def test_typed_key_is_not_echoed(cli: Cli, installation: Installation) -> None:
    with settings(home=installation.home):
        result = cli("collections", "set-key", BIRCH, typed=f"{WRONG_KEY}\n")
    assert result.exit_code == 0
    assert "Account key" in result.stdout
    assert installation.secrets_in((result.stdout + result.stderr).encode()) == set()
