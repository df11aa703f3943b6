"""`accession users` and `accession tokens`: who may use dashboard and API."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.auth.users import (
    Feed,
    Role,
    add_feed_token,
    add_token,
    add_user,
    any_user,
    find_user,
    remove_user,
    require_name,
    require_password,
    revoke_token,
    set_password,
    set_role,
    token_views,
    user_views,
)
from accession.cli.connect import attach, catalogue
from accession.cli.output import AsJson, console, print_listing
from accession.core.loopback import is_loopback
from accession.core.settings import get_settings
from accession.db import schema
from accession.db.engine import engine
from accession.local.backup import servers_at_rest

PASSWORD_VARIABLE = "ACCESSION_PASSWORD"  # noqa: S105

app = typer.Typer(no_args_is_help=True, help="Who may log in to the dashboard.")
tokens = typer.Typer(no_args_is_help=True, help="What programs show to use the API, or to read feeds.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
TokenName = Annotated[str, typer.Argument(metavar="NAME", help="The token's name: what it is for.")]
WithRole = Annotated[
    Role, typer.Option("--role", help="A viewer sees everything, an operator may also change things.")
]

_OPEN_HOUSE = "whoever is on this machine may do everything in the dashboard"
_SHUT = "nobody can use the dashboard"


@app.command()
def add(name: Name, role: WithRole) -> None:
    """Add a user.

    The password comes from the environment variable ACCESSION_PASSWORD, else a prompt asks for it, twice.
    It is stored as a hash. From the first user on everybody logs in, on this machine too. It can be done
    before `accession up`, which serves no address that others reach while there is no user.
    """
    require_name("user", name)
    password = _password()
    with _catalogue_at_any_time() as session:
        add_user(session, name, password, role)
    console.print(f'"{name}" may log in as {role.value}.', markup=False)


@contextmanager
def _catalogue_at_any_time() -> Iterator[Session]:
    """A transaction, on servers that are started for it where none run."""
    with ExitStack() as stack:
        settings = attach()
        if settings.database_url is None or settings.redis_url is None:
            stack.enter_context(servers_at_rest(settings))
            attach()
            schema.upgrade(engine())
        yield stack.enter_context(catalogue())


def _password() -> SecretStr:
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is None:
        given = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    password = SecretStr(given)
    require_password(password)
    return password


@app.command("list")
def list_users(as_json: AsJson = False) -> None:
    """List the users."""
    with catalogue() as session:
        print_listing(
            user_views(session),
            [
                ("Name", lambda user: user.name),
                ("Role", lambda user: user.role),
                ("Added", lambda user: user.created_at),
            ],
            as_json=as_json,
            when_empty=f"{_without_users()} Add one with: accession users add NAME --role operator",
        )


def _without_users() -> str:
    follows = _OPEN_HOUSE if is_loopback(get_settings().web_host) else _SHUT
    return f"There is no user: {follows}."


@app.command("set-password")
def set_password_(name: Name) -> None:
    """Give a user a new password, which ends the user's sessions.

    It comes from the environment variable ACCESSION_PASSWORD, else a prompt asks for it, twice.
    """
    # Before a person is asked for a password in vain.
    with catalogue() as session:
        find_user(session, name)
    password = _password()
    with catalogue() as session:
        set_password(session, name, password)
    console.print(f'"{name}" has a new password, and is logged out everywhere.', markup=False)


@app.command("set-role")
def set_role_(
    name: Name, role: Annotated[Role, typer.Argument(metavar="ROLE", help="viewer or operator.")]
) -> None:
    """Make a user a viewer or an operator, which ends the user's sessions."""
    with catalogue() as session:
        set_role(session, name, role)
    console.print(f'"{name}" is {_a(role)} now, and is logged out everywhere.', markup=False)


def _a(role: Role) -> str:
    return "an operator" if role is Role.OPERATOR else "a viewer"


@app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a user, which ends the user's sessions."""
    with catalogue() as session:
        find_user(session, name)
        if not yes:
            typer.confirm(f'Remove the user "{name}"?', abort=True)
        remove_user(session, name)
        is_last = not any_user(session)
    console.print(f'"{name}" is removed.', markup=False)
    if is_last:
        console.print(_without_users(), markup=False, soft_wrap=True)


@tokens.command("add")
def add_token_(
    name: TokenName,
    role: Annotated[
        Role | None,
        typer.Option("--role", help="A viewer sees everything, an operator may also change things."),
    ] = None,
    feeds: Annotated[
        list[Feed] | None,
        typer.Option("--feed", help="For reading this feed and nothing else; may be given several times."),
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="Of the feeds, only this collection's.")
    ] = None,
) -> None:
    """Make a token and print it, this once: it is stored as a hash.

    It is of a role, or for feeds. A program sends it with each request, as in: Authorization: Bearer acc_...;
    one for feeds also as the password of HTTP Basic, with any name, or in the address as ?token=acc_...
    """
    if (role is None) == (not feeds) or (collection is not None and not feeds):
        raise typer.BadParameter("give either --role, or --feed with or without --collection")
    with catalogue() as session:
        if role is not None:
            token, opens = add_token(session, name, role), f"{_a(role)}'s"
        else:
            token = add_feed_token(session, name, feeds or (), collection)
            opens = f"for reading {', '.join(feeds or ())}"
    typer.echo(f'The token "{name}", {opens}; nobody can show it again:', err=True)
    typer.echo(token.get_secret_value())


@tokens.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens in use."""
    with catalogue() as session:
        print_listing(
            token_views(session),
            [
                ("Name", lambda token: token.name),
                ("Opens", lambda token: token.role or ", ".join(token.feeds)),
                ("Collection", lambda token: token.collection),
                ("Added", lambda token: token.created_at),
                ("Last used", lambda token: token.last_used_at),
            ],
            as_json=as_json,
            when_empty="No tokens in use. Make one with: accession tokens add NAME --role viewer",
        )


@tokens.command()
def revoke(name: TokenName) -> None:
    """Revoke a token: from the next request on it opens nothing."""
    with catalogue() as session:
        revoke_token(session, name)
    console.print(f'The token "{name}" is revoked.', markup=False)
