"""Commands of `accession titles`: list, show and refresh titles."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from accession.accounts.collections import find_collection
from accession.catalog.availability import AVAILABILITIES
from accession.catalog.titles import TitleView, count_titles, title_views
from accession.cli.connect import open_catalogue
from accession.cli.output import (
    AsJson,
    InCollection,
    cell,
    console,
    count_noun,
    print_json,
    print_listing,
)
from accession.core.errors import UserError
from accession.core.sanitize import sanitize
from accession.db.engine import late_transaction
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.vendor_api import vendor_api_for

TABLE_LIMIT = 50

_NO_TITLES = "No titles yet. Import some with: accession import purchases --import-all"

TITLE_COLUMNS: list[tuple[str, Callable[[TitleView], Any]]] = [
    ("Id", lambda t: t.identifier),
    ("Title", lambda t: t.title),
    ("Authors", lambda t: t.credits),
    ("Format", lambda t: t.format),
    ("Lang", lambda t: t.language),
    ("Owned", lambda t: t.licenses_owned),
    ("Available", lambda t: f"from {t.on_order_until}" if t.on_order_until else t.licenses_available),
    ("Holds", lambda t: t.patrons_in_hold_queue),
    ("Purchased", lambda t: t.purchased_on),
]

app = typer.Typer(no_args_is_help=True)


@app.command("list", epilog='Example: accession titles list --collection "Alder Library"')
def list_titles(
    collection: InCollection = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Maximum number of titles. Default: {TABLE_LIMIT} in a table, unlimited with --json."
        ),
    ] = None,
    with_warnings: Annotated[
        bool, typer.Option("--with-warnings", help="Only titles with a purchase record stored in part.")
    ] = False,
    availability: Annotated[
        str | None,
        typer.Option(
            "--availability",
            metavar="|".join(AVAILABILITIES),
            help="Only titles with this availability: on_order are those not on sale yet.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List titles in the order of their first import."""
    with open_catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        table_limit = limit if as_json else limit or TABLE_LIMIT
        print_listing(
            title_views(
                session,
                collection=collection,
                with_warnings=with_warnings,
                availability=availability,
                limit=table_limit,
            ),
            TITLE_COLUMNS,
            as_json=as_json,
            empty_message=_empty_message(with_warnings=with_warnings, availability=availability),
        )
        total = count_titles(
            session, collection=collection, with_warnings=with_warnings, availability=availability
        )
        if not as_json and table_limit is not None and total > table_limit:
            console.print(
                f"[dim]{table_limit:,} of {total:,} titles; show more with --limit, all with --json.[/dim]"
            )


def _empty_message(*, with_warnings: bool, availability: str | None) -> str:
    if availability:
        return "No titles match."
    return "No titles have warnings." if with_warnings else _NO_TITLES


@app.command("show")
def show_title(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The vendor's id of the title.")],
    collection: InCollection = None,
    as_json: AsJson = False,
) -> None:
    """Show all metadata and counts of a title, for each collection that holds it."""
    with open_catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        views = list(title_views(session, collection=collection, identifiers=[identifier]))
    if not views:
        raise UserError(f'No title found with id "{identifier}": see `accession titles list`.')
    if as_json:
        print_json(views)
        return
    for view in views:
        _print_fields(view)


def _print_fields(view: TitleView) -> None:
    for name, value in vars(view).items():
        if value not in (None, ()):
            console.print(f"[bold]{name.replace('_', ' '):>22}[/bold]  ", cell(value), sep="")
    console.print()


@app.command("refresh", epilog='Example: accession titles refresh 9mjjj7i --collection "Alder Library"')
def refresh_titles(
    identifiers: Annotated[list[str], typer.Argument(metavar="ID", help="The vendor's ids of the titles.")],
    collection: Annotated[
        str, typer.Option("--collection", metavar="NAME", help="Collection that holds the titles.")
    ],
    as_json: AsJson = False,
) -> None:
    """Fetch metadata and counts of titles from the vendor now, and store the changes."""
    with open_catalogue(late_transaction) as session:
        holder = find_collection(session, collection)
        updater = BibliothecaCirculationUpdater(session, holder, vendor_api_for(holder))
        result = updater.refresh(identifiers)
    with open_catalogue() as session:
        views = title_views(session, collection=collection, identifiers=identifiers)
        print_listing(views, TITLE_COLUMNS, as_json=as_json, empty_message="")
    if as_json:
        return
    refreshed = count_noun(len(set(identifiers)), "title")
    withdrawn = f"; withdrawn by the vendor: {', '.join(result.withdrawn)}" if result.withdrawn else ""
    console.print(
        sanitize(f"Refreshed {refreshed}, {result.titles_changed:,} changed{withdrawn}."), markup=False
    )
