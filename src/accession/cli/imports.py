"""Commands of `accession import`: start a workflow for one collection or for all."""

from typing import Annotated

import typer

from accession.accounts.collections import find_collection, list_collections
from accession.cli.connect import open_catalogue, require_broker
from accession.cli.output import NO_COLLECTIONS, console, count_noun
from accession.core.workflow import Workflow

app = typer.Typer(no_args_is_help=True)

OneCollection = Annotated[
    str | None, typer.Option("--collection", metavar="NAME", help="Import for this collection.")
]
ImportAll = Annotated[bool, typer.Option("--import-all", help="Import for every collection.")]
ForceReimport = Annotated[
    bool, typer.Option("--force-reimport", help="Import everything again from 2014-01-01.")
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Show progress until the runs end; exit with 1 if one fails.")
]


def select_collections(collection: str | None, import_all: bool) -> dict[int, str]:
    """Return id and name of the collections that the two options select.

    Raises:
        typer.BadParameter: not exactly one of the options is given.
        UserError: the collection is unknown, or the broker is unavailable.
    """
    if (collection is None) is (not import_all):
        raise typer.BadParameter("give either --collection NAME or --import-all")
    require_broker()
    with open_catalogue() as session:
        selected = list_collections(session) if collection is None else [find_collection(session, collection)]
        return {each.id: each.name for each in selected}


@app.command(epilog='Example: accession import purchases --collection "Alder Library" --wait')
def purchases(
    collection: OneCollection = None,
    import_all: ImportAll = False,
    force_reimport: ForceReimport = False,
    wait: Wait = False,
) -> None:
    """Import purchase records from the checkpoint of each collection up to now.

    The first import of a collection begins at 2014-01-01.
    """
    _start(Workflow.PURCHASES, collection, import_all, wait=wait, force_reimport=force_reimport)


@app.command(epilog="Example: accession import events --import-all")
def events(collection: OneCollection = None, import_all: ImportAll = False, wait: Wait = False) -> None:
    """Import circulation events from the checkpoint of each collection up to five minutes ago."""
    _start(Workflow.EVENTS, collection, import_all, wait=wait)


@app.command(epilog='Example: accession import circulation --collection "Alder Library" --wait')
def circulation(collection: OneCollection = None, import_all: ImportAll = False, wait: Wait = False) -> None:
    """Refresh copies and holds of every title, and detect titles that the vendor has withdrawn."""
    _start(Workflow.CIRCULATION, collection, import_all, wait=wait)


def _start(
    workflow: Workflow, collection: str | None, import_all: bool, *, wait: bool, force_reimport: bool = False
) -> None:
    selected = select_collections(collection, import_all)
    # The Celery app reads the broker's URL when it is imported.
    from accession.cli.watch import watch
    from accession.tasks.workflows import start_workflow

    if not selected:
        console.print(NO_COLLECTIONS)
        return
    task_ids = start_workflow(workflow, selected, force_reimport=force_reimport)
    if not wait:
        console.print(f"Queued {count_noun(len(task_ids), 'import')}. See: accession status")
        return
    try:
        # An active run is no substitute for a reimport from 2014.
        succeeded = watch(workflow, selected, task_ids, join=not force_reimport)
    except KeyboardInterrupt:
        console.print("\nThe import continues in the background. See: accession status")
        raise typer.Exit(130) from None
    if not succeeded:
        raise typer.Exit(1)
