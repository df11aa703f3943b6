"""`accession status`, `runs`, `titles` and `rejects`: what the ledger and the catalogue hold."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer
from rich.text import Text

from accession.accounts.collections import find_collection
from accession.catalog.rejected_records import reject_views, resolve_rejected
from accession.catalog.titles import TitleView, count_titles, title_views
from accession.cli.attach import catalogue, require_broker
from accession.cli.output import (
    NO_COLLECTIONS,
    AsJson,
    InCollection,
    cell,
    console,
    counted,
    print_json,
    print_listing,
)
from accession.core.errors import UserError
from accession.core.sanitize import harmless, harmless_lines
from accession.db.models import RejectedRecord
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.vendor import api_for
from accession.runs.views import run_views, status_views

TABLE_LIMIT = 50
NO_REJECTS = "No rejected records."

TITLE_COLUMNS: list[tuple[str, Callable[[TitleView], Any]]] = [
    ("Id", lambda t: t.identifier),
    ("Title", lambda t: t.title),
    ("Authors", lambda t: t.authors),
    ("Format", lambda t: t.format),
    ("Lang", lambda t: t.language),
    ("Owned", lambda t: t.licenses_owned),
    ("Free", lambda t: t.licenses_available),
    ("Holds", lambda t: t.patrons_in_hold_queue),
    ("Bought", lambda t: t.purchased_on),
]

titles = typer.Typer(no_args_is_help=True, help="The titles that the collections hold.")
runs = typer.Typer(no_args_is_help=True, help="What the workflows have done.")
rejects = typer.Typer(no_args_is_help=True, help="Purchase records that could not be used.")


def status(as_json: AsJson = False) -> None:
    """Show where every workflow of every collection stands. Times are UTC."""
    with catalogue() as session:
        views = status_views(session)
    print_listing(
        views,
        [
            ("Collection", lambda s: s.collection),
            ("Workflow", lambda s: s.workflow),
            ("State", lambda s: s.state),
            ("Complete up to", lambda s: s.checkpoint),
            ("Records", lambda s: s.records_fetched),
            ("Rejected", lambda s: s.records_rejected),
            ("New", lambda s: s.titles_new),
            ("To apply", lambda s: s.applies_pending),
        ],
        as_json=as_json,
        when_empty=NO_COLLECTIONS,
    )
    if not as_json:
        _print_errors((f"{view.collection}, {view.workflow}", view.error) for view in views)


def _print_errors(errors: Iterable[tuple[str, str | None]]) -> None:
    for what, error in errors:
        if error:
            console.print(Text(harmless(f"{what}: {error}"), style="red"), soft_wrap=True)


@runs.command("list")
def list_runs(
    collection: InCollection = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first. Times are UTC."""
    with catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        views = run_views(session, collection=collection, limit=limit)
    print_listing(
        views,
        [
            ("Run", lambda r: r.id),
            ("Collection", lambda r: r.collection),
            ("Workflow", lambda r: r.workflow),
            ("State", lambda r: r.state),
            ("Started", lambda r: r.started_at),
            ("Finished", lambda r: r.finished_at),
            ("Records", lambda r: r.records_fetched),
            ("Rejected", lambda r: r.records_rejected),
            ("New", lambda r: r.titles_new),
            ("Changed", lambda r: r.titles_changed),
        ],
        as_json=as_json,
        when_empty="No runs yet. Start one with: accession import purchases --import-all",
    )
    if not as_json:
        _print_errors((f"Run {view.id}", view.error) for view in views)


@titles.command("list")
def list_titles(
    collection: InCollection = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"At most this many. Default: {TABLE_LIMIT} in a table, all with --json."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List titles in the order of their first import."""
    with catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        shown = limit if as_json else limit or TABLE_LIMIT
        print_listing(
            title_views(session, collection=collection, limit=shown),
            TITLE_COLUMNS,
            as_json=as_json,
            when_empty="No titles yet. Import some with: accession import purchases --import-all",
        )
        total = count_titles(session, collection=collection)
        if not as_json and shown is not None and total > shown:
            console.print(f"[dim]{shown:,} of {total:,} titles; more with --limit, all with --json.[/dim]")


@titles.command("show")
def show_title(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The vendor's id of the title.")],
    collection: InCollection = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of a title, in each collection that holds it."""
    with catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        found = list(title_views(session, collection=collection, identifiers=[identifier]))
    if not found:
        raise UserError(f'No title found with id "{identifier}": see `accession titles list`.')
    if as_json:
        print_json(found)
        return
    for view in found:
        _print_fields(view)


@titles.command("refresh")
def refresh_titles(
    identifiers: Annotated[
        list[str], typer.Argument(metavar="ID...", help="The vendor's ids of the titles.")
    ],
    collection: Annotated[
        str, typer.Option("--collection", metavar="NAME", help="The collection that holds them.")
    ],
    as_json: AsJson = False,
) -> None:
    """Ask the vendor about titles now, and store what has changed."""
    with catalogue() as session:
        found = find_collection(session, collection)
        updater = BibliothecaCirculationUpdater(session, found, api_for(found))
        refreshed = updater.refresh(identifiers)
    with catalogue() as session:
        views = title_views(session, collection=collection, identifiers=identifiers)
        print_listing(views, TITLE_COLUMNS, as_json=as_json, when_empty="")
    if as_json:
        return
    asked = counted(len(set(identifiers)), "title")
    gone = f"; the vendor no longer has {', '.join(refreshed.gone)}" if refreshed.gone else ""
    console.print(harmless(f"Of {asked} {refreshed.titles_changed:,} changed{gone}."), markup=False)


def _print_fields(view: TitleView) -> None:
    for name, value in vars(view).items():
        if value not in (None, ()):
            console.print(f"[bold]{name.replace('_', ' '):>22}[/bold]  ", cell(value), sep="")
    console.print()


@rejects.command("list")
def list_rejects(
    collection: InCollection = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that are resolved.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the purchase records and events that could not be used."""
    with catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        print_listing(
            reject_views(session, collection=collection, with_resolved=every),
            [
                ("Record", lambda r: r.id),
                ("Collection", lambda r: r.collection),
                ("Workflow", lambda r: r.workflow),
                ("Window of", lambda r: r.purchased_on),
                ("Reason", lambda r: r.reason),
                ("Kept", lambda r: r.created_at),
                ("Resolved", lambda r: r.resolved_at),
                ("Note", lambda r: r.note),
            ],
            as_json=as_json,
            when_empty=NO_REJECTS,
        )


RecordId = Annotated[int, typer.Argument(metavar="RECORD", help="The record's number in `rejects list`.")]


@rejects.command("show")
def show_reject(record: RecordId) -> None:
    """Show a rejected record as the vendor sent it."""
    with catalogue() as session:
        rejected = session.get(RejectedRecord, record)
        if rejected is None:
            raise UserError(f"There is no rejected record {record}: see `accession rejects list --all`.")
        console.print(Text(harmless(rejected.reason), style="bold"))
        console.print("In the window of", cell(rejected.purchased_on))
        typer.echo(harmless_lines(rejected.raw_xml))


@rejects.command("retry")
def retry_rejects(
    records: Annotated[
        list[int] | None,
        typer.Argument(metavar="[RECORD]...", help="Numbers from `rejects list`; none for every one."),
    ] = None,
) -> None:
    """Run rejected records through the import again, and resolve those that pass."""
    with catalogue() as session:
        waiting = [view.id for view in reject_views(session)]
    if unknown := sorted(set(records or ()) - set(waiting)):
        raise UserError(f"There is no unresolved rejected record {unknown[0]}: see `accession rejects list`.")
    chosen = dict.fromkeys(records or waiting)
    if not chosen:
        console.print(NO_REJECTS)
        return
    require_broker()
    # The Celery app can only be imported once the broker is known.
    from accession.tasks.rejects import retry_rejected

    passed = sum(map(retry_rejected, chosen))
    console.print(f"Of {counted(len(chosen), 'record')} {passed:,} passed. See: accession rejects list --all")


@rejects.command("resolve")
def resolve_reject(
    record: RecordId,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why nothing is left to do about it.")],
) -> None:
    """Resolve a rejected record by hand, with a note; it is not tried again."""
    with catalogue() as session:
        resolve_rejected(session, record, note)
    console.print(f"Record {record} is resolved. See: accession rejects list --all")
