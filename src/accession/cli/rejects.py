"""Commands of `accession rejects`: list, show, retry and resolve rejected records."""

from typing import Annotated

import typer
from rich.text import Text

from accession.accounts.collections import find_collection
from accession.catalog.rejected_records import (
    find_rejected_record,
    rejected_record_views,
    resolve_rejected_record,
)
from accession.cli.connect import open_catalogue, require_broker
from accession.cli.output import AsJson, InCollection, cell, console, count_noun, print_listing
from accession.core.errors import UserError
from accession.core.sanitize import sanitize, sanitize_lines

_NO_RECORDS = "No rejected records."

app = typer.Typer(no_args_is_help=True)

RecordId = Annotated[int, typer.Argument(metavar="RECORD", help="Number of the record in `rejects list`.")]


@app.command("list")
def list_records(
    collection: InCollection = None,
    with_resolved: Annotated[bool, typer.Option("--all", help="Include resolved records.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the purchase records and events that could not be imported."""
    with open_catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        print_listing(
            rejected_record_views(session, collection=collection, with_resolved=with_resolved),
            [
                ("Record", lambda r: r.id),
                ("Collection", lambda r: r.collection),
                ("Workflow", lambda r: r.workflow),
                ("Purchase date", lambda r: r.purchased_on),
                ("Reason", lambda r: r.reason),
                ("Received", lambda r: r.created_at),
                ("Resolved", lambda r: r.resolved_at),
                ("Note", lambda r: r.note),
            ],
            as_json=as_json,
            empty_message=_NO_RECORDS,
        )


@app.command("show")
def show_record(record: RecordId) -> None:
    """Show a rejected record as the vendor sent it."""
    with open_catalogue() as session:
        view, raw_xml = find_rejected_record(session, record)
        console.print(Text(sanitize(view.reason), style="bold"))
        console.print("Purchase date:", cell(view.purchased_on))
        typer.echo(sanitize_lines(raw_xml))


@app.command("retry")
def retry_records(
    records: Annotated[
        list[int] | None,
        typer.Argument(metavar="RECORD", help="Numbers of records in `rejects list`. Default: all."),
    ] = None,
) -> None:
    """Import rejected records again, and resolve those that succeed."""
    with open_catalogue() as session:
        open_ids = [view.id for view in rejected_record_views(session)]
    if unknown := sorted(set(records or ()) - set(open_ids)):
        raise UserError(f"There is no open rejected record {unknown[0]}: see `accession rejects list`.")
    selected = dict.fromkeys(records or open_ids)
    if not selected:
        console.print(_NO_RECORDS)
        return
    require_broker()
    # The Celery app reads the broker's URL when it is imported.
    from accession.tasks.rejected_records import retry_rejected

    imported = sum(map(retry_rejected, selected))
    retried = count_noun(len(selected), "record")
    console.print(f"Retried {retried}, {imported:,} imported. See: accession rejects list --all")


@app.command("resolve", epilog='Example: accession rejects resolve 7 --note "The vendor has withdrawn it"')
def resolve_record(
    record: RecordId,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why nothing is left to do.")],
) -> None:
    """Mark a rejected record as resolved, with a note; it is not retried any more."""
    with open_catalogue() as session:
        resolve_rejected_record(session, record, note)
    console.print(f"Resolved record {record}. See: accession rejects list --all")
