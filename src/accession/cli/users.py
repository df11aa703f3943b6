"""Commands of `accession users`: manage who may log in to the dashboard."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.auth.audit import AuditAction, record
from accession.auth.names import validate_name
from accession.auth.passwords import validate_password
from accession.auth.roles import UserRole
from accession.auth.users import (
    activate_user,
    add_user,
    deactivate_user,
    find_user,
    has_users,
    remove_user,
    require_password_user,
    set_password,
    set_role,
    user_views,
)
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue, resolve_servers
from accession.cli.output import AsJson, console, print_listing
from accession.core.loopback import is_loopback
from accession.core.settings import get_settings
from accession.db import schema
from accession.db.engine import engine
from accession.local.backup import exclusive_servers
from accession.web.throttle import unlock, unlock_if_possible

PASSWORD_VARIABLE = "ACCESSION_PASSWORD"  # noqa: S105

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user.")]
ROLE_HELP = (
    "A viewer sees collections, titles and runs; an operator may also manage collections and start runs; an "
    "administrator may also manage users and tokens, and see settings and audit log."
)


@app.command(epilog="Example: accession users add ann --role administrator")
def add(name: Name, role: Annotated[UserRole, typer.Option("--role", help=ROLE_HELP)]) -> None:
    """Add a user.

    The password is read from the environment variable ACCESSION_PASSWORD, otherwise from a prompt. It is
    stored as a hash.

    As soon as there is a user, everybody has to log in, also on this machine. The first user can be added
    before `accession up`, which serves the dashboard only on a loopback address while there is no user.
    """
    validate_name("user", name)
    password = _read_password()
    with _open_catalogue_or_start_servers() as session:
        add_user(session, name, password, role)
        record(session, command_actor(), AuditAction.USER_ADD, name, {"role": role})
    console.print(f'Added user "{name}" with the role {role.value}.', markup=False)


@contextmanager
def _open_catalogue_or_start_servers() -> Iterator[Session]:
    """Open a session; where no servers run, start the embedded ones for as long as it is open."""
    with ExitStack() as stack:
        settings = resolve_servers()
        if settings.database_url is None or settings.redis_url is None:
            stack.enter_context(exclusive_servers(settings))
            resolve_servers()
            schema.upgrade(engine())
        yield stack.enter_context(open_catalogue())


def _read_password() -> SecretStr:
    text = os.environ.get(PASSWORD_VARIABLE)
    if text is None:
        text = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    password = SecretStr(text)
    validate_password(password)
    return password


@app.command("list")
def list_users(as_json: AsJson = False) -> None:
    """List the users."""
    advice = "Add one with: accession users add NAME --role administrator"
    with open_catalogue() as session:
        print_listing(
            user_views(session),
            [
                ("Name", lambda user: user.name),
                ("Role", lambda user: user.role),
                ("Login", lambda user: user.issuer or "password"),
                ("State", lambda user: "active" if user.deactivated_at is None else "deactivated"),
                ("Added", lambda user: user.created_at),
                ("Last login", lambda user: user.last_login_at),
            ],
            as_json=as_json,
            empty_message=f"{_no_users_message()} {advice}",
        )


def _no_users_message() -> str:
    if get_settings().oidc_issuer is not None:
        return "There are no users: the provider adds people at their first login."
    if is_loopback(get_settings().web_host):
        return "There are no users: the dashboard is open to everybody on this machine."
    return "There are no users: the dashboard is not served."


@app.command("set-password")
def change_password(name: Name) -> None:
    """Change a user's password, end the user's sessions, and allow logins after too many failed ones.

    The password is read from the environment variable ACCESSION_PASSWORD, otherwise from a prompt.
    """
    # Fail before the prompt, not after it.
    with open_catalogue() as session:
        user = find_user(session, name)
        require_password_user(user.name, user.oidc_issuer)
    password = _read_password()
    with open_catalogue() as session:
        set_password(session, name, password)
        record(session, command_actor(), AuditAction.USER_SET_PASSWORD, name)
    unlock_if_possible(name)
    console.print(f'Changed the password of "{name}"; all sessions of this user are ended.', markup=False)


@app.command("unlock")
def allow_logins(name: Name) -> None:
    """Allow a user's logins again after too many failed ones."""
    with open_catalogue() as session:
        find_user(session, name)
        record(session, command_actor(), AuditAction.USER_UNLOCK, name)
    unlock(name)
    console.print(f'"{name}" can log in again.', markup=False)


@app.command("set-role")
def change_role(
    name: Name,
    role: Annotated[UserRole, typer.Argument(metavar="ROLE", help="viewer, operator or administrator.")],
) -> None:
    """Change a user's role, and end the user's sessions."""
    with open_catalogue() as session:
        old_role = set_role(session, name, role)
        details = {"role": f"{old_role} → {role}"}
        record(session, command_actor(), AuditAction.USER_SET_ROLE, name, details)
    console.print(
        f'Changed the role of "{name}" to {role.value}; all sessions of this user are ended.', markup=False
    )


@app.command()
def deactivate(name: Name) -> None:
    """Refuse a user's logins until further notice, and end the user's sessions.

    The user is kept: a person who logs in at an OpenID Connect provider would be added again after a removal.
    """
    with open_catalogue() as session:
        deactivate_user(session, name)
        record(session, command_actor(), AuditAction.USER_DEACTIVATE, name)
    console.print(f'Deactivated "{name}"; all sessions of this user are ended.', markup=False)


@app.command()
def activate(name: Name) -> None:
    """Allow a deactivated user to log in again."""
    with open_catalogue() as session:
        activate_user(session, name)
        record(session, command_actor(), AuditAction.USER_ACTIVATE, name)
    console.print(f'Activated "{name}".', markup=False)


@app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking for confirmation.")] = False,
) -> None:
    """Remove a user, and end the user's sessions."""
    with open_catalogue() as session:
        find_user(session, name)
        if not yes:
            typer.confirm(f'Remove the user "{name}"?', abort=True)
        remove_user(session, name)
        record(session, command_actor(), AuditAction.USER_REMOVE, name)
        was_last = not has_users(session)
    console.print(f'Removed user "{name}".', markup=False)
    if was_last:
        console.print(_no_users_message(), markup=False, soft_wrap=True)
