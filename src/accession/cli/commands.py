"""The commands of `accession`: each is imported when it is run, because the imports of all take a second."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

_OBJECTS_PER_GARBAGE_COLLECTION = 10_000


@dataclass(frozen=True)
class LazyCommand:
    """Command, or group of commands, that is not imported yet.

    Attributes:
        target: Module in this package and name in it, such as "status:status".
        summary: Help in the list of commands. It is the first line of a command's docstring.
    """

    target: str
    summary: str
    epilog: str | None = None


COMMANDS = {
    "up": LazyCommand(
        "up:up",
        "Run Accession on this machine: database, broker, worker, schedule and dashboard.",
        epilog="Example: accession up --detach",
    ),
    "down": LazyCommand("up:down", "Stop Accession after the pages in progress are stored."),
    "demo": LazyCommand(
        "demo:demo",
        "Demonstrate all workflows with a simulated vendor, and verify the result.",
        epilog="Example: accession demo --titles 200",
    ),
    "status": LazyCommand(
        "status:status",
        "Show the state of each workflow of each collection, failing collections first. Times are in UTC.",
    ),
    "backup": LazyCommand(
        "backups:backup",
        "Write a backup of the database to a file.",
        epilog="Example: accession backup /srv/backups/accession.backup",
    ),
    "restore": LazyCommand(
        "backups:restore_backup", "Replace the database by a backup; data written since the backup is lost."
    ),
    "env": LazyCommand(
        "processes:env",
        "Print the URLs of database and broker, with passwords, for psql and other tools.",
        epilog='Example: eval "$(accession env)"; psql "$ACCESSION_DATABASE_URL"',
    ),
    "doctor": LazyCommand(
        "doctor:doctor",
        "Check the installation: servers, keys, processes, locks, checkpoints, titles and runs.",
        epilog="Example: accession doctor --fix",
    ),
    "worker": LazyCommand("processes:worker", "Run a worker, which executes imports and updates."),
    "beat": LazyCommand("processes:beat", "Run the scheduler, which starts the workflows at their times."),
    "web": LazyCommand("processes:web", "Serve the dashboard, the API and the feeds."),
    "collections": LazyCommand(
        "collections:app", "Manage collections: the library's accounts with the vendor."
    ),
    "apply": LazyCommand(
        "configuration:apply",
        "Make collections, notifications, webhooks and digests equal to configuration files.",
        epilog="Example: accession apply -f collections.yaml --plan",
    ),
    "import": LazyCommand("imports:app", "Start an import for one collection or for all."),
    "verify": LazyCommand(
        "verify:verify",
        "Compare the stored purchases with those that the vendor lists, month by month.",
        epilog='Example: accession verify --collection "Alder Library" --from 2019-01 --to 2019-12 --repair',
    ),
    "export": LazyCommand("exports:app", "Export the catalogue to files for other systems."),
    "titles": LazyCommand("titles:app", "Show the titles of the collections."),
    "report": LazyCommand(
        "report:report",
        "Print a report on the titles and their use, or list the reports.",
        epilog='Example: accession report holds-ratio --collection "Alder Library" --threshold 3',
    ),
    "rejects": LazyCommand("rejects:app", "Handle records and events that could not be imported."),
    "runs": LazyCommand("runs:app", "Show the runs of the workflows."),
    "notifications": LazyCommand(
        "notifications:app", "Manage notifications: channels, rules and the delivery log."
    ),
    "digests": LazyCommand(
        "digests:app", "Manage digests for librarians: purchased, removed and expired titles by mail."
    ),
    "webhooks": LazyCommand("webhooks:app", "Manage webhooks, which send events to programs."),
    "users": LazyCommand("users:app", "Manage the users of the dashboard."),
    "tokens": LazyCommand("tokens:app", "Manage the tokens of programs that use the API or the feeds."),
    "audit": LazyCommand(
        "audit:audit",
        "Show the audit log: who did what, when and from where. Times are in UTC.",
        epilog="Example: accession audit --since 7d --action user",
    ),
    "settings": LazyCommand(
        "installation:settings",
        "Show the settings as a process started now would use them, and where each comes from.",
        epilog="Example: accession settings --changed",
    ),
    "about": LazyCommand(
        "installation:about", "Show the versions, workers, scheduler and queues of the installation."
    ),
    "db": LazyCommand(
        "database:app", "Upgrade or check the schema of the database, show its size, delete old rows."
    ),
    "sandbox": LazyCommand("sandbox:app", "Run a simulated vendor, to try Accession without an account."),
}


class CommandGroup(TyperGroup):
    """Group of all commands. It lists their summaries, and imports the one that is run."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: TyperCommand(name, help=command.summary) for name, command in COMMANDS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return name, imported command and arguments of the command to run."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import a command, or a group of commands."""
    command = COMMANDS[name]
    module, _, attribute = command.target.partition(":")
    with fast_imports():
        target = getattr(import_module(f"accession.cli.{module}"), attribute)
    program = typer.Typer(rich_markup_mode="markdown")
    if isinstance(target, typer.Typer):
        program.add_typer(target, name=name, help=command.summary)
    else:
        program.command(name, epilog=command.epilog)(target)
    return cast(TyperCommand | TyperGroup, typer.main.get_group(program).commands[name])


@contextmanager
def fast_imports() -> Iterator[None]:
    """Import without the garbage collector, which would find nothing and take an eighth of the time.

    It ignores the imported objects from then on: they live to the end of the process. And it runs more rarely
    than by default: a page of records is 10,000 objects, and none of them garbage that only it could find.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(_OBJECTS_PER_GARBAGE_COLLECTION)
        gc.enable()
