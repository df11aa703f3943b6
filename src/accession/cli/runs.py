"""Commands `status` and `runs list`: state and history of the workflows."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from accession.accounts.collections import find_collection
from accession.cli.connect import open_catalogue
from accession.cli.output import NO_COLLECTIONS, AsJson, InCollection, console, print_listing
from accession.core.sanitize import sanitize
from accession.runs.views import StatusView, run_views, status_views

app = typer.Typer(no_args_is_help=True)


def status(as_json: AsJson = False) -> None:
    """Show the state of each workflow of each collection. Times are in UTC."""
    with open_catalogue() as session:
        views = status_views(session)
    print_listing(
        views,
        [
            ("Collection", lambda s: s.collection),
            ("Workflow", lambda s: s.workflow),
            ("State", lambda s: s.state),
            ("Synced through", _synced_through),
            ("Records", lambda s: s.records_fetched),
            ("Rejected", lambda s: s.records_rejected),
            ("New", lambda s: s.titles_new),
            ("Pending updates", lambda s: s.pending_updates),
        ],
        as_json=as_json,
        empty_message=NO_COLLECTIONS,
    )
    if not as_json:
        _print_errors((f"{view.collection}, {view.workflow}", view.error) for view in views)


def _synced_through(view: StatusView) -> datetime | str | None:
    if view.unconfirmed_since is None:
        return view.checkpoint
    return f"unconfirmed since {view.unconfirmed_since:%Y-%m-%d}"


@app.command("list", epilog='Example: accession runs list --collection "Alder Library" --limit 5')
def list_runs(
    collection: InCollection = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of runs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first. Times are in UTC."""
    with open_catalogue() as session:
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
        empty_message="No runs yet. Start one with: accession import purchases --import-all",
    )
    if not as_json:
        _print_errors((f"Run {view.id}", view.error) for view in views)


def _print_errors(errors: Iterable[tuple[str, str | None]]) -> None:
    for subject, error in errors:
        if error:
            console.print(Text(sanitize(f"{subject}: {error}"), style="red"), soft_wrap=True)
