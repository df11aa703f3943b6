"""Command `apply`, and `collections export`: the configuration as files."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from accession.auth.audit import Actor
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue, require_broker, require_servers
from accession.cli.output import console, count_noun, error_console
from accession.configuration.documents import (
    SUFFIXES,
    Document,
    InvalidConfiguration,
    parse_document,
)
from accession.core.errors import UserError
from accession.core.sanitize import sanitize
from accession.db.engine import snapshot

if TYPE_CHECKING:
    from accession.configuration.loading import Configuration
    from accession.configuration.planning import Plan

STANDARD_INPUT = "-"
DIFFERENCES = 2
"""Exit code of `apply --plan` if there are differences."""


def apply(
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="File in YAML, or in TOML if its name ends in .toml; a folder of such files; or - for YAML "
            "from standard input. May be repeated.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Print the differences, and change nothing. Exit code: 0 without a difference, 2 with "
            "differences, 1 for an error.",
        ),
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Mark collections for deletion, and remove channels, rules, webhooks and digests, that are "
            "absent from the lists in the files. They are listed first.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Prune without asking for confirmation.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the files, and change nothing.")
    ] = False,
) -> None:
    """Make collections, notifications, webhooks and digests equal to configuration files.

    All changes are made in one transaction, or none if a file has a mistake. What is equal is not written.
    Account keys, URLs of channels and secrets of webhooks are not in the files: a file names environment
    variables of this command or files. Write the first file with `accession collections export`.
    """
    if schema:
        from accession.configuration.model import json_schema

        sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
        return
    if not files:
        raise typer.BadParameter("give a file with -f, or - for standard input")
    from accession.configuration.loading import load_configuration

    configuration = load_configuration([document for name in files for document in _read(name)])
    try:
        _require_servers(configuration)
        if plan:
            _print_plan(_make_plan(configuration, prune=prune))
        else:
            _apply(
                configuration, prune=prune, confirms=prune and not yes, can_ask=STANDARD_INPUT not in files
            )
    except InvalidConfiguration as error:
        for problem in error.problems:
            error_console.print(str(problem), markup=False, highlight=False, soft_wrap=True)
        raise UserError(f"{error.summary}.") from None


def _read(name: str) -> list[Document]:
    """Return the documents of a file or a folder.

    Raises:
        UserError: it cannot be read, or the folder has no configuration file.
    """
    if name == STANDARD_INPUT:
        return [parse_document("standard input", sys.stdin.buffer.read())]
    path = Path(name)
    try:
        if not path.is_dir():
            return [parse_document(name, path.read_bytes())]
        paths = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and each.name[0] != ".")
        if not paths:
            raise UserError(f"The folder {name} has no file whose name ends in {', '.join(SUFFIXES)}.")
        return [parse_document(str(each), each.read_bytes()) for each in paths]
    except OSError as error:
        raise UserError(
            f"{name} cannot be read ({error.strerror}): name a readable file or folder."
        ) from None


def _require_servers(configuration: "Configuration") -> None:
    """Complete the settings with the URLs of the servers.

    Raises:
        InvalidConfiguration: there are no servers, but mistakes in the files.
        UserError: there are no servers.
    """
    try:
        require_servers()
    except UserError:
        if configuration.problems:
            raise InvalidConfiguration(list(configuration.problems)) from None
        raise


def _make_plan(configuration: "Configuration", *, prune: bool) -> "Plan":
    # The Celery app reads the broker's URL when it is imported.
    from accession.configuration.planning import make_plan
    from accession.configuration.references import read_secret

    # Read-only: a plan cannot change anything.
    with open_catalogue(snapshot) as session:
        return make_plan(session, configuration, read_secret, prune=prune)


def _print_plan(plan: "Plan") -> None:
    _print_notes(plan)
    _print_changes(plan)
    if not plan.changes:
        console.print("No differences.")
        return
    console.print(f"{count_noun(len(plan.changes), 'difference')}. Nothing was changed.")
    raise typer.Exit(DIFFERENCES)


def _print_notes(plan: "Plan") -> None:
    for note in plan.notes:
        error_console.print(sanitize(note), markup=False, highlight=False, soft_wrap=True)


def _print_changes(plan: "Plan") -> None:
    for change in plan.changes:
        console.print(str(change), markup=False, highlight=False, soft_wrap=True)


def _apply(configuration: "Configuration", *, prune: bool, confirms: bool, can_ask: bool) -> None:
    require_broker()
    from accession.configuration.applying import apply_configuration
    from accession.configuration.references import read_secret

    digest = _confirm(configuration, can_ask=can_ask) if confirms else None
    plan = apply_configuration(_actor(), configuration, read_secret, prune=prune, digest=digest)
    _print_notes(plan)
    if digest is None:
        _print_changes(plan)
    number = len(plan.changes)
    console.print(f"{count_noun(number, 'change')} made." if number else "No differences.")


def _confirm(configuration: "Configuration", *, can_ask: bool) -> str:
    """Show the plan, and ask if it removes something; return its digest.

    Raises:
        typer.Abort: the answer is no.
        UserError: standard input is not free for an answer.
    """
    from accession.configuration.changes import Action

    plan = _make_plan(configuration, prune=True)
    _print_changes(plan)
    removals = sum(change.action is Action.REMOVE for change in plan.changes)
    if not removals:
        return plan.digest
    if not can_ask:
        raise UserError(
            f"{count_noun(removals, 'removal')} would need a confirmation, which standard input cannot give: "
            "repeat the command with --yes."
        )
    typer.confirm(f"Make these changes, of which {count_noun(removals, 'removal')}?", abort=True)
    return plan.digest


def _actor() -> Actor:
    """Return the user of the operating system, as the one who applies a configuration."""
    actor = command_actor()
    return Actor(actor.kind, actor.name, "configuration")


def export() -> None:
    """Print the configuration as a file in YAML, for `accession apply`.

    It has all collections, notifications, webhooks and digests, and no secrets: environment variables stand
    for account keys, URLs of channels and secrets of webhooks.
    """
    require_servers()
    from accession.configuration.export import export_configuration, to_yaml

    with open_catalogue(snapshot) as session:
        sys.stdout.write(to_yaml(export_configuration(session)))
