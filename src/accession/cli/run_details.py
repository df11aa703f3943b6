"""Command `runs show`: one run with its steps, requests to the vendor, and log lines."""

from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy.orm import Session

from accession.cli.connect import open_catalogue
from accession.cli.output import AsJson, cell, console, print_json, print_json_list, print_listing
from accession.core.sanitize import sanitize
from accession.runs.run_details import (
    LogLevel,
    RunLogLineView,
    StepOrder,
    run_log,
    run_requests,
    run_steps,
)
from accession.runs.run_summary import RunSummary, run_summary
from accession.runs.views import run_view

_COUNTERS = (
    *("pages", "records_fetched", "records_stored", "records_rejected"),
    *("titles_new", "titles_changed", "repairs", "restarts"),
)


def show_run(
    run_id: Annotated[int, typer.Argument(metavar="RUN", min=1, help="Number of the run.")],
    steps: Annotated[bool, typer.Option("--steps", help="List its steps, latest first.")] = False,
    slowest: Annotated[bool, typer.Option("--slowest", help="List its steps, slowest first.")] = False,
    requests: Annotated[bool, typer.Option("--requests", help="Show its requests to the vendor.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Print its log lines, oldest first.")] = False,
    level: Annotated[
        LogLevel, typer.Option(help="With --log: lines of this level or a more severe one.")
    ] = LogLevel.INFO,
    text: Annotated[str, typer.Option(metavar="TEXT", help="With --log: lines that contain this text.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show a run, or its steps, requests or log lines. Times are in UTC.

    Workers store steps, requests and log lines a second later. Of a long run, only the latest and the slowest
    steps, the first and the last lines, and warnings and errors are kept.
    """
    if sum((steps, slowest, requests, log)) > 1:
        raise typer.BadParameter("give only one of --steps, --slowest, --requests and --log")
    with open_catalogue() as session:
        run_view(session, run_id)
        if steps or slowest:
            order = StepOrder.SLOWEST if slowest else StepOrder.LATEST
            _print_steps(session, run_id, order, as_json=as_json)
        elif requests:
            _print_requests(session, run_id, as_json=as_json)
        elif log:
            _print_log(run_log(session, run_id, min_level=level, text=text), as_json=as_json)
        elif as_json:
            print_json(run_summary(session, run_id))
        else:
            _print_summary(run_summary(session, run_id))


def _print_steps(session: Session, run_id: int, order: StepOrder, *, as_json: bool) -> None:
    print_listing(
        run_steps(session, run_id, order=order),
        [
            ("Step", lambda step: step.number),
            ("Started", lambda step: _precise_time(step.started_at)),
            ("Window", lambda step: step.describe_span()),
            ("Outcome", lambda step: step.outcome.value),
            ("Seconds", lambda step: round(step.seconds, 3)),
            ("Vendor", lambda step: round(step.fetch_seconds, 3)),
            ("Storing", lambda step: round(step.store_seconds, 3)),
            ("Requests", lambda step: step.requests),
            ("Records", lambda step: step.records),
        ],
        as_json=as_json,
        empty_message="No steps were recorded.",
    )


def _print_requests(session: Session, run_id: int, *, as_json: bool) -> None:
    print_listing(
        run_requests(session, run_id),
        [
            ("Endpoint", lambda row: row.endpoint),
            ("Outcome", lambda row: row.outcome.replace("_", " ")),
            ("Requests", lambda row: row.requests),
            ("Average seconds", lambda row: round(row.mean_seconds, 3)),
            ("Slowest", lambda row: round(row.max_seconds, 3)),
        ],
        as_json=as_json,
        empty_message="No requests were recorded.",
    )


def _print_log(lines: list[RunLogLineView], *, as_json: bool) -> None:
    if as_json:
        print_json_list(lines)
        return
    if not lines:
        console.print("No log lines were kept.")
    for line in lines:
        step = "" if line.page is None else f" step={line.page}"
        fields = "".join(f" {name}={value}" for name, value in line.fields.items())
        text = f"{_precise_time(line.at)} {line.level:<8} {line.event}{step}{fields}"
        style = "" if line.level == LogLevel.INFO else "red"
        console.print(Text(sanitize(text), style=style), soft_wrap=True)


def _print_summary(summary: RunSummary) -> None:
    run, outlook, totals = summary.run, summary.outlook, summary.totals
    facts = {
        "collection": run.collection,
        "workflow": run.workflow,
        "state": run.state,
        "started": _precise_time(run.started_at),
        "finished": None if run.finished_at is None else _precise_time(run.finished_at),
        **{name.replace("_", " "): getattr(run, name) or None for name in _COUNTERS},
        "retries": len(summary.retries) or None,
        "waiting for vendor": _seconds(totals.fetch_seconds),
        "storing": _seconds(totals.store_seconds),
        "error": run.error,
        "attempts of the step": outlook.attempts or None,
        "next attempt": outlook.next_attempt_at,
        "next run": outlook.next_start if run.finished_at and outlook.latest_run_id is None else None,
        "latest run": outlook.latest_run_id,
    }
    for name, value in facts.items():
        if value is not None:
            console.print(f"[bold]{name:>20}[/bold]  ", cell(value), sep="", soft_wrap=True)


def _seconds(seconds: float) -> str | None:
    return f"{seconds:,.1f} s" if seconds else None


def _precise_time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}"
