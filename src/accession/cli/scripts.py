"""`bibliotheca_purchase_record_import`: queues the import and returns, as a cron line wants it."""

import typer

from accession.cli.imports import ForceReimport, ImportAll, OneCollection, chosen_collections
from accession.cli.main import run_app

_app = typer.Typer(add_completion=False)


@_app.command()
def _purchase_record_import(
    collection: OneCollection = None,
    import_all: ImportAll = False,
    force_reimport: ForceReimport = False,
) -> None:
    """Queue the import of purchase records for one collection, or for all, and return at once."""
    chosen = chosen_collections(collection, import_all)
    from accession.tasks.purchases import import_purchase_records_for_all_collections, start_imports

    if import_all:
        import_purchase_records_for_all_collections.delay(force_reimport=force_reimport)
    else:
        start_imports(chosen, force_reimport=force_reimport)
    typer.echo(f"Queued the import for {'all collections' if import_all else collection}.")


def purchase_record_import() -> None:
    """The console script."""
    run_app(_app)
