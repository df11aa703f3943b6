"""Command `audit`: show and export the audit log."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from accession.auth.audit import AuditEntryView, AuditFilter, read_audit_log
from accession.cli.connect import open_catalogue
from accession.cli.output import print_table
from accession.db.engine import snapshot
from accession.exports.audit_log import AuditFormat, write_audit_log
from accession.exports.selection import parse_since


class Format(StrEnum):
    """Format of the output."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def audit(
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="From then on: a date, a time in UTC, or an age such as 7d."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="WHEN", help="Before then.")] = None,
    actor: Annotated[str, typer.Option(metavar="NAME", help="Only actions of this user or token.")] = "",
    action: Annotated[
        str,
        typer.Option(
            metavar="ACTION", help="Only this action, such as user.add, or this kind, such as user."
        ),
    ] = "",
    subject: Annotated[
        str, typer.Option(metavar="NAME", help="Only actions on this user, token, collection or record.")
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of entries. Default: 50 in a table, else all."),
    ] = None,
    output_format: Annotated[
        Format,
        typer.Option("--format", help="Table, CSV, or JSON with the fields described in docs/json.md."),
    ] = Format.TABLE,
) -> None:
    """Show the audit log: who did what, when and from where. Times are in UTC."""
    audit_filter = AuditFilter(
        since=None if since is None else parse_since(since),
        until=None if until is None else parse_since(until),
        actor=actor,
        action=action,
        subject=subject,
    )
    if limit is None and output_format is Format.TABLE:
        limit = 50
    with open_catalogue(snapshot) as session:
        entries = read_audit_log(session, audit_filter, limit)
        if output_format is not Format.TABLE:
            write_audit_log(entries, sys.stdout.buffer, AuditFormat(output_format))
            return
        print_table(
            entries,
            [
                ("Time", lambda e: e.at),
                ("Actor", _describe_actor),
                ("From", lambda e: e.origin),
                ("Action", lambda e: e.action),
                ("Subject", lambda e: e.subject),
                ("Details", lambda e: e.description),
            ],
            empty_message="The audit log has no such entries.",
        )


def _describe_actor(entry: AuditEntryView) -> str:
    return f"{entry.actor} ({entry.actor_kind})".strip()
