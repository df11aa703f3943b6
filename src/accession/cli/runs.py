"""Commands of `accession runs`: failures and history of the workflows."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any

import typer

from accession.accounts.collections import find_collection
from accession.bibliotheca.errors import problem_of
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue, require_broker, require_schema
from accession.cli.output import (
    AsJson,
    InCollection,
    console,
    count_noun,
    list_names,
    print_json_list,
    print_line,
    print_listing,
)
from accession.cli.run_details import show_run
from accession.cli.selection import (
    AllCollections,
    Failing,
    SomeCollections,
    SomeWorkflows,
    select_collections,
)
from accession.core.clock import utc_now
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import RunState
from accession.runs.failures import group_failures
from accession.runs.health import collection_health
from accession.runs.run_days import MAX_DAYS, RunDayView, run_days
from accession.runs.run_hours import RunHourView, run_hours
from accession.runs.views import run_views

app = typer.Typer(no_args_is_help=True)
app.command("show", epilog="Example: accession runs show 42 --log --level warning")(show_run)

# Numbers of the runs of a day, or of an hour.
_END_STATES: Sequence[tuple[str, Callable[[RunDayView | RunHourView], Any]]] = (
    ("Succeeded", lambda runs: runs.succeeded),
    ("Failed", lambda runs: runs.failed),
    ("Interrupted", lambda runs: runs.interrupted),
    ("Cancelled", lambda runs: runs.cancelled),
)


@app.command("list", epilog='Example: accession runs list --collection "Alder Library" --limit 5')
def list_runs(
    collection: InCollection = None,
    workflow: Annotated[Workflow | None, typer.Option(help="List runs of this workflow only.")] = None,
    state: Annotated[RunState | None, typer.Option(help="List runs in this state only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of runs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first. Times are in UTC."""
    with open_catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        views = run_views(session, collection=collection, workflow=workflow, state=state, limit=limit)
    print_listing(
        views,
        [
            ("Run", lambda r: str(r.id)),
            ("Collection", lambda r: r.collection),
            ("Workflow", lambda r: r.workflow),
            ("State", lambda r: r.state),
            ("Started", lambda r: r.started_at),
            ("Finished", lambda r: r.finished_at),
            ("Records", lambda r: r.records_fetched),
            ("Rejected", lambda r: r.records_rejected),
            ("New", lambda r: r.titles_new),
            ("Changed", lambda r: r.titles_changed),
        ],
        as_json=as_json,
        empty_message=(
            "No run matches."
            if collection or workflow or state
            else "No runs yet. Start one with: accession import purchases --import-all"
        ),
    )
    if not as_json:
        for view in views:
            if view.error:
                print_line(f"Run {view.id}: {problem_of(view.error, view.collection)}", style="red")


RunIds = Annotated[list[int] | None, typer.Argument(metavar="[RUN]...", help="Numbers of the runs.")]


@app.command(epilog='Example: accession runs cancel --collection "Alder Library" --workflow purchases')
def cancel(
    runs: RunIds = None,
    collection: SomeCollections = None,
    workflow: SomeWorkflows = None,
    all_collections: AllCollections = False,
) -> None:
    """Cancel active runs.

    What a run has imported is kept, and the next run continues there. A step that is being stored is
    completed; one that still waits for the vendor stores nothing.
    """
    _check_runs(runs, collection, workflow, all_collections)
    if runs:
        require_broker()
        require_schema()
        from accession.tasks.control import cancel_run

        for run_id in runs:
            cancel_run(command_actor(), run_id)
            console.print(f"Run {run_id} cancelled.")
        return
    selected = select_collections(
        collection, selects_all=all_collections, choices="numbers of runs, --collection NAME or --all"
    )
    from accession.tasks.control import cancel_runs

    result = cancel_runs(command_actor(), selected, workflow or list(Workflow))
    console.print(result.describe("run", "cancelled"), markup=False)


@app.command(epilog="Example: accession runs retry --failing")
def retry(
    runs: RunIds = None,
    collection: SomeCollections = None,
    workflow: SomeWorkflows = None,
    failing: Failing = False,
) -> None:
    """Retry now: start the next attempt of retrying runs at once, and continue failed ones.

    A failed run is continued by a new one, which starts at the checkpoint.
    """
    _check_runs(runs, collection, workflow, failing)
    if runs:
        require_broker()
        require_schema()
        from accession.tasks.control import retry_run

        for run_id in runs:
            continued_id = retry_run(command_actor(), run_id)
            by = "" if continued_id == run_id else f" by run {continued_id}"
            console.print(f"Run {run_id} is continued{by}.")
        return
    selected = select_collections(
        collection, failing=failing, choices="numbers of runs, --collection NAME or --failing"
    )
    from accession.tasks.control import retry_now

    result = retry_now(command_actor(), selected, workflow or SCHEDULED_WORKFLOWS)
    console.print(result.describe("run", "retried"), markup=False)


def _check_runs(runs: Sequence[int] | None, *others: object) -> None:
    if runs and any(others):
        raise typer.BadParameter("give either numbers of runs or options that select collections")


@app.command("days", epilog='Example: accession runs days --collection "Alder Library" --days 365')
def list_days(
    collection: InCollection = None,
    workflow: Annotated[Workflow | None, typer.Option(help="Count runs of this workflow only.")] = None,
    days: Annotated[int, typer.Option(min=1, max=MAX_DAYS, help="Number of days, up to today.")] = 30,
    as_json: AsJson = False,
) -> None:
    """List the totals of the runs that ended on each day (UTC), oldest first.

    They are kept for years, also those of runs that have been deleted.
    """
    with open_catalogue() as session:
        if collection is not None:
            find_collection(session, collection)
        since = utc_now().date() - timedelta(days=days - 1)
        views = run_days(session, since=since, collection=collection, workflow=workflow)
    print_listing(
        views,
        [
            ("Day", lambda d: d.day),
            *_END_STATES,
            ("Minutes", lambda d: round(d.seconds / 60)),
            ("Pages", lambda d: d.pages),
            ("Records", lambda d: d.records_fetched),
            ("Rejected", lambda d: d.records_rejected),
            ("New", lambda d: d.titles_new),
            ("Changed", lambda d: d.titles_changed),
        ],
        as_json=as_json,
        empty_message="No runs have ended in these days.",
    )


@app.command("hours", epilog="Example: accession runs hours")
def list_hours(as_json: AsJson = False) -> None:
    """List the totals of the runs that ended in each of the last 24 hours (UTC), oldest first."""
    with open_catalogue() as session:
        views = run_hours(session)
    print_listing(
        views,
        [
            ("Hour", lambda h: h.hour),
            ("Workflow", lambda h: h.workflow),
            *_END_STATES,
            ("Records", lambda h: h.records_fetched),
            ("New", lambda h: h.titles_new),
        ],
        as_json=as_json,
        empty_message="No run has ended in the last 24 hours.",
    )


@app.command("failures", epilog="Example: accession runs failures")
def list_failures(as_json: AsJson = False) -> None:
    """List the causes for which workflows are failing or retrying, those of most collections first.

    Retry them all with `accession runs retry --failing`. Times are in UTC.
    """
    with open_catalogue() as session:
        groups = group_failures(session, collection_health(session))
    if as_json:
        print_json_list(groups)
        return
    if not groups:
        console.print("No workflow is failing.")
    for group in groups:
        names = list(dict.fromkeys(failure.collection for failure in group.failures))
        since = f"since {group.since:%Y-%m-%d %H:%M}"
        print_line(f"{group.cause} {group.advice}", style="red")
        subject = count_noun(group.collections, "collection")
        print_line(f"  {subject} {since}: {list_names(names)}")
