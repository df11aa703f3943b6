"""Command `status`: health of every collection, with its workflows beside or below each other."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import chain
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from accession.cli.connect import open_catalogue
from accession.cli.output import (
    NO_COLLECTIONS,
    AsJson,
    cell,
    console,
    count_noun,
    list_names,
    print_json_list,
    print_line,
    print_table,
    shorten,
)
from accession.core.workflow import Workflow
from accession.runs.health import CollectionHealth, HealthState, WorkflowHealth, collection_health
from accession.runs.overview import CollectionQuery, HealthFilter, SortKey, SortOrder
from accession.runs.pauses import PauseView
from accession.runs.views import status_views

_UNLIMITED_WIDTH = 10_000


def status(
    condition: Annotated[
        HealthFilter | None, typer.Option("--filter", help="Only collections in this state.")
    ] = None,
    text: Annotated[str, typer.Option(help="Only collections with this text in their name.")] = "",
    sort: Annotated[
        str,
        typer.Option(
            help=f"Order of the collections: {', '.join(SortKey)}; with - before it, descending. "
            "A workflow stands for its last success."
        ),
    ] = SortKey.HEALTH,
    as_json: AsJson = False,
) -> None:
    """Show the state of each workflow of each collection, failing collections first. Times are in UTC."""
    query = CollectionQuery(condition, text, order=SortOrder.parse(sort))
    with open_catalogue() as session:
        collections = collection_health(session)
        views = status_views(session) if as_json else []
    selected = query.select(collections)
    if as_json:
        position = {each.name: number for number, each in enumerate(selected)}
        of_selected = (view for view in views if view.collection in position)
        print_json_list(sorted(of_selected, key=lambda view: position[view.collection]))
    elif not selected:
        console.print("No collection matches." if collections else NO_COLLECTIONS)
    else:
        _print_status(selected)


def _print_status(collections: Sequence[CollectionHealth]) -> None:
    table = _wide_table(collections)
    unlimited = console.options.update(width=_UNLIMITED_WIDTH)
    if console.measure(table, options=unlimited).maximum <= console.width:
        console.print(table)
    else:
        _print_stacked(collections)
    _print_errors(collections)
    _print_pauses(collections)
    if len(collections) > 1:
        states = Counter(each.health for each in collections)
        numbers = ", ".join(f"{states[state]:,} {state}" for state in HealthState if states[state])
        print_line(f"{count_noun(len(collections), 'collection')}: {numbers}")


def _wide_table(collections: Sequence[CollectionHealth]) -> Table:
    """Return a table with a line for each collection, and a column for each workflow."""
    listed = set(chain.from_iterable((run.workflow for run in each.workflows) for each in collections))
    workflows = [workflow for workflow in Workflow if workflow in listed]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Collection", no_wrap=True)
    for workflow in workflows:
        table.add_column(workflow.capitalize(), no_wrap=True)
    for heading in ("Rejected", "Pending"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Next run", no_wrap=True)
    for each in collections:
        runs = {run.workflow: run for run in each.workflows}
        starts = [start for run in each.workflows if (start := _next_start(run)) is not None]
        table.add_row(
            cell(shorten(each.name)),
            *(_wide_cell(runs.get(workflow)) for workflow in workflows),
            cell(each.rejected),
            cell(each.pending_updates),
            cell(min(starts, default=None)),
        )
    return table


def _wide_cell(run: WorkflowHealth | None) -> Text:
    if run is None:
        return Text("")
    style = "red" if run.health is HealthState.FAILING else ""
    return Text.assemble((_state(run), style), " ", cell(_synced_through(run)))


def _print_stacked(collections: Sequence[CollectionHealth]) -> None:
    """Print a table with a line for each workflow; the first one has the name of the collection."""
    print_table(
        [
            (shorten(each.name) if number == 0 else "", run)
            for each in collections
            for number, run in enumerate(each.workflows)
        ],
        [
            ("Collection", lambda row: row[0]),
            ("Workflow", lambda row: row[1].workflow),
            ("State", lambda row: _state(row[1])),
            ("Synced through", lambda row: _synced_through(row[1])),
            ("Next run", lambda row: _next_start(row[1])),
        ],
        empty_message="",
    )


def _state(run: WorkflowHealth) -> str:
    progress = "" if run.progress is None else f" {run.progress.fraction:.0%}"
    return f"{run.state}{progress}{', paused' if run.pause is not None else ''}"


def _synced_through(run: WorkflowHealth) -> datetime | str | None:
    if run.unconfirmed_since is None:
        return run.checkpoint
    return f"unconfirmed since {run.unconfirmed_since:%Y-%m-%d}"


def _next_start(run: WorkflowHealth) -> datetime | None:
    return None if run.pause is not None else run.next_start


def _print_errors(collections: Sequence[CollectionHealth]) -> None:
    messages = (
        (each.name, run.workflow, run.cause)
        for each in collections
        for run in each.workflows
        if run.cause is not None
    )
    _print_grouped(messages, style="red")


def _print_pauses(collections: Sequence[CollectionHealth]) -> None:
    messages = (
        (each.name, run.workflow, _describe_pause(run.pause))
        for each in collections
        for run in each.workflows
        if run.pause is not None
    )
    _print_grouped(messages)


def _describe_pause(pause: PauseView) -> str:
    end = "" if pause.until is None else f" until {pause.until:%Y-%m-%d %H:%M}"
    return f"paused{end}: {pause.reason}"


def _print_grouped(messages: Iterable[tuple[str, str, str]], style: str = "") -> None:
    """Print each text once, after the names of the collections that it concerns.

    The messages are collection, workflow and text.
    """
    collections: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for collection, workflow, text in messages:
        collections[text][collection].append(workflow)
    for text, workflows in collections.items():
        subjects = list(workflows)
        if len(subjects) == 1:
            subjects += workflows[subjects[0]]
        print_line(f"{list_names(subjects)}: {text}", style=style)
