"""Commands of `accession tokens`."""

import re

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.auth.tokens import use_token
from accession.db.models import Collection
from tests.fixtures.commands import Cli


def test_token_is_printed_once_and_works_until_revoked(cli: Cli, session: Session) -> None:
    result = cli("tokens", "add", "prometheus", "--role", "viewer")
    assert result.exit_code == 0
    assert result.stderr == 'Created the token "prometheus" with the role viewer. It is not shown again:\n'
    token = result.stdout.strip()
    assert result.stdout == f"{token}\n"
    assert use_token(session, SecretStr(token)) is not None
    session.rollback()

    (row,) = cli("tokens", "list", "--json").json
    assert row.keys() == {"id", "name", "role", "feeds", "collection", "created_at", "last_used_at"}
    for again in (cli("tokens", "list"), cli("--debug", "tokens", "list", "--json")):
        assert "prometheus" in again.stdout
        assert token not in again.stdout + again.stderr

    assert cli("tokens", "revoke", "prometheus").stdout == 'Revoked the token "prometheus".\n'
    assert use_token(session, SecretStr(token)) is None
    assert cli("tokens", "list").stdout.startswith("No active tokens.")
    assert cli("tokens", "revoke", "prometheus").error.startswith("No active token is named")


def test_feed_token_is_listed_with_its_scope(cli: Cli, session: Session, collection: Collection) -> None:
    result = cli("tokens", "add", "app", "--feed", "opds", "--feed", "oai", "--collection", collection.name)
    assert result.stderr == 'Created the token "app" for the feeds opds, oai. It is not shown again:\n'
    assert use_token(session, SecretStr(result.stdout.strip())) is not None
    session.rollback()
    (row,) = cli("tokens", "list", "--json").json
    assert (row["role"], row["feeds"], row["collection"]) == (None, ["oai", "opds"], collection.name)
    assert re.search(rf"^app +oai, opds +{collection.name} +20", cli("tokens", "list").stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--role", "viewer", "--feed", "oai"),
        ("--role", "viewer", "--collection", "Alder Library"),
        ("--collection", "Alder Library"),
        ("--feed", "rss"),
    ],
)
def test_token_needs_either_role_or_feeds(cli: Cli, collection: Collection, options: tuple[str, ...]) -> None:
    assert cli("tokens", "add", "app", *options).exit_code == 2


def test_feed_token_for_unknown_collection_is_rejected(cli: Cli, database: None) -> None:
    result = cli("tokens", "add", "app", "--feed", "opds", "--collection", "Nowhere")
    assert result.error == 'No collection found named "Nowhere".'
