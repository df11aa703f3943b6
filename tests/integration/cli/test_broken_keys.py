"""A key file that is gone, empty, damaged, out of reach or another's: a sentence that says what to do,
wherever the key is needed."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy.orm import Session

from accession.accounts import keys
from accession.catalog.purchase_records import PurchaseDate
from accession.catalog.rejected_records import Rejection, keep_rejected
from accession.db.models import Collection
from accession.local.servers import ServerUrls
from tests.fixtures.commands import Run, running_worker
from tests.fixtures.factories import NOON, make_collection, make_pool
from tests.fixtures.machine import eventually
from tests.integration.accounts.test_key_rotation import BROKEN

Break = Callable[[Path], None]
WHAT_TO_DO = "back from your backup", "back into"

NEEDING = [
    "collections add Birch --library-id birch --account-id library.birch",
    "collections test Alder",
    "collections set-key Alder",
    "collections rotate-key",
    "titles refresh abc --collection Alder",
    "rejects retry",
]


@pytest.fixture
def alder(home: Path, session: Session) -> Collection:
    """A collection with a title and a rejected record, whose account key the home's key decrypts."""
    collection = make_collection(session, "Alder")
    make_pool(session, collection, "abc")
    keep_rejected(
        session, collection, PurchaseDate(NOON.date()), [Rejection("It has no id.", "<a/>", "hash")]
    )
    session.commit()
    return collection


@pytest.fixture
def account_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", "another-account-key")


def spoil(home: Path, broken: Break) -> None:
    broken(home / "secret.key")
    keys._cipher.cache_clear()


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
@pytest.mark.parametrize("command", NEEDING)
def test_a_command_that_needs_the_key_says_what_is_wrong_with_it_and_what_to_do(
    run: Run,
    home: Path,
    alder: Collection,
    account_key: None,
    broken: Break,
    command: str,
) -> None:
    spoil(home, broken)

    sentence = run(*command.split()).sentence

    assert BROKEN[broken] in sentence
    assert any(advice in sentence for advice in WHAT_TO_DO)
    assert "secret.key" in sentence


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_the_doctor_says_what_is_wrong_with_the_key_and_what_to_do(
    run: Run, home: Path, alder: Collection, monkeypatch: pytest.MonkeyPatch, broken: Break
) -> None:
    monkeypatch.setattr("accession.cli.checks._TIMES_ASKED", 1)
    spoil(home, broken)

    answer = run("doctor")

    assert answer.code == 1
    (found,) = [line for line in answer.out.splitlines() if "account keys: " in line]
    assert found.startswith("BAD ")
    assert BROKEN[broken] in found
    assert any(advice in found for advice in WHAT_TO_DO)
    assert answer.err == ""


@pytest.mark.parametrize(
    "command", ["status", "runs list", "titles list", "rejects list", "collections list"]
)
def test_a_command_that_needs_no_key_does_without(
    run: Run, home: Path, alder: Collection, command: str
) -> None:
    spoil(home, next(iter(BROKEN)))
    assert run(*command.split()).code == 0


@pytest.fixture
def worker(home: Path, servers: ServerUrls, broker: Redis) -> Iterator[Path]:
    """The log of a worker of the home."""
    home.mkdir(exist_ok=True)
    with running_worker(servers, home):
        yield home / "worker.log"


def test_a_run_without_the_key_fails_with_the_sentence_and_the_worker_prints_no_traceback(
    run: Run, home: Path, alder: Collection, worker: Path
) -> None:
    right = (home / "secret.key").read_bytes()
    for broken, said in BROKEN.items():
        spoil(home, broken)
        answer = run("import", "purchases", "--collection", "Alder", "--wait")
        assert answer.code == 1
        assert "Alder: failed: " in answer.err
        assert said in answer.err.splitlines()[-1]
        assert said in run("status").out
        eventually(partial(is_said_in, worker, said))
        restore(home / "secret.key", right)
    assert "Traceback" not in worker.read_text()


def is_said_in(log: Path, sentence: str) -> bool:
    return sentence in log.read_text()


def restore(file: Path, content: bytes) -> None:
    if file.is_dir():
        file.rmdir()
    file.write_bytes(content)
    keys._cipher.cache_clear()
