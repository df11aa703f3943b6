"""`accession collections`: the accounts with the vendor."""

import os
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from accession.accounts.account import DEFAULT_BASE_URL, Account
from accession.accounts.collections import find_collection, mark_for_deletion, set_account_key
from accession.accounts.keys import KeyRotation, Reencrypted, account_key_of, key_rotation
from accession.accounts.views import collection_views
from accession.cli.connect import attached_servers, catalogue
from accession.cli.output import NO_COLLECTIONS, AsJson, console, counted, print_listing
from accession.core.errors import UserError
from accession.imports.vendor import account_of, add_account, try_account

KEY_VARIABLE = "ACCESSION_ACCOUNT_KEY"

app = typer.Typer(no_args_is_help=True, help="The library's accounts with the vendor.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The collection's name.")]

KeyFile = Annotated[Path | None, typer.Option(help="A file that holds the account key and nothing else.")]


@app.command()
def add(
    name: Name,
    library_id: Annotated[str, typer.Option(help="The library's short code at the vendor.")],
    account_id: Annotated[str, typer.Option(help="The account id that signs requests.")],
    base_url: Annotated[
        str, typer.Option(help="Where the vendor's API is; https, or http on this machine.")
    ] = DEFAULT_BASE_URL,
    account_key_file: KeyFile = None,
) -> None:
    """Add a collection.

    The account key comes from --account-key-file, else from the environment variable
    ACCESSION_ACCOUNT_KEY, else a prompt asks for it. It is stored encrypted.
    """
    # Before a person is asked for the key in vain.
    attached_servers()
    account = Account(
        collection=name,
        library_id=library_id,
        account_id=account_id,
        account_key=_account_key(account_key_file),
        base_url=base_url,
    )
    with catalogue() as session:
        add_account(session, account)
    console.print(f'Added "{name}". Next: accession collections test "{name}"', markup=False)


def _account_key(file: Path | None) -> SecretStr:
    if file is not None:
        try:
            # Windows' editors put a mark before the text.
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
        raise UserError("The account key is empty: copy it from the vendor's account page.")
    return SecretStr(key.strip())


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the collections."""
    with catalogue() as session:
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
            when_empty=NO_COLLECTIONS,
        )


@app.command()
def test(name: Name) -> None:
    """Ask the vendor for something small with this collection's account, and say what is wrong."""
    with catalogue() as session:
        account = account_of(find_collection(session, name))
    console.print(try_account(account), markup=False)


@app.command()
def set_key(name: Name, account_key_file: KeyFile = None) -> None:
    """Give a collection the new account key that the vendor has issued for it.

    The account key comes from --account-key-file, else from the environment variable
    ACCESSION_ACCOUNT_KEY, else a prompt asks for it. It is stored encrypted, and used from the next
    request on. (The key that encrypts it is another thing: see rotate-key.)
    """
    # Before a person is asked for the key in vain.
    with catalogue() as session:
        account_key_of(find_collection(session, name))
    key = _account_key(account_key_file)
    with catalogue() as session:
        set_account_key(session, find_collection(session, name), key)
    console.print(f'"{name}" has a new account key. Next: accession collections test "{name}"', markup=False)


@app.command()
def rotate_key() -> None:
    """Change the key with which all account keys are encrypted on this side.

    A new key takes the place of the one in secret.key. Workers may go on meanwhile. When it was
    interrupted, run it again. What the vendor has issued stays as it is: a collection's account key is
    changed with set-key.

    With ACCESSION_SECRET_KEY the key is yours to change: put a new one and a comma before the old one
    wherever Accession runs, start the workers again, run this command, and then take the old one out.
    """
    with key_rotation() as rotation, catalogue() as session:
        reencrypted = rotation.reencrypt(session)
    for line in _rotated(rotation, reencrypted):
        console.print(line, markup=False, soft_wrap=True)


def _rotated(rotation: KeyRotation, reencrypted: Reencrypted) -> list[str]:
    what = counted(reencrypted.done, "account key")
    verb = "is" if reencrypted.done == 1 else "are"
    if rotation.file is None:
        lines = [
            f"{what} {verb} encrypted with the first key of ACCESSION_SECRET_KEY.",
            "Take the others out wherever Accession runs, and start the workers again.",
        ]
    else:
        first = "The rotation that was begun is complete: " if rotation.completes_another else ""
        lines = [
            f"{first}{what} {verb} encrypted with the new key in {rotation.file}.",
            "Copy that file to your backups and to other machines that run workers.",
        ]
    lines.append("Keep the old key for as long as you keep backups of the database made before.")
    if reencrypted.left:
        lost = counted(reencrypted.left, "account key")
        lines.append(f"Left as before: {lost} of removed collections, encrypted with a key that is gone.")
    return lines


@app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Mark a collection for deletion: nothing more is imported, and a chain at work stops."""
    with catalogue() as session:
        collection = find_collection(session, name)
        if not yes:
            typer.confirm(f'Mark "{name}" for deletion? Its imports stop', abort=True)
        mark_for_deletion(collection)
    console.print(f'"{name}" is marked for deletion.', markup=False)
