"""Commands `backup` and `restore`: write the database to a file, and restore it from one."""

from pathlib import Path
from typing import Annotated

import typer

from accession.accounts.keys import KEY_FILE, SECRET_CHECKS
from accession.auth.audit import AuditAction, record
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue, require_broker, resolve_servers
from accession.cli.output import console
from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings
from accession.db.engine import engine, transaction
from accession.db.schema import schema_state
from accession.local.backup import create_backup, exclusive_servers, read_backup, restore

_KILOBYTE = 1000


def backup(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="File to write; an existing file is replaced.")
    ],
) -> None:
    """Write a backup of the database to a file.

    Accession may keep running: the backup is a consistent snapshot. An existing file is replaced only after
    the new backup is complete and on disk. Keep the encryption key (secret.key) together with the backup.
    """
    settings = resolve_servers()
    if settings.database_url is None:
        raise UserError(
            f"Accession is not running in {settings.home}: start it with `accession up`, "
            "or set ACCESSION_DATABASE_URL."
        )
    size = create_backup(settings.database_url.get_secret_value(), file)
    # A database with an older schema can be backed up too, before it is migrated.
    if schema_state(engine()).is_current:
        with transaction() as session:
            details = {"bytes": size}
            record(session, command_actor(), AuditAction.DATABASE_BACKUP, str(file.absolute()), details)
    console.print(
        f"Wrote the backup to {file} ({_format_size(size)}). Keep {_key_location(settings)} with it: "
        "without that key the account keys and other secrets in the backup cannot be decrypted.",
        markup=False,
        soft_wrap=True,
    )


def _format_size(size: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < _KILOBYTE:
            return f"{size:,} {unit}"
        size = round(size / _KILOBYTE)
    return f"{size:,} GB"


def _key_location(settings: Settings) -> str:
    return "the key in ACCESSION_SECRET_KEY" if settings.secret_key else f"{settings.home / KEY_FILE}"


def restore_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Backup written by `accession backup`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Restore without asking for confirmation.")] = False,
) -> None:
    """Replace the database by a backup; data written since the backup is lost.

    Stop Accession first with `accession down`, and every worker that you started yourself. A backup of an
    older version is migrated. If anything fails, the database stays unchanged. Queued messages are discarded:
    runs that were active in the backup resume from there when Accession starts.
    """
    selected_backup = read_backup(file)
    with exclusive_servers(get_settings()) as urls:
        resolve_servers()
        require_broker()
        from accession.tasks.recovery import discard_queued_work, ensure_no_workers

        ensure_no_workers()
        if not yes:
            typer.confirm(
                f"Replace the whole database by the backup of {selected_backup.created_at}?", abort=True
            )
        state = restore(urls.database_url, selected_backup, before_swap=discard_queued_work)
        migrated = "" if state.is_current else f", migrated from schema {state.revision} to {state.head}"
        with open_catalogue() as session:
            details = {"created": selected_backup.created_at}
            record(session, command_actor(), AuditAction.DATABASE_RESTORE, str(file.absolute()), details)
        console.print(f"Restored the database of {selected_backup.created_at}{migrated}.", soft_wrap=True)
        _warn_of_unreadable_secrets()
    console.print("Start Accession again: accession up")


def _warn_of_unreadable_secrets() -> None:
    errors = []
    with open_catalogue() as session:
        for check in SECRET_CHECKS.values():
            try:
                check(session)
            except UserError as error:
                errors.append(str(error))
    # Without a key they are all the same.
    for message in dict.fromkeys(errors):
        console.print(message, style="red", markup=False, soft_wrap=True)
