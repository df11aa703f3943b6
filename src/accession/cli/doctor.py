"""Command `doctor`: check an installation, and repair what is safe to repair."""

from typing import Annotated

import typer
from rich.text import Text

from accession.cli.checks import Check, part_checks, run_checks
from accession.cli.output import console, print_json
from accession.cli.repair import repair_checks
from accession.core.sanitize import sanitize


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Repair what is safe to repair, and report it.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON with the fields described in docs/json.md.")
    ] = False,
) -> None:
    """Check the installation: servers, keys, processes, locks, checkpoints, titles and runs.

    Each check is ok, FAIL or, after a repair, FIXED. The exit code is 1 if a check fails.
    """
    checks = [*part_checks(), *repair_checks(fix=fix), *run_checks()]
    if as_json:
        print_json(checks)
    else:
        for check in checks:
            _print_check(check)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _print_check(check: Check) -> None:
    mark, repaired = ("[green]ok   [/green]" if check.ok else "[red]FAIL [/red]"), ""
    if check.repaired is not None:
        mark, repaired = "[yellow]FIXED[/yellow]", f"; {check.repaired}"
    console.print(mark, Text(sanitize(f"{check.name}: {check.finding}{repaired}")), soft_wrap=True)
