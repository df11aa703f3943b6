"""Commands of `accession rejects`: list, show, retry and resolve rejected records."""

from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.auth.audit import ALL_OPEN_RECORDS, AuditAction, record
from accession.catalog.record_diff import RecordDiff, diff_with_stored_record
from accession.catalog.rejected_records import (
    find_rejected_record,
    open_rejected_record_ids,
    open_rejection_reasons,
    rejected_record_views,
    resolve_rejected_record,
    resolve_rejected_records,
)
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue, require_broker
from accession.cli.output import AsJson, InCollection, cell, console, count_noun, print_listing
from accession.core.errors import UserError
from accession.core.sanitize import sanitize, sanitize_lines

_NO_RECORDS = "No rejected records."

app = typer.Typer(no_args_is_help=True)

RecordId = Annotated[int, typer.Argument(metavar="RECORD", help="Number of the record in `rejects list`.")]


Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Only records with this reason in `rejects reasons`."),
]


@app.command("reasons")
def list_reasons(collection: InCollection = None, as_json: AsJson = False) -> None:
    """List the reasons for which records were rejected that are still open, most frequent first."""
    with open_catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        print_listing(
            open_rejection_reasons(session, collection=collection),
            [
                ("Records", lambda r: r.records),
                ("Reason", lambda r: r.reason),
                ("First received", lambda r: r.first_received_at),
                ("Last received", lambda r: r.last_received_at),
            ],
            as_json=as_json,
            empty_message=_NO_RECORDS,
        )


@app.command("list")
def list_records(
    collection: InCollection = None,
    reason: Reason = None,
    with_resolved: Annotated[bool, typer.Option("--all", help="Include resolved records.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the purchase records and events that could not be imported."""
    with open_catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        print_listing(
            rejected_record_views(session, collection=collection, reason=reason, with_resolved=with_resolved),
            [
                ("Record", lambda r: str(r.id)),
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
def show_record(record_id: RecordId) -> None:
    """Show a rejected record as the vendor sent it, and how it differs from the stored one of its title."""
    with open_catalogue() as session:
        view, raw_xml = find_rejected_record(session, record_id)
        diff = diff_with_stored_record(session, record_id)
    console.print(Text(sanitize(view.reason), style="bold"))
    console.print("Purchase date:", cell(view.purchased_on))
    typer.echo(sanitize_lines(raw_xml) or "The XML was deleted, because the record was resolved long ago.")
    if diff is not None:
        _print_diff(diff)


def _print_diff(diff: RecordDiff) -> None:
    marks = {"same": (" ", ""), "removed": ("-", "red"), "added": ("+", "green")}
    identifier = sanitize(diff.identifier)
    console.print(f"\n- stored record of {identifier}, {diff.purchased_on}\n+ rejected record", markup=False)
    for line in diff.lines:
        mark, style = marks[line.change]
        console.print(Text(f"{mark} {sanitize(line.text)}", style=style), soft_wrap=True)


@app.command("retry", epilog='Example: accession rejects retry --collection "Alder Library"')
def retry_records(
    records: Annotated[
        list[int] | None,
        typer.Argument(metavar="RECORD", help="Numbers of records in `rejects list`. Default: all."),
    ] = None,
    collection: InCollection = None,
    reason: Reason = None,
) -> None:
    """Import rejected records again, and resolve those that succeed."""
    with open_catalogue() as session:
        open_ids = _select_open_ids(session, collection, reason)
    if unknown := sorted(set(records or ()) - set(open_ids)):
        raise UserError(f"There is no open rejected record {unknown[0]}: see `accession rejects list`.")
    selected = dict.fromkeys(records or open_ids)
    if not selected:
        console.print(_NO_RECORDS)
        return
    require_broker()
    # The Celery app reads the broker's URL when it is imported.
    from accession.tasks.rejected_records import retry_rejected

    with open_catalogue() as session:
        subject = ", ".join(map(str, records)) if records else reason or ALL_OPEN_RECORDS
        details = {"records": len(selected), "collection": collection}
        record(session, command_actor(), AuditAction.REJECTED_RECORD_RETRY, subject, details)
    imported = sum(map(retry_rejected, selected))
    retried = count_noun(len(selected), "record")
    console.print(f"Retried {retried}, {imported:,} imported. See: accession rejects list --all")


def _select_open_ids(session: Session, collection: str | None, reason: str | None) -> list[int]:
    if collection is not None:
        find_collection(session, collection)
    return open_rejected_record_ids(session, collection=collection, reason=reason)


@app.command("resolve", epilog='Example: accession rejects resolve 7 --note "The vendor has withdrawn it"')
def resolve_records(
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="Why nothing is left to do.")],
    record_id: Annotated[
        int | None, typer.Argument(metavar="RECORD", help="Number of the record in `rejects list`.")
    ] = None,
    collection: InCollection = None,
    reason: Reason = None,
) -> None:
    """Mark a rejected record as resolved, or all with a reason; they are not retried any more."""
    if (record_id is None) == (reason is None) or (collection is not None and reason is None):
        raise typer.BadParameter("give either RECORD, or --reason with or without --collection")
    with open_catalogue() as session:
        if record_id is not None:
            resolve_rejected_record(session, record_id, note)
            number, subject = 1, str(record_id)
            details: dict[str, object] = {"note": note}
        else:
            ids = _select_open_ids(session, collection, reason)
            number = resolve_rejected_records(session, ids, note)
            subject = reason or ""
            details = {"records": number, "collection": collection, "note": note}
        record(session, command_actor(), AuditAction.REJECTED_RECORD_RESOLVE, subject, details)
    resolved = f"record {record_id}" if reason is None else count_noun(number, "record")
    console.print(f"Resolved {resolved}. See: accession rejects list --all")
