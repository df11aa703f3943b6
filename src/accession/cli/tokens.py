"""Commands of `accession tokens`: manage the tokens of programs that use the API or the feeds."""

from typing import Annotated

import typer

from accession.auth.audit import AuditAction, record
from accession.auth.roles import FeedKind, UserRole
from accession.auth.tokens import add_feed_token, add_token, revoke_token, token_views
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue
from accession.cli.output import AsJson, console, print_listing
from accession.cli.users import ROLE_HELP

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the token, such as the program's.")]


@app.command(epilog="Example: accession tokens add discovery --feed oai --feed opds")
def add(
    name: Name,
    role: Annotated[UserRole | None, typer.Option("--role", help=ROLE_HELP)] = None,
    feeds: Annotated[
        list[FeedKind] | None,
        typer.Option("--feed", help="Feed that the token may read, and nothing else; repeatable."),
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="Restrict the feeds to this collection.")
    ] = None,
) -> None:
    """Create a token and print it once: it is stored as a hash.

    Give it either a role or feeds. A program sends it in the header Authorization: Bearer acc_...;
    a token for feeds also works as the password of HTTP Basic, with any user name, and for OPDS in the
    URL as ?token=acc_... (OAI-PMH allows no other arguments).
    """
    if (role is None) == (not feeds) or (collection is not None and not feeds):
        raise typer.BadParameter("give either --role, or --feed with or without --collection")
    with open_catalogue() as session:
        if role is not None:
            token, scope = add_token(session, name, role), f"with the role {role.value}"
        else:
            token = add_feed_token(session, name, feeds or (), collection)
            scope = f"for the feeds {', '.join(feeds or ())}"
        permissions = {"role": role} if role is not None else {"feeds": feeds, "collection": collection}
        record(session, command_actor(), AuditAction.TOKEN_ADD, name, permissions)
    typer.echo(f'Created the token "{name}" {scope}. It is not shown again:', err=True)
    typer.echo(token.get_secret_value())


@app.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List the active tokens."""
    with open_catalogue() as session:
        print_listing(
            token_views(session),
            [
                ("Name", lambda token: token.name),
                ("Scope", lambda token: token.role or ", ".join(token.feeds)),
                ("Collection", lambda token: token.collection),
                ("Added", lambda token: token.created_at),
                ("Last used", lambda token: token.last_used_at),
            ],
            as_json=as_json,
            empty_message="No active tokens. Create one with: accession tokens add NAME --role viewer",
        )


@app.command()
def revoke(name: Name) -> None:
    """Revoke a token and free its name; requests with it are rejected from now on."""
    with open_catalogue() as session:
        revoke_token(session, name)
        record(session, command_actor(), AuditAction.TOKEN_REVOKE, name)
    console.print(f'Revoked the token "{name}".', markup=False)
