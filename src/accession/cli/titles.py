"""Commands of `accession titles`: list, show and refresh titles."""

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any

import typer

from accession.accounts.collections import find_collection
from accession.catalog import search
from accession.catalog.availability import AVAILABILITIES
from accession.catalog.search import TitleCount, is_whole_collection
from accession.catalog.title_filter import Lack, TitleFilter
from accession.catalog.title_order import SortKey, TitleOrder
from accession.catalog.titles import TitleView, title_views
from accession.cli.connect import open_catalogue
from accession.cli.output import (
    MAX_TITLE_LENGTH,
    AsJson,
    InCollection,
    cell,
    console,
    count_noun,
    parse_day,
    print_json,
    print_listing,
    shorten,
)
from accession.core.errors import UserError
from accession.core.sanitize import sanitize
from accession.core.vocabulary import Audience, Format
from accession.db.engine import late_transaction
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.vendor_api import vendor_api_for

TABLE_LIMIT = 50

_NO_TITLES = "No titles yet. Import some with: accession import purchases --import-all"

TITLE_COLUMNS: list[tuple[str, Callable[[TitleView], Any]]] = [
    ("Id", lambda t: t.identifier),
    ("Title", lambda t: shorten(t.title or "", MAX_TITLE_LENGTH)),
    ("Authors", lambda t: shorten("; ".join(t.credits), MAX_TITLE_LENGTH)),
    ("Format", lambda t: t.format),
    ("Lang", lambda t: t.language),
    ("Owned", lambda t: t.licenses_owned),
    ("Available", lambda t: f"from {t.on_order_until}" if t.on_order_until else t.licenses_available),
    ("Holds", lambda t: t.patrons_in_hold_queue),
    ("Purchased", lambda t: t.purchased_on),
]

app = typer.Typer(no_args_is_help=True)


def _day(help_text: str) -> Any:
    return typer.Option(parser=parse_day, metavar="YYYY-MM-DD", help=help_text)


@app.command("list", epilog='Example: accession titles list --collection "Alder Library" --sort title')
def list_titles(
    text: Annotated[
        str, typer.Option(help="Words of the title or author, an ISBN, or the vendor's id.")
    ] = "",
    collection: InCollection = None,
    format: Annotated[  # noqa: A002 - the catalogue's term
        str | None, typer.Option(metavar="|".join(Format), help="Only titles in this format.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only titles in this language, such as eng.")
    ] = None,
    audience: Annotated[Audience | None, typer.Option(help="Only titles for this audience.")] = None,
    availability: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(AVAILABILITIES),
            help="Only titles with this availability: on_order are those not on sale yet.",
        ),
    ] = None,
    purchased_from: Annotated[date | None, _day("Only titles purchased on this day or later.")] = None,
    purchased_until: Annotated[date | None, _day("Only titles purchased on this day or earlier.")] = None,
    with_warnings: Annotated[
        bool, typer.Option("--with-warnings", help="Only titles with a purchase record stored in part.")
    ] = False,
    subject: Annotated[str | None, typer.Option(help="Only titles with this subject.")] = None,
    lacks: Annotated[
        Lack | None, typer.Option(help="Only titles without this part, or without a purchase.")
    ] = None,
    unused_since: Annotated[
        date | None, _day("Only titles neither borrowed nor first purchased since this day.")
    ] = None,
    first_purchased_from: Annotated[
        date | None, _day("Only titles first purchased on this day or later.")
    ] = None,
    first_purchased_until: Annotated[
        date | None, _day("Only titles first purchased on this day or earlier.")
    ] = None,
    also_in: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only titles that this collection holds too.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(SortKey),
            help="Order; with - before it, descending. Default: with a text the best matches first, else the "
            "newest purchases.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Maximum number of titles. Default: {TABLE_LIMIT} in a table, unlimited with --json."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List titles: all, or those that match."""
    filters = TitleFilter(
        text=text,
        collection=collection,
        format=format,
        language=language,
        audience=audience,
        availability=availability,
        purchased_from=purchased_from,
        purchased_until=purchased_until,
        with_warnings=with_warnings,
        subject=subject,
        lacks=lacks,
        unused_since=unused_since,
        first_purchased_from=first_purchased_from,
        first_purchased_until=first_purchased_until,
        also_in=also_in,
    )
    table_limit = limit if as_json else limit or TABLE_LIMIT
    with open_catalogue() as session:
        matches = search.match_titles(session, filters)
        print_listing(
            search.list_titles(session, matches, TitleOrder.parse(sort) if sort else None, limit=table_limit),
            TITLE_COLUMNS,
            as_json=as_json,
            empty_message=_NO_TITLES if is_whole_collection(filters) else "No titles match.",
        )
        if not as_json:
            _print_rest(table_limit, search.count_matches(session, matches))


def _print_rest(shown: int | None, total: TitleCount) -> None:
    if shown is not None and total.number > shown:
        number = f"{total.number:,}{'' if total.is_exact else ' or more'}"
        console.print(f"[dim]{shown:,} of {number} titles; show more with --limit, all with --json.[/dim]")


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
