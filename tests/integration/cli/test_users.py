"""Users and tokens from the command line."""

import re

import pytest
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.auth.users import Role, add_user, use_token, user_with_password
from accession.core.settings import get_settings
from accession.db.models import Collection, User
from tests.e2e.cli.test_up import at, new_home, processes_of
from tests.fixtures.commands import Answer, Run, settings
from tests.fixtures.factories import PASSWORD
from tests.fixtures.machine import eventually, free_port, status_of

OTHER = "another long password"
EVERYWHERE = {"ACCESSION_WEB_HOST": "0.0.0.0"}  # noqa: S104
REFUSED = (
    "The dashboard is to be served at 0.0.0.0, where others reach it, and there is no user: "
    "add one with `accession users add NAME --role operator`, or unset ACCESSION_WEB_HOST."
)


def typed(password: str, again: str | None = None) -> str:
    return f"{password}\n{password if again is None else again}\n"


def knows(session: Session, name: str, password: str) -> bool:
    session.rollback()
    return user_with_password(session, name, SecretStr(password)) is not None


@pytest.fixture
def ann(session: Session) -> str:
    add_user(session, "ann", SecretStr(PASSWORD), Role.OPERATOR)
    session.commit()
    return "ann"


def test_a_user_is_added_with_a_password_that_is_typed_twice_and_not_shown(
    run: Run, session: Session
) -> None:
    answer = run("users", "add", "ann", "--role", "operator", typed=typed(PASSWORD))
    assert answer.code == 0
    assert answer.out.endswith('"ann" may log in as operator.\n')
    assert PASSWORD not in answer.out + answer.err
    assert knows(session, "ann", PASSWORD)


def test_a_password_that_is_typed_otherwise_again_is_asked_for_anew(run: Run, session: Session) -> None:
    answer = run("users", "add", "ann", "--role", "viewer", typed=typed(OTHER, "x") + typed(PASSWORD))
    assert answer.code == 0
    assert knows(session, "ann", PASSWORD)


def test_a_user_is_added_with_the_password_of_the_environment(
    run: Run, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_PASSWORD", PASSWORD)
    answer = run("users", "add", "vic", "--role", "viewer")
    assert answer == Answer(0, '"vic" may log in as viewer.\n', "")
    assert knows(session, "vic", PASSWORD)


@pytest.mark.parametrize("password", ["", "too short"])
def test_a_password_that_is_too_short_is_refused_in_one_sentence(
    run: Run, database: None, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("ACCESSION_PASSWORD", password)
    sentence = run("users", "add", "ann", "--role", "viewer").sentence
    assert sentence == ("The password is too short: take at least 12 characters, such as four words.")


def test_a_role_that_there_is_not_is_a_usage_error(run: Run, database: None) -> None:
    assert run("users", "add", "ann", "--role", "king").code == 2
    assert run("users", "add", "ann").code == 2


def test_a_name_that_is_none_is_refused_before_a_password_is_asked_for(run: Run, database: None) -> None:
    assert run("users", "add", " ", "--role", "viewer").sentence.startswith("A user cannot be named ' '")


def test_the_users_are_listed_without_their_secrets(run: Run, session: Session, ann: str) -> None:
    (listed,) = run("users", "list", "--json").json
    assert (listed.keys(), listed["name"], listed["role"]) == (
        {"name", "role", "created_at"},
        "ann",
        "operator",
    )
    assert re.search(r"^ann +operator +20", run("users", "list").out, re.MULTILINE)
    user = session.scalars(select(User)).one()
    for secret in (user.password_hash, user.session_key):
        assert secret not in run("--debug", "users", "list", "--json").out


@pytest.mark.parametrize(
    ("host", "follows"),
    [
        ("127.0.0.1", "whoever is on this machine may do everything in the dashboard."),
        ("0.0.0.0", "nobody can use the dashboard."),  # noqa: S104
    ],
)
def test_without_a_user_it_is_said_what_that_means(
    run: Run, session: Session, ann: str, host: str, follows: str
) -> None:
    urls = get_settings().model_dump(include={"home", "database_url", "redis_url"})
    with settings(**urls, web_host=host):
        assert (
            run("users", "remove", "ann", "--yes").out == f'"ann" is removed.\nThere is no user: {follows}\n'
        )
        said = " ".join(run("users", "list").out.split())
    assert said == f"There is no user: {follows} Add one with: accession users add NAME --role operator"


def test_a_new_password_and_a_new_role(run: Run, session: Session, ann: str) -> None:
    answer = run("users", "set-password", "ann", typed=typed(OTHER))
    assert answer.code == 0
    assert (knows(session, "ann", PASSWORD), knows(session, "ann", OTHER)) == (False, True)
    answer = run("users", "set-role", "ann", "viewer")
    assert answer.out == '"ann" is a viewer now, and is logged out everywhere.\n'
    assert run("users", "list", "--json").json[0]["role"] == "viewer"


def test_a_user_is_removed_when_that_is_meant(run: Run, session: Session, ann: str) -> None:
    assert run("users", "remove", "ann", typed="n\n").code == 1
    assert knows(session, "ann", PASSWORD)
    answer = run("users", "remove", "ann", typed="y\n")
    assert answer.code == 0
    assert not knows(session, "ann", PASSWORD)


@pytest.mark.parametrize("asked", [("set-password",), ("remove", "--yes"), ("set-role", "viewer")])
def test_an_unknown_user_is_told_before_anything_is_asked(
    run: Run, database: None, asked: tuple[str, ...]
) -> None:
    name, *more = asked
    assert (
        run("users", name, "bob", *more).sentence == 'No user found named "bob": see `accession users list`.'
    )


def test_a_token_is_printed_once_alone_on_standard_output(run: Run, session: Session) -> None:
    answer = run("tokens", "add", "prometheus", "--role", "viewer")
    assert answer.code == 0
    assert answer.err == 'The token "prometheus", a viewer\'s; nobody can show it again:\n'
    token = answer.out.strip()
    assert answer.out == f"{token}\n"
    assert use_token(session, SecretStr(token)) is not None
    session.rollback()

    (listed,) = run("tokens", "list", "--json").json
    assert listed.keys() == {"name", "role", "feeds", "collection", "created_at", "last_used_at"}
    for again in (run("tokens", "list"), run("--debug", "tokens", "list", "--json")):
        assert "prometheus" in again.out
        assert token not in again.out + again.err

    assert run("tokens", "revoke", "prometheus").out == 'The token "prometheus" is revoked.\n'
    assert use_token(session, SecretStr(token)) is None
    assert run("tokens", "list").out.startswith("No tokens in use.")
    assert run("tokens", "revoke", "prometheus").sentence.startswith("No token in use is named")


def test_a_token_for_feeds_is_listed_with_what_it_opens(
    run: Run, session: Session, collection: Collection
) -> None:
    answer = run("tokens", "add", "app", "--feed", "opds", "--feed", "oai", "--collection", collection.name)
    assert answer.err == 'The token "app", for reading opds, oai; nobody can show it again:\n'
    assert use_token(session, SecretStr(answer.out.strip())) is not None
    session.rollback()
    (listed,) = run("tokens", "list", "--json").json
    assert (listed["role"], listed["feeds"], listed["collection"]) == (None, ["oai", "opds"], collection.name)
    assert re.search(rf"^app +oai, opds +{collection.name} +20", run("tokens", "list").out, re.MULTILINE)


@pytest.mark.parametrize(
    "opens",
    [
        (),
        ("--role", "viewer", "--feed", "oai"),
        ("--role", "viewer", "--collection", "Alder Library"),
        ("--collection", "Alder Library"),
        ("--feed", "rss"),
    ],
)
def test_a_token_is_of_a_role_or_for_feeds(run: Run, collection: Collection, opens: tuple[str, ...]) -> None:
    assert run("tokens", "add", "app", *opens).code == 2


def test_a_token_for_the_feed_of_no_collection_is_refused(run: Run, database: None) -> None:
    refused = run("tokens", "add", "app", "--feed", "opds", "--collection", "Nowhere")
    assert refused.sentence == 'No collection found named "Nowhere".'


# Who reaches it


def test_at_the_first_start_it_is_not_served_to_others_before_there_is_a_user() -> None:
    """A user can be added though nothing runs yet."""
    with new_home() as home:
        refused = at(home, "up", ACCESSION_WEB_PORT=free_port(), **EVERYWHERE)
        assert refused.sentence == REFUSED
        assert processes_of(home) == []

        added = at(home, "users", "add", "ann", "--role", "operator", ACCESSION_PASSWORD=PASSWORD)
        assert added == Answer(0, '"ann" may log in as operator.\n', "")
        assert processes_of(home) == []

        port = free_port()
        assert at(home, "up", "--detach", ACCESSION_WEB_PORT=port, **EVERYWHERE).code == 0
        eventually(lambda: status_of(f"http://127.0.0.1:{port}/api") == 401)
        assert at(home, "down").code == 0


def test_nor_by_the_part_alone(run: Run, session: Session) -> None:
    urls = get_settings().model_dump(include={"home", "database_url", "redis_url"})
    with settings(**urls, web_host="0.0.0.0"):  # noqa: S104
        assert run("web").sentence == REFUSED
