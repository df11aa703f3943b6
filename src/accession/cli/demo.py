"""`accession demo`: the main job from nothing, on embedded servers, against the sandbox vendor."""

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

from accession.accounts.collections import (
    add_collection,
    collections_in_use,
    find_collection,
    mark_for_deletion,
)
from accession.catalog.rejected_records import reject_views
from accession.catalog.titles import TitleView, title_views
from accession.catalog.written_rows import rows_written_since, write_mark
from accession.cli.attach import attach, catalogue
from accession.cli.catalogue import TITLE_COLUMNS
from accession.cli.output import console, print_table
from accession.core.errors import UserError
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import Workflow
from accession.local.embedded import free_port
from accession.local.postgres import remove_home_data
from accession.local.supervisor import detach, stop_running
from accession.runs.views import run_views

NAME = "Demo Library"
_SANDBOX_ANSWERS_WITHIN_SECONDS = 30
_STOP_SECONDS = 60

# Events an hour: in the hour before the demonstration, and while all workflows run.
_USUAL = 1_000
_BUSY = 100_000


def demo(
    titles: Annotated[int, typer.Option(min=1, help="How many titles the library has bought.")] = 2000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, to look around.")] = False,
) -> None:
    """Import twelve years of purchases from a sandbox vendor, twice; then follow a library that lends, and
    compare every title.

    Everything runs in a folder of its own, which is removed in the end, unless ACCESSION_DATABASE_URL
    and ACCESSION_REDIS_URL name servers to use.
    """
    with _running(titles, keep=keep) as vendor:
        name = _add_collection(vendor)
        _set_activity(vendor, 0)
        console.rule("First import: every purchase since 2014")
        first = _import(name, vendor)
        console.rule("Second import: every purchase again")
        with catalogue() as session:
            mark = write_mark(session)
        second = _import(name, vendor)
        with catalogue() as session:
            written = rows_written_since(session, mark)
        console.rule("The library is open: it sells and lends while all three workflows run")
        _set_activity(vendor, _BUSY)
        _run_all_workflows(name)
        console.rule("The library is closed: all three once more")
        _set_activity(vendor, 0)
        # A window ends before its last second: what was sold in this one belongs to the next.
        time.sleep(1)
        _run_all_workflows(name)
        agrees = _summary(name, vendor, first, second, written)
        if keep:
            _say_how_to_go_on()
        elif _servers_are_given():
            with catalogue() as session:
                mark_for_deletion(find_collection(session, name))
    if not agrees:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Import:
    """What one import took."""

    seconds: float
    pages: int


def _servers_are_given() -> bool:
    given = ("ACCESSION_DATABASE_URL", "ACCESSION_REDIS_URL")
    return all(name in os.environ for name in given)


@contextmanager
def _running(titles: int, *, keep: bool) -> Iterator[str]:
    """Everything up in the background; yields the sandbox vendor's base URL."""
    home = get_settings().home if _servers_are_given() else Path(tempfile.mkdtemp(prefix="accession-demo-"))
    os.environ["ACCESSION_HOME"] = str(home)
    use_settings(None)
    port, web_port = free_port(), free_port()
    os.environ["ACCESSION_WEB_PORT"] = str(web_port)
    console.print(f"Starting Accession in {home} ...", soft_wrap=True, highlight=False)
    up = ["up", "--sandbox", str(titles), "--sandbox-port", str(port), "--sandbox-activity", str(_USUAL)]
    kept = False
    # Whoever ends the demonstration in another way than by Ctrl-C wants it cleared away as well.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        detach([sys.executable, "-m", "accession", *up], home)
        attach()
        console.print(f"Watch it in a browser: http://127.0.0.1:{web_port}", soft_wrap=True, highlight=False)
        vendor = f"http://127.0.0.1:{port}"
        _wait_for(vendor)
        yield vendor
        kept = keep
    finally:
        signal.signal(signal.SIGTERM, before)
        if not kept:
            stop_running(home, _STOP_SECONDS)
            if not _servers_are_given():
                remove_home_data(home)
                shutil.rmtree(home)


def _wait_for(vendor: str) -> None:
    deadline = time.monotonic() + _SANDBOX_ANSWERS_WITHIN_SECONDS
    while time.monotonic() < deadline:
        try:
            _statistics(vendor)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise UserError("The sandbox vendor did not start: see logs/sandbox.log in the home.")


def _statistics(vendor: str) -> dict[str, Any]:
    statistics: dict[str, Any] = httpx.get(f"{vendor}/sandbox/statistics", trust_env=False).json()
    return statistics


def _pages(vendor: str) -> int:
    """How many pages of purchase records were asked for; meanwhile the schedule may ask for other things."""
    pages: int = _statistics(vendor)["requests"]["marc"]
    return pages


def _add_collection(vendor: str) -> str:
    from accession.sandbox.server import SandboxAccount

    account = SandboxAccount()
    with catalogue() as session:
        taken = {collection.name for collection in collections_in_use(session)}
        names = (NAME if number == 1 else f"{NAME} {number}" for number in range(1, len(taken) + 2))
        name = next(name for name in names if name not in taken)
        add_collection(
            session,
            name=name,
            library_id=account.library_id,
            account_id=account.account_id,
            account_key=SecretStr(account.account_key),
            base_url=vendor,
        )
    return name


def _import(name: str, vendor: str) -> Import:
    before, started = _pages(vendor), time.monotonic()
    _run(name, {Workflow.PURCHASES: name}, force_reimport=True)
    return Import(time.monotonic() - started, _pages(vendor) - before)


def _run_all_workflows(name: str) -> None:
    _run(name, {workflow: f"{name}, {workflow}" for workflow in Workflow})


def _run(name: str, workflows: Mapping[Workflow, str], *, force_reimport: bool = False) -> None:
    """Run workflows of the collection side by side to their ends, each under the name to show for it."""
    # The Celery app can only be imported once the broker is known.
    from accession.cli.watch import watch
    from accession.tasks.workflows import start_workflow

    with catalogue() as session:
        collection_id = find_collection(session, name).id
    started = {
        workflow: start_workflow(workflow, [collection_id], force_reimport=force_reimport)
        for workflow in workflows
    }
    for workflow, task_ids in started.items():
        if not watch(workflow, {collection_id: workflows[workflow]}, task_ids):
            raise typer.Exit(1)


def _summary(name: str, vendor: str, first: Import, second: Import, written: int) -> bool:
    """Print what came of it; returns whether it is what the vendor has, and the second import wrote
    nothing."""
    sold = _statistics(vendor)
    with catalogue() as session:
        titles = list(title_views(session, collection=name))
        rejected = len(reject_views(session, collection=name))
        events = sum(
            view.records_fetched for view in run_views(session, collection=name) if view.workflow == "events"
        )
    console.rule("The first rows of the catalogue")
    print_table(titles[:10], TITLE_COLUMNS, when_empty="None.")
    wrong = _titles_that_differ(vendor, titles)
    expected = sold["titles_bought"] - sold["unusable_records"]
    owned, free, holds = (
        sum(getattr(title, count) for title in titles)
        for count in ("licenses_owned", "licenses_available", "patrons_in_hold_queue")
    )
    console.rule("Summary")
    for what, value in (
        (
            "Titles",
            f"{len(titles):,} (the vendor sold {sold['titles_bought']:,}, {rejected:,} of them unusable)",
        ),
        ("Copies", f"{owned:,}, of which {free:,} are free; {holds:,} holds"),
        ("Rejected records", f"{rejected:,} (see: accession rejects list)"),
        ("Pages asked for", f"{first.pages:,}, and {second.pages:,} the second time"),
        ("Seconds", f"{first.seconds:.1f}, and {second.seconds:.1f} the second time"),
        ("Rows written by the second import", f"{written:,}"),
        ("What happened at the vendor", _told(sold["activity"]["events"])),
        ("Circulation events read", f"{events:,} (the first run looks back ten minutes)"),
        ("Titles counted as the vendor does", f"{len(titles) - len(wrong):,} of {len(titles):,}"),
    ):
        console.print(f"{what:>34}  [bold]{value}[/bold]", highlight=False)
    if len(titles) != expected:
        console.print(f"Expected {expected:,} titles and found {len(titles):,}.", style="red")
    if written:
        console.print("The second import should have written nothing.", style="red")
    if wrong:
        console.print(f"The vendor counts otherwise: {', '.join(wrong[:10])}.", style="red", markup=False)
    return len(titles) == expected and not written and not wrong


def _told(happened: Mapping[str, int]) -> str:
    words = {
        "CHECKOUT": "loans",
        "CHECKIN": "returns",
        "HOLD": "holds",
        "PURCHASE": "sales",
        "REMOVED": "removals",
    }
    return ", ".join(f"{happened[name]:,} {word}" for name, word in words.items())


def _titles_that_differ(vendor: str, titles: Iterable[TitleView]) -> list[str]:
    """The ids of titles whose copies, available copies or holds are not those that the vendor has now."""
    has = {title["id"]: title for title in httpx.get(f"{vendor}/sandbox/titles", trust_env=False).json()}

    def agrees(view: TitleView) -> bool:
        title = has[view.identifier]
        # What is not listed cannot be borrowed, whatever the vendor once sold of it.
        there = (title["copies"], title["available"], title["holds"]) if title["listed"] else (0, 0, 0)
        return there == (view.licenses_owned, view.licenses_available, view.patrons_in_hold_queue)

    return [view.identifier for view in titles if not agrees(view)]


def _set_activity(vendor: str, events_an_hour: int) -> None:
    httpx.post(f"{vendor}/sandbox/activity/{events_an_hour}", trust_env=False).raise_for_status()


def _say_how_to_go_on() -> None:
    home = get_settings().home
    console.print(
        f"\nEverything is left running. Look around with\n"
        f"  export ACCESSION_HOME={home}\n  .venv/bin/accession status\n"
        "and stop it with\n  .venv/bin/accession down",
        soft_wrap=True,
        highlight=False,
    )
