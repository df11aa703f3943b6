"""Commands of `accession users`, and the users that `up` and `web` need."""

import re
import socket
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.auth.audit import AuditFilter, read_audit_log
from accession.auth.roles import UserRole
from accession.auth.users import add_user, authenticate_user
from accession.core.settings import get_settings
from accession.db.models import User
from accession.local.servers import ServerUrls
from accession.web.server import require_user_unless_loopback
from tests.fixtures.commands import Cli, CommandResult, server_variables, settings, settings_from_environment
from tests.fixtures.factories import PASSWORD
from tests.fixtures.homes import processes_of
from tests.fixtures.machine import free_port
from tests.fixtures.oidc import make_provider_user

ALL_INTERFACES = "0.0.0.0"  # noqa: S104
OTHER_PASSWORD = "another long password"
PROVIDER = {
    "oidc_issuer": "https://id.example",
    "oidc_client_id": "accession",
    "oidc_group_roles": {"library-administrators": "administrator"},
}
NON_LOOPBACK_ERROR = (
    "The dashboard cannot be served at 0.0.0.0, which other machines can reach, without a user: "
    "add one with `accession users add NAME --role administrator`, or unset ACCESSION_WEB_HOST."
)


def typed_twice(password: str, again: str | None = None) -> str:
    return f"{password}\n{password if again is None else again}\n"


def has_password(session: Session, name: str, password: str) -> bool:
    session.rollback()
    return authenticate_user(session, name, SecretStr(password)) is not None


@pytest.fixture
def ann(session: Session) -> str:
    add_user(session, "ann", SecretStr(PASSWORD), UserRole.OPERATOR)
    session.commit()
    return "ann"


def test_add_prompts_for_password_twice_without_echo(cli: Cli, session: Session) -> None:
    result = cli("users", "add", "ann", "--role", "operator", typed=typed_twice(PASSWORD))
    assert result.exit_code == 0
    assert result.stdout.endswith('Added user "ann" with the role operator.\n')
    assert PASSWORD not in result.stdout + result.stderr
    assert has_password(session, "ann", PASSWORD)


def test_add_prompts_again_if_passwords_differ(cli: Cli, session: Session) -> None:
    result = cli(
        "users",
        "add",
        "ann",
        "--role",
        "viewer",
        typed=typed_twice(OTHER_PASSWORD, "x") + typed_twice(PASSWORD),
    )
    assert result.exit_code == 0
    assert has_password(session, "ann", PASSWORD)


def test_add_reads_password_from_environment(
    cli: Cli, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_PASSWORD", PASSWORD)
    result = cli("users", "add", "vic", "--role", "viewer")
    assert result == CommandResult(0, 'Added user "vic" with the role viewer.\n', "")
    assert has_password(session, "vic", PASSWORD)


@pytest.mark.parametrize("password", ["", "too short"])
def test_short_password_is_rejected(
    cli: Cli, database: None, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setenv("ACCESSION_PASSWORD", password)
    error = cli("users", "add", "ann", "--role", "viewer").error
    assert error == ("The password is too short: enter at least 12 characters, such as four words.")


def test_invalid_role_is_a_usage_error(cli: Cli, database: None) -> None:
    assert cli("users", "add", "ann", "--role", "king").exit_code == 2
    assert cli("users", "add", "ann").exit_code == 2


def test_invalid_name_is_rejected_before_password_prompt(cli: Cli, database: None) -> None:
    assert cli("users", "add", " ", "--role", "viewer").error.startswith("The user name ' ' is invalid")


def test_list_shows_users_without_secrets(cli: Cli, session: Session, ann: str) -> None:
    (row,) = cli("users", "list", "--json").json
    assert (row.keys(), row["name"], row["role"]) == (
        {"id", "name", "role", "issuer", "created_at", "last_login_at", "deactivated_at"},
        "ann",
        "operator",
    )
    assert re.search(r"^ann +operator +password +active +20", cli("users", "list").stdout, re.MULTILINE)
    user = session.scalars(select(User)).one()
    for secret in (user.password_hash, user.session_key):
        assert str(secret) not in cli("--debug", "users", "list", "--json").stdout


@pytest.mark.parametrize(
    ("host", "consequence"),
    [
        ("127.0.0.1", "the dashboard is open to everybody on this machine."),
        (ALL_INTERFACES, "the dashboard is not served."),
    ],
)
def test_missing_users_message_depends_on_web_host(
    cli: Cli, session: Session, ann: str, host: str, consequence: str
) -> None:
    urls = get_settings().model_dump(include={"home", "database_url", "redis_url"})
    with settings(**urls, web_host=host):
        assert (
            cli("users", "remove", "ann", "--yes").stdout
            == f'Removed user "ann".\nThere are no users: {consequence}\n'
        )
        message = " ".join(cli("users", "list").stdout.split())
    advice = "Add one with: accession users add NAME --role administrator"
    assert message == f"There are no users: {consequence} {advice}"


def test_no_users_with_provider_means_login_adds_them(cli: Cli, session: Session) -> None:
    urls = get_settings().model_dump(include={"home", "database_url", "redis_url"})
    with settings(**urls, **PROVIDER):
        message = " ".join(cli("users", "list").stdout.split())
    assert message.startswith("There are no users: the provider adds people at their first login.")


def test_password_and_role_can_be_changed(cli: Cli, session: Session, ann: str) -> None:
    result = cli("users", "set-password", "ann", typed=typed_twice(OTHER_PASSWORD))
    assert result.exit_code == 0
    assert (has_password(session, "ann", PASSWORD), has_password(session, "ann", OTHER_PASSWORD)) == (
        False,
        True,
    )
    result = cli("users", "set-role", "ann", "viewer")
    assert result.stdout == 'Changed the role of "ann" to viewer; all sessions of this user are ended.\n'
    assert cli("users", "list", "--json").json[0]["role"] == "viewer"


def fail_logins(name: str) -> None:
    """Register as many failed attempts as lock a user out."""
    from accession.web.throttle import MAX_ATTEMPTS, register_attempt

    for _ in range(MAX_ATTEMPTS):
        register_attempt(name, "10.0.0.1")


def seconds_until_login(name: str) -> int:
    from accession.web.throttle import register_attempt

    return register_attempt(name, "10.0.0.1")


@pytest.mark.parametrize("command", [("unlock",), ("set-password",)])
def test_locked_user_can_log_in_again(
    cli: Cli, session: Session, ann: str, broker: Redis, command: tuple[str, ...]
) -> None:
    fail_logins("ann")
    assert seconds_until_login("ann") > 0

    result = cli("users", *command, "ann", typed=typed_twice("another long password"))

    assert result.exit_code == 0
    assert seconds_until_login("ann") == 0
    action = "user.unlock" if command == ("unlock",) else "user.set_password"
    assert [entry.action for entry in read_audit_log(session, AuditFilter())] == [action]


def test_remove_asks_for_confirmation(cli: Cli, session: Session, ann: str) -> None:
    assert cli("users", "remove", "ann", typed="n\n").exit_code == 1
    assert has_password(session, "ann", PASSWORD)
    result = cli("users", "remove", "ann", typed="y\n")
    assert result.exit_code == 0
    assert not has_password(session, "ann", PASSWORD)


def test_user_of_provider_is_listed_without_password(cli: Cli, session: Session) -> None:
    make_provider_user(session, "olga", "https://id.example")

    assert re.search(r"^olga +operator +https://id\.example", cli("users", "list").stdout, re.MULTILINE)
    assert cli("users", "list", "--json").json[0]["issuer"] == "https://id.example"
    # Refused before the prompt for the password.
    refusal = '"olga" logs in at https://id.example and has no password here: change it there.'
    assert cli("users", "set-password", "olga").error == refusal
    assert "comes from groups at https://id.example" in cli("users", "set-role", "olga", "viewer").error


def test_user_can_be_deactivated_and_activated(cli: Cli, session: Session, ann: str) -> None:
    result = cli("users", "deactivate", "ann")
    assert result.stdout == 'Deactivated "ann"; all sessions of this user are ended.\n'
    assert re.search(r"^ann +operator +password +deactivated", cli("users", "list").stdout, re.MULTILINE)

    assert cli("users", "activate", "ann").stdout == 'Activated "ann".\n'
    assert has_password(session, "ann", PASSWORD)
    actions = [entry.action for entry in read_audit_log(session, AuditFilter())]
    assert actions == ["user.activate", "user.deactivate"]


@pytest.mark.parametrize(
    "arguments",
    [("set-password",), ("remove", "--yes"), ("set-role", "viewer"), ("deactivate",), ("activate",)],
)
def test_unknown_user_is_reported_before_any_prompt(
    cli: Cli, database: None, arguments: tuple[str, ...]
) -> None:
    command, *options = arguments
    assert (
        cli("users", command, "bob", *options).error
        == 'No user found named "bob": see `accession users list`.'
    )


def test_up_refuses_non_loopback_bind_without_users(
    cli: Cli,
    celery_app: None,
    servers: ServerUrls,
    database: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {
        "ACCESSION_HOME": str(tmp_path),
        "ACCESSION_WEB_HOST": ALL_INTERFACES,
        "ACCESSION_WEB_PORT": free_port(),
        **server_variables(servers),
    }
    with settings_from_environment(monkeypatch, **variables):
        assert cli("up").error == NON_LOOPBACK_ERROR
    assert processes_of(tmp_path) == []


def test_web_refuses_non_loopback_bind_without_users(cli: Cli, session: Session) -> None:
    urls = get_settings().model_dump(include={"home", "database_url", "redis_url"})
    with settings(**urls, web_host=ALL_INTERFACES):
        assert cli("web").error == NON_LOOPBACK_ERROR


def test_provider_allows_non_loopback_bind_without_users(session: Session) -> None:
    urls = get_settings().model_dump(include={"home", "database_url", "redis_url"})
    with settings(**urls, **PROVIDER):
        require_user_unless_loopback(session, ALL_INTERFACES)


def test_web_on_inherited_socket_checks_its_address(cli: Cli, session: Session) -> None:
    with socket.create_server((ALL_INTERFACES, 0)) as listener:
        error = cli("web", "--fd", str(listener.fileno())).error
    assert error == NON_LOOPBACK_ERROR


def test_web_without_the_inherited_socket_is_refused(cli: Cli, session: Session) -> None:
    assert cli("web", "--fd", "9999").error == (
        "The dashboard cannot use the open socket 9999 (Bad file descriptor): correct --fd, or leave it out "
        "to listen at ACCESSION_WEB_HOST and ACCESSION_WEB_PORT."
    )
