"""Commands of `accession collections`: manage the library's accounts with the vendor."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from accession.accounts.account import DEFAULT_BASE_URL, Account
from accession.accounts.collections import (
    add_collection,
    change_account,
    find_collection,
    get_account,
    mark_for_deletion,
)
from accession.accounts.keys import KeyRotation, ReencryptionResult, decrypt_account_key, key_rotation
from accession.accounts.libraries import same_library_note
from accession.accounts.views import collection_views
from accession.auth.audit import AuditAction, record
from accession.cli.actor import command_actor
from accession.cli.configuration import export
from accession.cli.connect import open_catalogue, require_servers
from accession.cli.limits import limit
from accession.cli.output import NO_COLLECTIONS, AsJson, console, count_noun, print_listing
from accession.cli.schedules import schedule
from accession.cli.selection import AllCollections, SomeWorkflows, select_collections
from accession.core.clock import parse_local_datetime
from accession.core.errors import UserError
from accession.core.sanitize import sanitize
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.imports.vendor_api import check_account

KEY_VARIABLE = "ACCESSION_ACCOUNT_KEY"

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.")]

app.command(
    epilog='Example: accession collections schedule "Alder Library" --workflow purchases --cron "30 2 * * *" '
    "--time-zone Europe/Berlin --jitter 30m"
)(schedule)

app.command(
    epilog='Example: accession collections limit "Alder Library" --concurrency 2 --requests-per-second 5'
)(limit)

app.command(epilog="Example: accession collections export > collections.yaml")(export)

SomeNames = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of the collections.")]

KeyFile = Annotated[Path | None, typer.Option(help="File that contains only the account key.")]


@app.command(
    epilog='Example: accession collections add "Alder Library" --library-id alder --account-id library.alder'
)
def add(
    name: Name,
    library_id: Annotated[str, typer.Option(help="Library id, as the vendor issued it.")],
    account_id: Annotated[str, typer.Option(help="Account id, as the vendor issued it.")],
    base_url: Annotated[
        str, typer.Option(help="URL of the vendor's API: https, or http on this machine only.")
    ] = DEFAULT_BASE_URL,
    account_key_file: KeyFile = None,
    test_account: Annotated[
        bool | None,
        typer.Option("--test/--no-test", help="Test the account at once. Default: ask, in a terminal."),
    ] = None,
    start_import: Annotated[
        bool | None,
        typer.Option(
            "--import/--no-import", help="Start the first import at once. Default: ask, in a terminal."
        ),
    ] = None,
) -> None:
    """Add a collection.

    The account key is read from --account-key-file, otherwise from the environment variable
    ACCESSION_ACCOUNT_KEY, otherwise from a prompt. It is stored encrypted.

    If the test fails, the collection stays added, but nothing is imported.
    """
    # Fail before the prompt, not after it.
    require_servers()
    account = Account(
        collection=name,
        library_id=library_id,
        account_id=account_id,
        account_key=_account_key(account_key_file),
        base_url=base_url,
    )
    with open_catalogue() as session:
        collection = add_collection(session, account)
        note, collection_id = same_library_note(session, collection), collection.id
        record(session, command_actor(), AuditAction.COLLECTION_ADD, name, account.public_fields())
    is_tested = _confirm("Test the account now?", test_account)
    next_step = "" if is_tested else f' Next: accession collections test "{name}"'
    console.print(f'Added "{name}".{next_step}', markup=False)
    if note:
        console.print(sanitize(note), markup=False, soft_wrap=True)
    if is_tested:
        console.print(check_account(account), markup=False)
    if _confirm("Start the first import now?", start_import):
        # The Celery app reads the broker's URL when it is imported.
        from accession.tasks.control import run_now

        run_now(command_actor(), [collection_id], [Workflow.PURCHASES])
        console.print("The first import is queued. See its progress with: accession status", markup=False)


def _confirm(question: str, answer: bool | None) -> bool:
    """Return the answer that was given as an option, else that of a person at a terminal."""
    if answer is None and sys.stdin.isatty():
        return typer.confirm(question, default=True)
    return bool(answer)


def _account_key(file: Path | None) -> SecretStr:
    if file is not None:
        try:
            # Editors on Windows write a byte order mark.
            key = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise UserError(
                f"The account key file {file} cannot be read ({reason}): name a readable text file."
            ) from None
    elif KEY_VARIABLE in os.environ:
        key = os.environ[KEY_VARIABLE]
    else:
        key = typer.prompt("Account key", hide_input=True)
    if not key.strip():
        raise UserError("The account key is empty: enter it as the vendor issued it.")
    return SecretStr(key.strip())


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the collections."""
    with open_catalogue() as session:
        print_listing(
            collection_views(session),
            [
                ("Name", lambda c: c.name),
                ("Library", lambda c: c.library_id),
                ("Account", lambda c: c.account_id),
                ("Base URL", lambda c: c.base_url),
                ("Titles", lambda c: c.titles),
            ],
            as_json=as_json,
            empty_message=NO_COLLECTIONS,
        )


@app.command()
def test(name: Name) -> None:
    """Test the connection to the vendor with a collection's account."""
    with open_catalogue() as session:
        account = get_account(find_collection(session, name))
        record(session, command_actor(), AuditAction.COLLECTION_TEST, name)
    console.print(check_account(account), markup=False)


@app.command()
def set_key(name: Name, account_key_file: KeyFile = None) -> None:
    """Replace the account key of a collection by a new one from the vendor.

    The account key is read from --account-key-file, otherwise from the environment variable
    ACCESSION_ACCOUNT_KEY, otherwise from a prompt. It is stored encrypted, and used from the next
    request on. To change the key that encrypts account keys, see rotate-key.
    """
    # Fail before the prompt, not after it.
    with open_catalogue() as session:
        decrypt_account_key(find_collection(session, name))
    key = _account_key(account_key_file)
    with open_catalogue() as session:
        changes = change_account(session, find_collection(session, name), account_key=key)
        record(session, command_actor(), AuditAction.COLLECTION_EDIT, name, changes)
    console.print(
        f'Changed the account key of "{name}". Next: accession collections test "{name}"', markup=False
    )


@app.command()
def rotate_key() -> None:
    """Replace the encryption key, and re-encrypt all account keys with the new one.

    A new key replaces the one in secret.key. Workers may keep running. If the command is interrupted, run it
    again. The account keys themselves do not change: see set-key for that.

    With ACCESSION_SECRET_KEY, change the key yourself: prepend a new key and a comma to the old one on every
    machine that runs Accession, restart the workers, run this command, and then remove the old key.
    """
    with key_rotation() as rotation, open_catalogue() as session:
        reencrypted = rotation.reencrypt(session)
        details = {"account_keys": reencrypted.reencrypted}
        record(session, command_actor(), AuditAction.ENCRYPTION_KEY_ROTATE, details=details)
    for line in _rotation_report(rotation, reencrypted):
        console.print(line, markup=False, soft_wrap=True)


def _rotation_report(rotation: KeyRotation, reencrypted: ReencryptionResult) -> list[str]:
    reencrypted_keys = count_noun(reencrypted.reencrypted, "account key")
    if reencrypted.channels:
        reencrypted_keys += f" and {count_noun(reencrypted.channels, 'notification channel')}"
    if reencrypted.webhooks:
        reencrypted_keys += f" and {count_noun(reencrypted.webhooks, 'webhook')}"
    if rotation.file is None:
        lines = [
            f"Re-encrypted {reencrypted_keys} with the first key of ACCESSION_SECRET_KEY.",
            "Remove the other keys on every machine that runs Accession, and restart the workers.",
        ]
    else:
        prefix = "Completed the interrupted rotation. " if rotation.is_resumed else ""
        lines = [
            f"{prefix}Re-encrypted {reencrypted_keys} with the new key in {rotation.file}.",
            "Copy that file to your backups and to other machines that run workers.",
        ]
    lines.append("Keep the old key for as long as you keep older backups of the database.")
    if reencrypted.skipped:
        unreadable = count_noun(reencrypted.skipped, "account key")
        lines.append(f"Not changed: {unreadable} of removed collections, encrypted with a lost key.")
    return lines


@app.command(
    epilog='Example: accession collections pause "Alder Library" --reason "vendor maintenance" '
    '--until "2026-12-01 06:00"'
)
def pause(
    names: SomeNames = None,
    reason: Annotated[str, typer.Option(help="Why, as others will see it.")] = "",
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="End of the pause, such as 2026-12-01T06:00: in ACCESSION_TIME_ZONE, or with an offset such "
            "as Z for UTC. Default: until `accession collections resume`.",
        ),
    ] = None,
    workflow: SomeWorkflows = None,
    all_collections: AllCollections = False,
    cancel_runs: Annotated[
        bool,
        typer.Option("--cancel-runs", help="Also cancel active runs. They are started again afterwards."),
    ] = False,
) -> None:
    """Pause the workflows of collections: no run starts until the end of the pause.

    Active runs continue to their end unless --cancel-runs is given. Runs that were due meanwhile start once
    after the pause.
    """
    end = None if until is None else _parse_end(until)
    selected = select_collections(names, selects_all=all_collections, choices="names of collections or --all")
    from accession.tasks.control import pause_workflows

    result = pause_workflows(
        command_actor(),
        selected,
        workflow or list(Workflow),
        reason=reason,
        until=end,
        cancels_runs=cancel_runs,
    )
    shown_end = "" if end is None else f" until {end:%Y-%m-%d %H:%M} UTC"
    console.print(result.describe("workflow", f"paused{shown_end}"), markup=False)


def _parse_end(text: str) -> datetime:
    zone = get_settings().time_zone
    try:
        return parse_local_datetime(text, zone)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time such as 2026-12-01T06:00 ({zone}) or 2026-12-01T05:00Z"
        ) from None


@app.command(epilog='Example: accession collections resume "Alder Library"')
def resume(
    names: SomeNames = None, workflow: SomeWorkflows = None, all_collections: AllCollections = False
) -> None:
    """End the pause of collections' workflows.

    Runs that were due or cancelled during the pause start now.
    """
    selected = select_collections(names, selects_all=all_collections, choices="names of collections or --all")
    from accession.tasks.control import resume_workflows

    result = resume_workflows(command_actor(), selected, workflow or list(Workflow))
    console.print(result.describe("workflow", "resumed"), markup=False)


@app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking for confirmation.")] = False,
) -> None:
    """Mark a collection for deletion.

    Nothing more is imported for it, and active runs stop. Its titles stay in the database, but no command,
    page or export shows them.
    """
    with open_catalogue() as session:
        collection = find_collection(session, name)
        if not yes:
            typer.confirm(f'Mark "{name}" for deletion? Its imports will stop', abort=True)
        mark_for_deletion(collection)
        record(session, command_actor(), AuditAction.COLLECTION_REMOVE, name)
    console.print(f'Marked "{name}" for deletion.', markup=False)
