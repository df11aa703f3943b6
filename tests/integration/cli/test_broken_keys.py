"""Damaged key files: commands that need the key report what is wrong and what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from accession.accounts import keys
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.db.models import Collection
from tests.fixtures.commands import Cli
from tests.fixtures.factories import NOON, make_collection, make_pool
from tests.fixtures.keys import KEY_FILE_DAMAGE

Damage = Callable[[Path], None]
ADVICE = "from your backup", "restore the right"

COMMANDS_THAT_NEED_THE_KEY = [
    "collections add Birch --library-id birch --account-id library.birch",
    "collections test Alder",
    "collections set-key Alder",
    "collections rotate-key",
    "titles refresh abc --collection Alder",
    "rejects retry",
]

each_damage = pytest.mark.parametrize("damage", KEY_FILE_DAMAGE, ids=lambda damage: damage.__name__)


@pytest.fixture
def alder(home: Path, session: Session) -> Collection:
    """A collection with a title and a rejected record, encrypted with the key of the home."""
    collection = make_collection(session, "Alder")
    make_pool(session, collection, "abc")
    record = RejectedRecordData("It has no id.", "<a/>", "hash")
    store_rejected_records(session, collection, PurchaseDate(NOON.date()), [record])
    session.commit()
    return collection


@pytest.fixture
def account_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_ACCOUNT_KEY", "another-account-key")


def damage_key_file(home: Path, damage: Damage) -> None:
    damage(home / "secret.key")
    keys._cipher.cache_clear()


@each_damage
@pytest.mark.parametrize("command", COMMANDS_THAT_NEED_THE_KEY)
def test_command_that_needs_key_reports_damaged_key_file(
    cli: Cli,
    home: Path,
    alder: Collection,
    account_key: None,
    damage: Damage,
    command: str,
) -> None:
    damage_key_file(home, damage)

    error = cli(*command.split()).error

    assert KEY_FILE_DAMAGE[damage] in error
    assert any(advice in error for advice in ADVICE)
    assert "secret.key" in error


@each_damage
def test_doctor_reports_damaged_key_file(
    cli: Cli, home: Path, alder: Collection, without_worker_wait: None, damage: Damage
) -> None:
    damage_key_file(home, damage)

    result = cli("doctor")

    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if "account keys: " in line]
    assert line.startswith("FAIL ")
    assert KEY_FILE_DAMAGE[damage] in line
    assert any(advice in line for advice in ADVICE)
    assert result.stderr == ""


@pytest.mark.parametrize(
    "command", ["status", "runs list", "titles list", "rejects list", "collections list"]
)
def test_command_that_needs_no_key_ignores_damage(
    cli: Cli, home: Path, alder: Collection, command: str
) -> None:
    damage_key_file(home, next(iter(KEY_FILE_DAMAGE)))
    assert cli(*command.split()).exit_code == 0
