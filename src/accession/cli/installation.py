"""Commands `about` and `settings`: versions, processes and effective settings of the installation."""

from typing import Annotated

import typer

from accession.cli.connect import require_servers
from accession.cli.output import AsJson, console, print_json, print_listing, print_table
from accession.core.effective_settings import effective_settings


def about(as_json: AsJson = False) -> None:
    """Show the versions, workers, scheduler and queues of the installation."""
    require_servers()
    # The Celery app reads the broker's URL when it is imported.
    from accession.tasks.about import about_installation

    installation = about_installation()
    if as_json:
        print_json(installation)
        return
    processes = installation.processes
    facts = [
        ("Accession", installation.version),
        ("Python", installation.python),
        ("PostgreSQL", installation.postgresql),
        ("Schema", installation.schema or "none"),
        ("Broker", processes.broker if processes else installation.broker_problem),
    ]
    if processes:
        age = processes.scheduler_tick_age_seconds
        facts.append(("Scheduler", "no tick is recorded" if age is None else f"last tick {age} s ago"))
    facts += [("Keeps rows locked", blocking.description) for blocking in installation.blocking_sessions]
    for name, value in facts:
        console.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)
    if processes:
        print_table(
            processes.workers,
            [
                ("Worker on", lambda worker: worker.host),
                ("Process", lambda worker: str(worker.pid)),
                ("Last heartbeat", lambda worker: f"{worker.age_seconds} s ago"),
            ],
            empty_message="No workers. Start one with: accession worker",
        )
        print_table(
            processes.queues,
            [
                ("Queue", lambda queue: queue.name),
                ("Waiting", lambda queue: queue.waiting),
                ("Unacknowledged", lambda queue: queue.unacknowledged),
            ],
            empty_message="",
        )


def settings(
    as_json: AsJson = False,
    changed: Annotated[
        bool, typer.Option("--changed", help="Show only settings that differ from their defaults.")
    ] = False,
) -> None:
    """Show the settings as a process started now would use them, and where each comes from.

    Of secrets it shows only whether they are set.
    """
    print_listing(
        [each for each in effective_settings() if not changed or each.value != each.default],
        [
            ("Setting", lambda s: s.name),
            ("Value", lambda s: s.value),
            ("Source", lambda s: s.source),
            ("From", lambda s: s.origin),
        ],
        as_json=as_json,
        empty_message="All settings have their defaults.",
    )
