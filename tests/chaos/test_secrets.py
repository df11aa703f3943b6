"""Where everything runs, the keys are nowhere but where they belong: not in the database, the broker, a file,
a log, a process list, or what a command answers."""

import base64
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import select, text

from accession.accounts.collections import find_collection
from accession.core.clock import utc_now
from accession.db.models import LicensePool
from accession.db.models import Run as LedgerRun
from accession.local.postgres import remove_home_data, wheel_installation
from accession.local.servers import running_servers
from accession.local.supervisor import parts, stop_running
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.faults import Faults
from accession.sandbox.server import RunningSandbox, Sandbox, SandboxAccount, running_sandbox
from tests.e2e.cli.test_up import at, database_of, processes_of
from tests.fixtures.commands import Answer, Run, complete_up_to, customer, settings
from tests.fixtures.factories import PASSWORD
from tests.fixtures.machine import open_folder
from tests.integration.cli import test_main

KEY, WRONG_KEY = "right-key-9c1f77d0", "wrong-key-51b2ae46"
ALDER, BIRCH = "Alder Library", "Birch Library"
SIGNATURE = re.compile(rb"3MCLAUTH\s+\S+:[A-Za-z0-9+/]{20,}|[A-Za-z0-9+/]{43}=\W+GET\W")
BODY = re.compile(rb'"body"\s*:\s*"([A-Za-z0-9+/=]+)"')


@dataclass
class Lived:
    """A home in which all has happened that leaves traces, and what was seen meanwhile."""

    home: Path
    sandbox: RunningSandbox
    answers: list[Answer] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    old_keys: list[bytes] = field(default_factory=list)

    def secrets(self) -> dict[str, bytes]:
        """Everything that nobody may see, by what it is."""
        keys = [*self.old_keys, *(self.home / "secret.key").read_bytes().split()]
        return {
            "an account key": KEY.encode(),
            "a wrong account key": WRONG_KEY.encode(),
            "a password": PASSWORD.encode(),
            **{f"encryption key {number}": key for number, key in enumerate(keys)},
            "PostgreSQL's password": (self.home / "postgres" / "password").read_bytes(),
            "Valkey's password": (self.home / "valkey" / "password").read_bytes(),
        }

    def found_in(self, data: bytes) -> set[str]:
        """Which secrets stand in the data, plainly or in a form that anybody can undo."""
        forms = {
            (name, form)
            for name, secret in self.secrets().items()
            for form in (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"=")[:-1])
        }
        found = {name for name, form in forms if form in data}
        return found | ({"a signature"} if SIGNATURE.search(data) else set())


@contextmanager
def umask(mode: int) -> Iterator[None]:
    before = os.umask(mode)
    yield
    os.umask(before)


@contextmanager
def watching_processes(seen: set[bytes]) -> Iterator[None]:
    """Note what `ps` shows to everybody meanwhile: the arguments of every process of this machine."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(place.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@contextmanager
def selling() -> Iterator[RunningSandbox]:
    """A vendor that is often at fault."""
    now = utc_now()
    catalogue = build_catalogue(60, now - timedelta(days=4), now, seed=1)
    faults = Faults.parse("bad-gateway=0.05,html=0.05,drop=0.03,truncated=0.05", seed=1)
    activity = Activity(catalogue, 200, now - timedelta(hours=1), seed=1)
    account = SandboxAccount(account_key=KEY)
    with running_sandbox(Sandbox(catalogue, account, faults, activity=activity)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def lived() -> Iterator[Lived]:
    """Three workflows have run to good and bad ends, at debug level, started where files are everybody's."""
    with open_folder() as folder, selling() as sandbox:
        lived = Lived(folder / "home", sandbox)
        try:
            with watching_processes(lived.seen):
                live(lived)
            yield lived
            assert at(lived.home, "down").code == 0
        finally:
            stop_running(lived.home, 30)
            for process in processes_of(lived.home):
                process.kill()
            remove_home_data(lived.home)


def live(lived: Lived) -> None:
    home = lived.home

    def tell(*arguments: str, **variables: str) -> Answer:
        lived.answers.append(at(home, *arguments, **variables))
        return lived.answers[-1]

    with umask(0):
        up = tell(*("up", "--detach"), ACCESSION_LOG_LEVEL="debug", ACCESSION_RETRY_BACKOFF_SECONDS="0.1")
    assert up.code == 0, up
    with database_of(home) as session:
        customer(session, lived.sandbox, ALDER)
    account = ("--library-id", "sandbox", "--account-id", "library.sandbox")
    base_url = ("--base-url", lived.sandbox.base_url)
    with umask(0):
        added = tell("collections", "add", BIRCH, *account, *base_url, ACCESSION_ACCOUNT_KEY=WRONG_KEY)
    assert added.code == 0, added
    assert tell("import", "purchases", "--import-all", "--wait").code == 1
    assert tell("import", "events", "--import-all", "--wait").code == 1
    # The collection with the wrong key has no titles to ask about.
    assert tell("import", "circulation", "--import-all", "--wait").code == 0
    lived.old_keys += (home / "secret.key").read_bytes().split()
    with umask(0):
        assert tell("collections", "rotate-key").code == 0
    crash(lived)


def crash(lived: Lived) -> None:
    """A bug, as far as the worker can tell, in the middle of a page: its frames hold the account key."""
    with database_of(lived.home) as session:
        session.execute(text("ALTER TABLE purchase_records RENAME TO mislaid"))
        complete_up_to(session, find_collection(session, ALDER), utc_now() - timedelta(days=4))
        session.commit()
        again = ("--debug", "import", "purchases", "--collection", ALDER, "--wait")
        lived.answers.append(at(lived.home, *again))
        session.execute(text("ALTER TABLE mislaid RENAME TO purchase_records"))
        session.commit()
    assert lived.answers[-1].code == 1


def test_all_that_was_to_happen_has_happened(lived: Lived) -> None:
    """Or the others would look at nothing."""
    with database_of(lived.home) as session:
        states = {(run.workflow, run.state) for run in session.scalars(select(LedgerRun))}
        assert session.scalars(select(LicensePool)).first() is not None
    assert {("purchases", "succeeded"), ("purchases", "failed"), ("circulation", "succeeded")} <= states
    log = (lived.home / "logs" / "worker.log").read_text()
    for said in ("[debug", "asked for again", "status 401", "Traceback", "UndefinedTable", "Birch Library"):
        assert said in log, said
    assert lived.sandbox.statistics()["requests"]["marc"] > 5
    assert any(b"accession\0worker" in arguments for arguments in lived.seen)
    assert lived.found_in(b"3MCLAUTH library.sandbox:HZHNGfn6WVceakGrwXaJQ9zIY0Ai5opGct38j9/bHrE=")
    assert lived.found_in(base64.b64encode(KEY.encode())) == {"an account key"}


def test_the_database_holds_no_secret(lived: Lived) -> None:
    urls = running_servers(lived.home)
    assert urls is not None
    dump = subprocess.run(
        [str(wheel_installation().programs / "pg_dump"), "--inserts"],
        env={**os.environ, **connection_of(urls.database_url)},
        capture_output=True,
        check=True,
    ).stdout
    assert b"Birch Library" in dump
    # What is binary stands there in hexadecimal digits.
    binary = b"\n".join(bytes.fromhex(found.decode()) for found in re.findall(rb"'\\x([0-9a-f]+)'", dump))
    assert b"gAAAA" in binary
    assert lived.found_in(dump + binary) == set()


def connection_of(url: str) -> dict[str, str]:
    """The URL as variables, so that its password is no argument."""
    found = re.fullmatch(r"postgresql://(.+):(.+)@(.+):(\d+)/(.+)", url)
    assert found is not None
    names = ("PGUSER", "PGPASSWORD", "PGHOST", "PGPORT", "PGDATABASE")
    return dict(zip(names, found.groups(), strict=True))


def test_the_broker_holds_no_secret(lived: Lived) -> None:
    urls = running_servers(lived.home)
    assert urls is not None
    with Redis.from_url(urls.redis_url) as broker:
        held = b"\n".join(repr((key, value_of(broker, key))).encode() for key in broker.scan_iter())
    assert b"celery-task-meta" in held
    assert lived.found_in(readable(held)) == set()


def value_of(broker: Redis, key: bytes) -> object:
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
            raise AssertionError(f"nobody has looked into a {other!r}")


def readable(data: bytes) -> bytes:
    """The data and the bodies of the messages in it, which kombu encodes."""
    bodies = [base64.b64decode(found) for found in BODY.findall(data)]
    return b"\n".join([data, *bodies])


def test_every_message_there_ever_was_holds_no_secret(lived: Lived) -> None:
    journal = b"".join(path.read_bytes() for path in (lived.home / "valkey" / "appendonlydir").iterdir())
    messages = readable(journal)
    assert b"import_purchase_records_by_collection" in messages
    assert b'"offset": ' in messages
    assert lived.found_in(messages) == set()


KEEPERS = {
    "secret.key": "encryption key",
    "servers.json": "password",
    "postgres/password": "PostgreSQL's password",
    "valkey/password": "Valkey's password",
    "valkey/valkey.conf": "Valkey's password",
}


def test_no_file_holds_a_secret_but_those_that_are_to_keep_it(lived: Lived) -> None:
    seen = set()
    for path in files_of(lived.home):
        name = str(path.relative_to(lived.home))
        seen.add(name)
        for found in lived.found_in(path.read_bytes()):
            assert KEEPERS.get(name, "nothing") in found, f"{found} in {name}"
    assert seen >= KEEPERS.keys()
    assert {"logs/worker.log", "logs/beat.log", "logs/accession.log", "logs/postgres.log"} <= seen
    assert any(name.startswith("postgres/data/pg_wal/") for name in seen)


def test_what_the_home_holds_is_its_owners_alone(lived: Lived) -> None:
    """Though it was started where new files are everybody's."""
    home = lived.home
    assert home.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    paths = [*files_of(home), *(path for path in home.rglob("*") if path.is_dir())]
    open_to_others = {
        f"{path.relative_to(home)} {path.stat().st_mode & 0o777:o}"
        for path in paths
        if path.stat().st_mode & 0o077
    }
    assert open_to_others == set()
    assert list(home.glob("beat-schedule*"))


def files_of(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def test_no_process_list_shows_a_secret(lived: Lived) -> None:
    assert len(lived.seen) > 10
    shown = [arguments for arguments in lived.seen if lived.found_in(arguments)]
    assert shown == []


def test_a_server_of_another_user_has_no_secret_in_its_environment(lived: Lived) -> None:
    servers = {part.name: part.pid for part in parts(lived.home) if part.name in ("postgres", "valkey")}
    assert len(servers) == 2
    for pid in servers.values():
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert lived.found_in(environment) == set()


# What a command answers

ANSWERED: dict[str, tuple[str, ...]] = {
    "collections add": (ALDER, "--library-id", "x", "--account-id", "x"),
    "collections test": (BIRCH,),
    "collections set-key": (BIRCH,),
    "collections remove": ("Nowhere", "--yes"),
    "import purchases": ("--collection", BIRCH, "--wait"),
    "import events": ("--collection", BIRCH, "--wait"),
    "import circulation": ("--collection", BIRCH, "--wait"),
    "titles refresh": ("x", "--collection", BIRCH),
    "titles show": ("x",),
    # What is no text goes where nobody reads it as one.
    "export parquet": ("--output", "memory://titles.parquet"),
    "rejects show": ("1",),
    "users add": ("ann", "--role", "viewer"),
    "users set-password": ("ann",),
    "users set-role": ("ann", "operator"),
    "users remove": ("bob", "--yes"),
    "tokens revoke": ("script",),
}
# They go on for ever, end what the others need, or print secrets that are meant: `env` those of the servers,
# `tokens add` the token, `sandbox serve` its own that is none.
NOT_ASKED = {"down", "demo", "env", "worker", "beat", "web", "tokens add", "sandbox serve"}
COMMANDS = {name.removeprefix("accession "): found for name, found in test_main.COMMANDS.items()}
WITH_JSON = [name for name, found in COMMANDS.items() if any("--json" in p.opts for p in found.params)]


def asked(name: str) -> list[tuple[str, ...]]:
    """The ways in which the command is asked."""
    command = (*name.split(), *ANSWERED.get(name, ()))
    as_json = [(*command, "--json")] if name in WITH_JSON else []
    return [(*debug, *each) for debug in ((), ("--debug",)) for each in (command, *as_json)]


ASKED = sorted(COMMANDS.keys() - NOT_ASKED)
# What speaks to the workers does so through the broker of its process's first command.
IN_PROCESSES_OF_THEIR_OWN = [name for name in ASKED if name.startswith("import ") or name == "doctor"]


@pytest.mark.parametrize("name", [name for name in ASKED if name not in IN_PROCESSES_OF_THEIR_OWN])
def test_no_answer_of_a_command_tells_a_secret(
    run: Run, lived: Lived, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", WRONG_KEY)
    monkeypatch.setenv("ACCESSION_PASSWORD", PASSWORD)
    with settings(home=lived.home, log_level="debug"):
        for arguments in asked(name):
            answer = run(*arguments)
            assert answer.out + answer.err
            assert lived.found_in((answer.out + answer.err).encode()) == set()


@pytest.mark.parametrize("name", IN_PROCESSES_OF_THEIR_OWN)
def test_no_answer_of_a_command_that_speaks_to_the_workers_tells_a_secret(lived: Lived, name: str) -> None:
    answer = at(lived.home, "--debug", *name.split(), *ANSWERED.get(name, ()))
    assert BIRCH in answer.out + answer.err
    assert lived.found_in((answer.out + answer.err).encode()) == set()


def test_no_answer_told_a_secret_while_it_all_happened(lived: Lived) -> None:
    for answer in lived.answers:
        assert lived.found_in((answer.out + answer.err).encode()) == set(), answer


def test_a_key_that_is_typed_is_not_shown(run: Run, lived: Lived) -> None:
    with settings(home=lived.home):
        answer = run("collections", "set-key", BIRCH, typed=f"{WRONG_KEY}\n")
    assert answer.code == 0
    assert "Account key" in answer.out
    assert lived.found_in((answer.out + answer.err).encode()) == set()
