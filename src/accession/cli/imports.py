"""`accession import`: starting a workflow."""

from typing import Annotated

import typer

from accession.accounts.collections import collections_in_use, find_collection
from accession.cli.attach import catalogue, require_broker
from accession.cli.output import NO_COLLECTIONS, console, counted
from accession.core.workflow import Workflow

app = typer.Typer(no_args_is_help=True, help="Start imports.")

OneCollection = Annotated[
    str | None, typer.Option("--collection", metavar="NAME", help="Import for this collection.")
]
ImportAll = Annotated[bool, typer.Option("--import-all", help="Import for every collection.")]
ForceReimport = Annotated[
    bool, typer.Option("--force-reimport", help="Start again from 2014-01-01, whatever is complete.")
]


def chosen_collections(collection: str | None, import_all: bool) -> dict[int, str]:
    """The collections that the two options name, id to name, when they can be queued.

    Raises a usage error unless exactly one of the options is given, and `UserError` for an unknown
    name and for a broker that does not answer.
    """
    if (collection is None) is (not import_all):
        raise typer.BadParameter("give either --collection NAME or --import-all")
    require_broker()
    with catalogue() as session:
        if collection is None:
            return {found.id: found.name for found in collections_in_use(session)}
        found = find_collection(session, collection)
        return {found.id: found.name}


Wait = Annotated[bool, typer.Option("--wait", help="Show the progress, and exit with 1 when a run fails.")]


@app.command()
def purchases(
    collection: OneCollection = None,
    import_all: ImportAll = False,
    force_reimport: ForceReimport = False,
    wait: Wait = False,
) -> None:
    """Import purchase records, from where each collection is complete up to now."""
    _start(Workflow.PURCHASES, collection, import_all, wait=wait, force_reimport=force_reimport)


@app.command()
def events(collection: OneCollection = None, import_all: ImportAll = False, wait: Wait = False) -> None:
    """Import circulation events, from where each collection is complete up to five minutes ago."""
    _start(Workflow.EVENTS, collection, import_all, wait=wait)


@app.command()
def circulation(collection: OneCollection = None, import_all: ImportAll = False, wait: Wait = False) -> None:
    """Ask the vendor about every title: its copies, its holds, and whether it is still there."""
    _start(Workflow.CIRCULATION, collection, import_all, wait=wait)


def _start(
    workflow: Workflow, collection: str | None, import_all: bool, *, wait: bool, force_reimport: bool = False
) -> None:
    chosen = chosen_collections(collection, import_all)
    # The Celery app can only be imported once the broker is known.
    from accession.cli.watch import watch
    from accession.tasks.workflows import start_workflow

    if not chosen:
        console.print(NO_COLLECTIONS)
        return
    task_ids = start_workflow(workflow, chosen, force_reimport=force_reimport)
    if not wait:
        console.print(f"Queued {counted(len(task_ids), 'import')}. See: accession status")
        return
    try:
        # A reimport that was refused has not been done, whatever the run at work does.
        succeeded = watch(workflow, chosen, task_ids, join=not force_reimport)
    except KeyboardInterrupt:
        console.print("\nThe import goes on without you. See: accession status")
        raise typer.Exit(130) from None
    if not succeeded:
        raise typer.Exit(1)
