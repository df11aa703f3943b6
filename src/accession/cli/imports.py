"""Commands of `accession import`: start a workflow for some collections or for all."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Annotated

import typer

from accession.accounts.collections import get_collection
from accession.auth.audit import record_run_start
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue
from accession.cli.output import NO_COLLECTIONS, console, count_noun, parse_day
from accession.cli.selection import Failing, SomeCollections, select_collections
from accession.core.workflow import Workflow

app = typer.Typer(no_args_is_help=True)

ImportAll = Annotated[bool, typer.Option("--import-all", help="Import for every collection.")]
ForceReimport = Annotated[
    bool, typer.Option("--force-reimport", help="Import everything again from 2014-01-01.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Show progress until the runs end; exit with 1 if one fails.")
]


def record_start(workflow: Workflow, subjects: Iterable[str], *, force_reimport: bool) -> None:
    """Record in the audit log that this command starts a workflow for collections with these names."""
    with open_catalogue() as session:
        for subject in subjects:
            record_run_start(session, command_actor(), workflow, subject, force_reimport=force_reimport)


FirstDay = Annotated[
    date | None,
    typer.Option(
        "--from",
        metavar="YYYY-MM-DD",
        parser=parse_day,
        help="Import the days from this one on again, up to --to. The checkpoint stays where it is.",
    ),
]
LastDay = Annotated[
    date | None,
    typer.Option("--to", metavar="YYYY-MM-DD", parser=parse_day, help="Last day to import again."),
]


@app.command(epilog='Example: accession import purchases --collection "Alder Library" --wait')
def purchases(
    collection: SomeCollections = None,
    import_all: ImportAll = False,
    failing: Failing = False,
    force_reimport: ForceReimport = False,
    first_day: FirstDay = None,
    last_day: LastDay = None,
    wait: Wait = False,
) -> None:
    """Import purchase records from the checkpoint of each collection up to now.

    The first import of a collection begins at 2014-01-01. With --from and --to, these days are imported
    again: the number of requests is printed first, and the checkpoint stays where it is.
    """
    if first_day is not None or last_day is not None:
        if first_day is None or last_day is None or force_reimport:
            raise typer.BadParameter("give --from and --to together, and without --force-reimport")
        if collection is None or len(collection) != 1:
            raise typer.BadParameter("give exactly one --collection with --from and --to")
        selected = _select(collection, import_all=import_all, failing=failing)
        _backfill(selected, first_day, last_day, wait=wait)
        return
    selected = _select(collection, import_all=import_all, failing=failing)
    _start(Workflow.PURCHASES, selected, wait=wait, force_reimport=force_reimport)


@app.command(epilog="Example: accession import events --import-all")
def events(
    collection: SomeCollections = None,
    import_all: ImportAll = False,
    failing: Failing = False,
    wait: Wait = False,
) -> None:
    """Import circulation events from the checkpoint of each collection up to five minutes ago."""
    _start(Workflow.EVENTS, _select(collection, import_all=import_all, failing=failing), wait=wait)


@app.command(epilog='Example: accession import circulation --collection "Alder Library" --wait')
def circulation(
    collection: SomeCollections = None,
    import_all: ImportAll = False,
    failing: Failing = False,
    wait: Wait = False,
) -> None:
    """Refresh copies and holds of every title, and detect titles that the vendor has withdrawn."""
    _start(Workflow.CIRCULATION, _select(collection, import_all=import_all, failing=failing), wait=wait)


def _select(collection: list[str] | None, *, import_all: bool, failing: bool) -> dict[int, str]:
    choices = "--collection NAME, --import-all or --failing"
    selected = select_collections(collection, selects_all=import_all, failing=failing, choices=choices)
    if not selected:
        console.print("No collection is failing." if failing else NO_COLLECTIONS)
    return selected


def _backfill(selected: Mapping[int, str], first_day: date, last_day: date, *, wait: bool) -> None:
    # The Celery app reads the broker's URL when it is imported.
    from accession.imports.backfill import count_backfill_requests
    from accession.tasks.backfill import start_backfill

    (collection_id,) = selected
    with open_catalogue() as session:
        collection = get_collection(session, collection_id)
        requests = count_backfill_requests(session, collection, first_day, last_day)
    console.print(f"Importing {first_day} to {last_day} needs about {count_noun(requests, 'request')}.")
    task_ids = start_backfill(command_actor(), collection_id, first_day, last_day)
    _watch(Workflow.BACKFILL, selected, task_ids, wait=wait, join=False)


def _start(
    workflow: Workflow, selected: Mapping[int, str], *, wait: bool, force_reimport: bool = False
) -> None:
    # The Celery app reads the broker's URL when it is imported.
    from accession.tasks.workflows import start_workflow

    if not selected:
        return
    record_start(workflow, selected.values(), force_reimport=force_reimport)
    task_ids = start_workflow(workflow, selected, force_reimport=force_reimport)
    if paused := len(selected) - len(task_ids):
        console.print(f"Skipped {count_noun(paused, 'paused collection')}.")
    # An active run is no substitute for a reimport from 2014.
    _watch(workflow, selected, task_ids, wait=wait, join=not force_reimport)


def _watch(
    workflow: Workflow, selected: Mapping[int, str], task_ids: Mapping[int, str], *, wait: bool, join: bool
) -> None:
    """Tell that the runs are queued, or with `wait` show their progress until they end."""
    from accession.cli.watch import watch

    if not wait:
        console.print(f"Queued {count_noun(len(task_ids), 'import')}. See: accession status")
        return
    try:
        succeeded = watch(workflow, selected, task_ids, join=join)
    except KeyboardInterrupt:
        console.print("\nThe import continues in the background. See: accession status")
        raise typer.Exit(130) from None
    if not succeeded:
        raise typer.Exit(1)
