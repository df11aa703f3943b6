"""Console scripts for cron: each queues a workflow and returns."""

from typing import Annotated

import typer

from accession.auth.audit import ALL_COLLECTIONS
from accession.cli.imports import ForceReimport, ImportAll, record_start
from accession.cli.main import run_app
from accession.cli.selection import select_collections
from accession.core.workflow import Workflow

_purchases = typer.Typer(add_completion=False)
_events = typer.Typer(add_completion=False)
_circulation = typer.Typer(add_completion=False)

OneCollection = Annotated[
    str | None, typer.Option("--collection", metavar="NAME", help="Import for this collection.")
]


@_purchases.command()
def _purchase_record_import(
    collection: OneCollection = None,
    import_all: ImportAll = False,
    force_reimport: ForceReimport = False,
) -> None:
    """Queue the import of purchase records for one collection, or for all, and return at once."""
    _queue(Workflow.PURCHASES, collection, import_all, force_reimport=force_reimport)


@_events.command()
def _event_import(collection: OneCollection = None, import_all: ImportAll = False) -> None:
    """Queue the import of circulation events for one collection, or for all, and return at once."""
    _queue(Workflow.EVENTS, collection, import_all)


@_circulation.command()
def _circulation_update(collection: OneCollection = None, import_all: ImportAll = False) -> None:
    """Queue the circulation update of one collection, or of all, and return at once."""
    _queue(Workflow.CIRCULATION, collection, import_all)


def _queue(
    workflow: Workflow, collection: str | None, import_all: bool, *, force_reimport: bool = False
) -> None:
    names = None if collection is None else [collection]
    selected = select_collections(names, selects_all=import_all, choices="--collection NAME or --import-all")
    # The Celery app reads the broker's URL when it is imported.
    from accession.tasks.workflows import FAN_OUT_TASKS, start_workflow

    record_start(workflow, names or [ALL_COLLECTIONS], force_reimport=force_reimport)
    if import_all:
        FAN_OUT_TASKS[workflow].delay(**({"force_reimport": True} if force_reimport else {}))
    else:
        start_workflow(workflow, selected, force_reimport=force_reimport)
    noun = "update" if workflow is Workflow.CIRCULATION else "import"
    typer.echo(f"Queued the {noun} for {'all collections' if import_all else collection}.")


def purchase_record_import() -> None:
    """Run the console script `bibliotheca_purchase_record_import`."""
    run_app(_purchases)


def event_import() -> None:
    """Run the console script `bibliotheca_import`."""
    run_app(_events)


def circulation_update() -> None:
    """Run the console script `bibliotheca_circulation_update`."""
    run_app(_circulation)
