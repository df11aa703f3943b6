"""Command `demo`: show the workflows from an empty database, with the simulated vendor."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import (
    add_collection,
    find_collection,
    list_collections,
    mark_for_deletion,
)
from accession.catalog.rejected_records import rejected_record_views
from accession.catalog.titles import TitleView, title_views
from accession.catalog.written_rows import count_rows_written_since, read_table_state
from accession.cli.actor import command_actor
from accession.cli.connect import open_catalogue, resolve_servers
from accession.cli.output import console, print_table
from accession.cli.titles import TITLE_COLUMNS
from accession.core.errors import UserError
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection
from accession.local.control import start_in_background, stop_running
from accession.local.home import remove_home_data
from accession.local.ports import free_port
from accession.runs.schedules import ScheduleOverride, set_schedule
from accession.runs.views import run_views

NAME = "Demo Library"
_SANDBOX_START_SECONDS = 30
_STOP_SECONDS = 60

# Once a year: a scheduled run would write rows while the second import shows that it writes none.
_DEMO_SCHEDULE = ScheduleOverride(cron="0 0 1 1 *")

# Simulated events per hour: in the hour before the demo starts, and while all workflows run.
_USUAL_ACTIVITY = 1_000
_BUSY_ACTIVITY = 100_000


def demo(
    titles: Annotated[
        int, typer.Option(min=1, help="Number of titles that the library has purchased.")
    ] = 2000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end.")] = False,
) -> None:
    """Demonstrate all workflows with a simulated vendor, and verify the result.

    The demo imports twelve years of purchases; imports them again to show that nothing is written; runs all
    three workflows while titles are purchased and lent; and compares every title with the vendor.

    It runs in a temporary folder, which is removed at the end, and its servers do not wait for the disk,
    unless ACCESSION_DATABASE_URL and ACCESSION_REDIS_URL name the servers to use.
    """
    with _running_installation(titles, keep=keep) as vendor_url:
        name = _add_demo_collection(vendor_url)
        _set_activity(vendor_url, 0)
        console.rule("First import: all purchases since 2014")
        first = _import_all(name, vendor_url)
        console.rule("Second import: nothing changes")
        with open_catalogue() as session:
            state_before = read_table_state(session)
        second = _import_all(name, vendor_url)
        with open_catalogue() as session:
            rows_written = count_rows_written_since(session, state_before)
        console.rule("Simulated activity: purchases and loans while all workflows run")
        _set_activity(vendor_url, _BUSY_ACTIVITY)
        _run_all_workflows(name)
        console.rule("Activity stopped: all workflows run once more")
        _set_activity(vendor_url, 0)
        # A window ends before the current second: wait until that second's purchases are in a window.
        time.sleep(1 - time.time() % 1)
        _run_all_workflows(name)
        is_correct = _report(name, vendor_url, first, second, rows_written)
        if keep:
            _restore_schedules(name)
            _print_next_steps()
        elif _has_external_servers():
            with open_catalogue() as session:
                mark_for_deletion(find_collection(session, name))
    if not is_correct:
        raise typer.Exit(1)


@dataclass(frozen=True)
class ImportStatistics:
    """Duration of one import, and the pages it requested."""

    seconds: float
    pages: int


def _has_external_servers() -> bool:
    return all(name in os.environ for name in ("ACCESSION_DATABASE_URL", "ACCESSION_REDIS_URL"))


@contextmanager
def _running_installation(titles: int, *, keep: bool) -> Iterator[str]:
    """Run Accession with a simulated vendor in the background, and yield the vendor's base URL.

    At the end it is stopped and its temporary folder is removed, unless `keep` is set and no error occurred.
    """
    home = (
        get_settings().home if _has_external_servers() else Path(tempfile.mkdtemp(prefix="accession-demo-"))
    )
    os.environ["ACCESSION_HOME"] = str(home)
    if not _has_external_servers():
        # Files of secrets may name the servers of an installation.
        os.environ["ACCESSION_SECRETS_DIR"] = str(home)
    use_settings(None)
    port, web_port = free_port(), free_port()
    os.environ["ACCESSION_WEB_PORT"] = str(web_port)
    console.print(f"Starting Accession in {home} ...", soft_wrap=True, highlight=False)
    options = (
        "--sandbox",
        str(titles),
        "--sandbox-port",
        str(port),
        "--sandbox-activity",
        str(_USUAL_ACTIVITY),
        # The data are deleted at the end.
        "--durable" if keep else "--not-durable",
    )
    is_kept = False
    # SIGTERM cleans up as Ctrl-C does.
    previous_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        start_in_background([sys.executable, "-m", "accession", "up", *options], home)
        resolve_servers()
        console.print(f"Dashboard: http://127.0.0.1:{web_port}", soft_wrap=True, highlight=False)
        vendor_url = f"http://127.0.0.1:{port}"
        _wait_for_vendor(vendor_url)
        yield vendor_url
        is_kept = keep
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
        if not is_kept:
            stop_running(home, _STOP_SECONDS)
            if not _has_external_servers():
                remove_home_data(home)
                shutil.rmtree(home)


def _wait_for_vendor(vendor_url: str) -> None:
    deadline = time.monotonic() + _SANDBOX_START_SECONDS
    while time.monotonic() < deadline:
        try:
            _vendor_statistics(vendor_url)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise UserError("The simulated vendor did not start: see logs/sandbox.log in the home.")


def _vendor_statistics(vendor_url: str) -> dict[str, Any]:
    statistics: dict[str, Any] = httpx.get(f"{vendor_url}/sandbox/statistics", trust_env=False).json()
    return statistics


def _count_page_requests(vendor_url: str) -> int:
    pages: int = _vendor_statistics(vendor_url)["requests"]["marc"]
    return pages


def _add_demo_collection(vendor_url: str) -> str:
    from accession.sandbox.signatures import SandboxAccount

    account = SandboxAccount()
    with open_catalogue() as session:
        used_names = {collection.name for collection in list_collections(session)}
        names = (NAME if number == 1 else f"{NAME} {number}" for number in range(1, len(used_names) + 2))
        name = next(name for name in names if name not in used_names)
        collection = add_collection(
            session,
            Account(
                collection=name,
                library_id=account.library_id,
                account_id=account.account_id,
                account_key=SecretStr(account.account_key),
                base_url=vendor_url,
            ),
        )
        _set_schedules(session, collection, _DEMO_SCHEDULE)
    return name


def _restore_schedules(name: str) -> None:
    """Let the collection inherit its schedules; their next runs are those after now."""
    with open_catalogue() as session:
        _set_schedules(session, find_collection(session, name), ScheduleOverride())


def _set_schedules(session: Session, collection: Collection, override: ScheduleOverride) -> None:
    for workflow in SCHEDULED_WORKFLOWS:
        set_schedule(session, command_actor(), collection, workflow, override)


def _import_all(name: str, vendor_url: str) -> ImportStatistics:
    pages_before, started = _count_page_requests(vendor_url), time.monotonic()
    _run(name, {Workflow.PURCHASES: name}, force_reimport=True)
    return ImportStatistics(time.monotonic() - started, _count_page_requests(vendor_url) - pages_before)


def _run_all_workflows(name: str) -> None:
    _run(name, {workflow: f"{name}, {workflow}" for workflow in SCHEDULED_WORKFLOWS})


def _run(name: str, labels: Mapping[Workflow, str], *, force_reimport: bool = False) -> None:
    """Run workflows of the collection at the same time until they end; `labels` name their progress bars."""
    # The Celery app reads the broker's URL when it is imported.
    from accession.cli.watch import watch
    from accession.tasks.workflows import start_workflow

    with open_catalogue() as session:
        collection_id = find_collection(session, name).id
    started = {
        workflow: start_workflow(workflow, [collection_id], force_reimport=force_reimport)
        for workflow in labels
    }
    for workflow, task_ids in started.items():
        if not watch(workflow, {collection_id: labels[workflow]}, task_ids):
            raise typer.Exit(1)


def _report(
    name: str, vendor_url: str, first: ImportStatistics, second: ImportStatistics, rows_written: int
) -> bool:
    """Print the result, and return whether it is correct.

    It is correct if the catalogue agrees with the vendor and the second import has written nothing.
    """
    with open_catalogue() as session:
        titles = list(title_views(session, collection=name))
        rejected = len(rejected_record_views(session, collection=name))
        events = sum(
            view.records_fetched for view in run_views(session, collection=name) if view.workflow == "events"
        )
    console.rule("First titles of the catalogue")
    print_table(titles[:10], TITLE_COLUMNS, empty_message="None.")
    statistics = _vendor_statistics(vendor_url)
    differing = _find_differing_titles(vendor_url, titles)
    owned, available, holds = (
        sum(getattr(title, count) for title in titles)
        for count in ("licenses_owned", "licenses_available", "patrons_in_hold_queue")
    )
    sold = statistics["titles_purchased"]
    console.rule("Summary")
    for label, value in (
        ("Titles", f"{len(titles):,} (the vendor sold {sold:,}, {rejected:,} with an unusable record)"),
        ("Copies", f"{owned:,}, {available:,} of them available; {holds:,} holds"),
        ("Rejected records", f"{rejected:,} (see: accession rejects list)"),
        ("Pages requested", f"{first.pages:,} by the first import, {second.pages:,} by the second"),
        ("Seconds", f"{first.seconds:.1f} for the first import, {second.seconds:.1f} for the second"),
        ("Rows written by the second import", f"{rows_written:,}"),
        ("Events at the vendor", _format_events(statistics["activity"]["events"])),
        ("Circulation events imported", f"{events:,} (the first run goes back ten minutes)"),
        ("Titles that agree with the vendor", f"{len(titles) - len(differing):,} of {len(titles):,}"),
    ):
        console.print(f"{label:>34}  [bold]{value}[/bold]", highlight=False)
    return _print_errors(len(titles), sold - statistics["unusable_records"], rows_written, differing)


def _print_errors(titles: int, expected_titles: int, rows_written: int, differing: list[str]) -> bool:
    """Print what is wrong with the result, and return whether nothing is."""
    errors = []
    if titles != expected_titles:
        errors.append(f"The catalogue has {titles:,} titles instead of {expected_titles:,}.")
    if rows_written:
        errors.append("The second import should not have written any row.")
    if differing:
        errors.append(f"Titles whose counts differ from the vendor's: {', '.join(differing[:10])}.")
    for error in errors:
        console.print(error, style="red", markup=False)
    return not errors


def _format_events(counts: Mapping[str, int]) -> str:
    nouns = {
        "CHECKOUT": "loans",
        "CHECKIN": "returns",
        "HOLD": "holds",
        "PURCHASE": "purchases",
        "REMOVED": "removals",
    }
    return ", ".join(f"{counts[name]:,} {noun}" for name, noun in nouns.items())


def _find_differing_titles(vendor_url: str, titles: Iterable[TitleView]) -> list[str]:
    """Return the ids of titles whose copies, available copies or holds differ from the vendor's."""
    vendor_titles = {
        title["id"]: title for title in httpx.get(f"{vendor_url}/sandbox/titles", trust_env=False).json()
    }

    def agrees(view: TitleView) -> bool:
        title = vendor_titles[view.identifier]
        # Titles that are not listed cannot be borrowed.
        # None of a title on order is available, and never more than owned.
        available = min(title["available"], title["copies"]) * (view.on_order_until is None)
        expected = (title["copies"], available, title["holds"]) if title["listed"] else (0, 0, 0)
        return expected == (view.licenses_owned, view.licenses_available, view.patrons_in_hold_queue)

    return [view.identifier for view in titles if not agrees(view)]


def _set_activity(vendor_url: str, events_per_hour: int) -> None:
    httpx.post(f"{vendor_url}/sandbox/activity/{events_per_hour}", trust_env=False).raise_for_status()


def _print_next_steps() -> None:
    home, program = get_settings().home, Path(sys.executable).with_name("accession")
    console.print(
        f"\nAccession keeps running. To use it:\n"
        f"  export ACCESSION_HOME={home}\n  {program} status\n"
        f"To stop it:\n  {program} down",
        soft_wrap=True,
        highlight=False,
    )
