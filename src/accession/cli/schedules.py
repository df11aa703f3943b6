"""Command `collections schedule`: when the workflows of a collection start."""

import re
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue
from accession.cli.output import AsJson, console, print_json_list, print_table
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection
from accession.runs.schedules import (
    ScheduleOverride,
    ScheduleView,
    find_override,
    preview_schedule,
    schedule_views,
    set_schedule,
)


def _parse_minutes(text: str) -> int:
    match = re.fullmatch(r"(?:(\d{1,4})h)?(?:(\d{1,4})m?)?", text.strip())
    if match is None or not match[0]:
        raise typer.BadParameter(f"{text!r} is no duration: enter one such as 30m, 1h or 0")
    return 60 * int(match[1] or 0) + int(match[2] or 0)


Jitter = Annotated[
    int | None,
    typer.Option(
        parser=_parse_minutes,
        metavar="DURATION",
        help="Window after the time of the schedule in which the run starts, such as 30m or 1h.",
    ),
]


def schedule(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the collection.")],
    workflow: Annotated[
        Workflow | None, typer.Option(help="Workflow: purchases, events or circulation.")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="Cron expression: minute, hour, day of month, month, day of week.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Time zone of the expression, such as Europe/Berlin.")
    ] = None,
    jitter: Jitter = None,
    inherit: Annotated[
        bool, typer.Option("--default", help="Inherit the schedule from the settings again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the next starts, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show or change when the workflows of a collection start.

    What is not given stays as it is. Without options, the schedules are shown.
    """
    changes = {"cron": cron, "time_zone": time_zone, "jitter_minutes": jitter}
    changes = {field: value for field, value in changes.items() if value is not None}
    if changes and inherit:
        raise typer.BadParameter("give either --default or a new schedule")
    if changes and workflow is None:
        raise typer.BadParameter("give the --workflow whose schedule is to be changed")
    workflows = SCHEDULED_WORKFLOWS if workflow is None else (workflow,)
    with open_catalogue() as session:
        collection = find_collection(session, name)
        if changes or inherit:
            views = [_change(session, collection, each, changes, dry_run=dry_run) for each in workflows]
        else:
            views = [view for view in schedule_views(session, collection) if view.workflow in workflows]
    if as_json:
        print_json_list(views)
    else:
        _print_schedules(views)


def _change(
    session: Session,
    collection: Collection,
    workflow: Workflow,
    changes: dict[str, Any],
    *,
    dry_run: bool,
) -> ScheduleView:
    """Change the fields of a workflow's schedule; without changes all are inherited."""
    override = ScheduleOverride()
    if changes:
        override = replace(find_override(session, collection, workflow), **changes)
    if dry_run:
        return preview_schedule(session, collection, workflow, override)
    return set_schedule(session, command_actor(), collection, workflow, override)


def _print_schedules(views: list[ScheduleView]) -> None:
    print_table(
        views,
        [
            ("Workflow", lambda v: v.workflow),
            ("Cron", lambda v: v.cron),
            ("Time zone", lambda v: v.time_zone),
            ("Jitter, minutes", lambda v: v.jitter_minutes),
            ("Inherited", lambda v: ", ".join(v.inherited).replace("_", " ")),
        ],
        empty_message="This workflow has no schedule.",
    )
    for view in views:
        console.print(f"\nNext starts of {view.workflow} ({view.description}):", highlight=False)
        for start in view.next_starts:
            console.print(f"  {_format_start(start, view.time_zone)}", highlight=False, markup=False)


def _format_start(start: datetime, time_zone: str) -> str:
    """Return the start in its time zone and in UTC."""
    local = f"{start.astimezone(ZoneInfo(time_zone)):%a %Y-%m-%d %H:%M %Z}"
    return local if local.endswith(" UTC") else f"{local} ({start:%H:%M} UTC)"
