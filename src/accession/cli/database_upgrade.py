"""Upgrade of the embedded database to a new major version of PostgreSQL, on request or offered by `up`."""

import sys
from pathlib import Path

import typer

from accession.cli.output import console, count_noun
from accession.core.byte_sizes import format_bytes
from accession.core.errors import UserError
from accession.core.sanitize import sanitize
from accession.core.settings import Settings
from accession.local.postgres_upgrade import OldData, Upgrade, find_outdated_data, upgrade_data


def offer_upgrade(settings: Settings) -> None:
    """Ask at a terminal whether data of an older PostgreSQL may be upgraded, and do it.

    Raises:
        UserError: there are such data, and nobody has agreed.
    """
    outdated = find_outdated_data(settings)
    if outdated is None:
        return
    if not sys.stdin.isatty():
        raise UserError(outdated)
    console.print(outdated, markup=False, highlight=False, soft_wrap=True)
    if not typer.confirm("Upgrade them now? The old data are kept.", default=True):
        raise UserError(outdated)
    run_upgrade(settings)


def run_upgrade(settings: Settings, old_programs: Path | None = None, *, delete_old: bool = False) -> None:
    """Upgrade the embedded data, show the present step at a terminal or print each, and print the result."""
    with console.status("Upgrading the database") as status:

        def report(step: str, detail: str) -> None:
            status.update(f"{step} {detail}")
            if not console.is_terminal and not detail:
                console.print(f"{step} ...", highlight=False)

        upgrade = upgrade_data(settings, report, old_programs=old_programs, delete_old=delete_old)
    for line in _result_lines(upgrade):
        console.print(sanitize(line), markup=False, highlight=False, soft_wrap=True)


def _result_lines(upgrade: Upgrade) -> list[str]:
    copy = upgrade.copy
    if copy is None:
        lines = [f"The database already has the format of PostgreSQL {upgrade.major}."]
    else:
        numbers = f"{count_noun(copy.tables, 'table')} with {count_noun(copy.rows, 'row')}"
        lines = [f"Upgraded the database from PostgreSQL {copy.from_major} to {upgrade.major}: {numbers}."]
        if copy.missing:
            lines.append(f"Not copied, because Accession did not create them: {', '.join(copy.missing)}.")
    lines += [f"Deleted the old data in {_describe(old)}." for old in upgrade.deleted]
    lines += [
        f"The old data are kept in {_describe(old)}. Delete them with: "
        "accession db upgrade-embedded --delete-old"
        for old in upgrade.remaining
    ]
    return lines


def _describe(old: OldData) -> str:
    return f"{old.folder} ({format_bytes(old.bytes)})"
