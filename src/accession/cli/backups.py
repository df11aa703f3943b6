"""`accession backup` and `accession restore`: the whole database in one file, and back."""

from pathlib import Path
from typing import Annotated

import typer

from accession.accounts.collections import collections_in_use
from accession.accounts.keys import KEY_FILE, account_key_of
from accession.cli.attach import attach, catalogue, require_broker
from accession.cli.output import console
from accession.core.errors import UserError
from accession.core.settings import Settings, get_settings
from accession.local.backup import back_up, find_backup, restore, servers_at_rest

_KILOBYTE = 1000


def backup(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write it; a backup that is there is replaced.")
    ],
) -> None:
    """Write the whole database to a file, while everything runs.

    It is the database of one moment. The file that was there is replaced when the new one is whole and on
    disk, and stays when anything goes wrong.
    """
    settings = attach()
    if settings.database_url is None:
        raise UserError(
            f"Accession is not running in {settings.home}: start it with `accession up`, "
            "or set ACCESSION_DATABASE_URL."
        )
    size = back_up(settings.database_url.get_secret_value(), file)
    console.print(
        f"The database is in {file}, {_size(size)}. Keep {_where_the_key_is(settings)} with it: "
        "the account keys in it are of no use without.",
        markup=False,
        soft_wrap=True,
    )


def _size(size: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < _KILOBYTE:
            return f"{size:,} {unit}"
        size = round(size / _KILOBYTE)
    return f"{size:,} GB"


def _where_the_key_is(settings: Settings) -> str:
    return "the key in ACCESSION_SECRET_KEY" if settings.secret_key else f"{settings.home / KEY_FILE}"


def restore_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `accession backup` has written.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Make the database what it was when a backup was written; what came since is lost.

    Accession must not be running: stop it with `accession down`, and every worker of your own. A backup
    of an older Accession is migrated. Whatever goes wrong, the database stays as it was. Queued messages
    are dropped: the imports that were at work in the backup go on from there when Accession starts.
    """
    found = find_backup(file)
    with servers_at_rest(get_settings()) as urls:
        attach()
        require_broker()
        from accession.tasks.recovery import forget_queued_work, refuse_workers

        refuse_workers()
        if not yes:
            question = f"Replace all that is in the database by the backup of {found.made_at}?"
            typer.confirm(question, abort=True)
        state = restore(urls.database_url, found, before_the_swap=forget_queued_work)
        migrated = "" if state.current else f", migrated from schema {state.found} to {state.wanted}"
        console.print(f"The database is what it was at {found.made_at}{migrated}.", soft_wrap=True)
        _tell_of_foreign_keys()
    console.print("Start Accession again: accession up")


def _tell_of_foreign_keys() -> None:
    with catalogue() as session:
        try:
            for collection in collections_in_use(session):
                account_key_of(collection)
        except UserError as error:
            console.print(f"{error}", style="red", markup=False, soft_wrap=True)
