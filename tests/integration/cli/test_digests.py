"""Commands of `accession digests`."""

from datetime import date

import pytest
import time_machine
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, audit_entries
from accession.core.workflow import Workflow
from accession.db.models import Collection
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.commands import Cli
from tests.fixtures.digests import RECIPIENT, MailServer, make_digest, smtp
from tests.fixtures.factories import day
from tests.integration.digests.test_content import purchase

__all__ = ["smtp"]

MONDAY = day(2024, 4, 29, 7)
BOB = "bob@library.example"


def actions(session: Session) -> list[tuple[str, str]]:
    entries = audit_entries(session, AuditFilter(action="digest"), limit=100)
    return [(entry.action, entry.subject) for entry in reversed(entries)]


def test_digest_is_set_listed_and_removed(
    cli: Cli, database: None, session: Session, collection: Collection
) -> None:
    name = collection.name
    assert cli("digests", "list").stdout.startswith("No digests. Set one with:")
    with time_machine.travel(MONDAY, tick=False):
        arguments = ("--recipient", RECIPIENT, "--time", "07:30", "--time-zone", "Europe/Berlin")
        output = cli("digests", "set", name, *arguments).stdout
    assert output.splitlines()[:3] == [
        f'Digest of "{name}": At 07:30 on Monday (Europe/Berlin).',
        f"Recipients: {RECIPIENT}",
        "Next issue: Mon 2024-05-06 05:30 UTC",
    ]
    assert "No mail server is configured" in output
    changed = cli("digests", "set", name, "--frequency", "daily", "--send-empty", "--json").json
    assert changed["options"] == {
        "frequency": "daily",
        "weekday": "monday",
        "time": "07:30",
        "time_zone": "Europe/Berlin",
        "recipients": [RECIPIENT],
        "send_empty": True,
        "max_titles": 20,
    }
    (listed,) = cli("digests", "list", "--json").json
    assert listed["options"] == changed["options"]
    assert cli("digests", "set", name, "--without-recipients", "--json").json["options"]["recipients"] == []
    assert cli("digests", "remove", name).stdout == f'Removed the digest of "{name}".\n'
    assert actions(session) == [("digest.set", name)] * 3 + [("digest.remove", name)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("set", "Birch Library"), "Birch Library"),
        (("set", "Alder Library", "--time", "7"), "The time '7' of the digest is invalid"),
        (("set", "Alder Library", "--recipient", "ann"), "The recipient 'ann' is invalid"),
        (("set", "Alder Library", "--recipient", "a@b.example", "--without-recipients"), "either"),
        (("preview", "Alder Library"), "has no digest"),
        (("send", "Alder Library"), "has no digest"),
        (("remove", "Alder Library"), "has no digest"),
    ],
)
def test_invalid_command_says_what_to_do(
    cli: Cli, database: None, collection: Collection, arguments: tuple[str, ...], message: str
) -> None:
    result = cli("digests", *arguments)
    assert result.exit_code != 0
    assert message in result.stderr


def test_preview_prints_the_mail(cli: Cli, database: None, session: Session, collection: Collection) -> None:
    make_digest(session, collection)
    purchase(session, collection, "abc", date(2024, 4, 28))
    checkpoint = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    checkpoint.finish = checkpoint.confirmed = MONDAY
    session.commit()
    with time_machine.travel(MONDAY, tick=False):
        text = cli("digests", "preview", collection.name).stdout
        html = cli("digests", "preview", collection.name, "--html").stdout
        content = cli("digests", "preview", collection.name, "--json").json
    assert text.startswith(f"Subject: {collection.name}: 1 purchased (22–28 April 2024)\n")
    assert "- Title abc\n  Stanisław Lem\n  Purchased on 28 April · EPUB e-book\n" in text
    assert html.startswith("<!doctype html>")
    assert content["sections"][0]["total"] == 1


def test_digest_is_sent_and_logged(
    cli: Cli, database: None, session: Session, collection: Collection, smtp: MailServer
) -> None:
    make_digest(session, collection)
    assert cli("digests", "log", collection.name).stdout == "No issues yet.\n"
    assert cli("digests", "send", collection.name).stdout == f"{RECIPIENT}: sent\n"
    assert cli("digests", "send", collection.name, "--to", BOB).stdout == f"{BOB}: sent\n"
    assert smtp.recipients == [RECIPIENT, BOB]
    (second, first) = cli("digests", "log", collection.name, "--json").json
    assert [first["mails"][0]["recipient"], second["mails"][0]["recipient"]] == [RECIPIENT, BOB]
    log = cli("digests", "log", collection.name).stdout
    assert log.count("sent") == 2
    assert actions(session)[1:] == [("digest.send", collection.name)] * 2


def test_mail_that_is_not_sent_fails_the_command(
    cli: Cli, database: None, session: Session, collection: Collection, smtp: MailServer
) -> None:
    smtp.replies[RECIPIENT] = "550 no such user"
    make_digest(session, collection)
    result = cli("digests", "send", collection.name)
    assert result.exit_code == 1
    assert f"{RECIPIENT}: failed. The mail server 127.0.0.1 rejects the recipient (550" in result.stdout
    assert "Not all mails were sent" in result.stderr
