"""A real browser before a real installation: everything of `accession up`, a sandbox vendor among it."""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pymarc
import pytest
import time_machine
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_outbox, put_in_outbox
from accession.catalog.ledger import Workflow, end_run, open_run
from accession.catalog.models import Collection, Run, RunState
from accession.catalog.records import (
    PurchaseDate,
    Rejection,
    StoredRecord,
    keep_rejected,
    store_purchase_records,
)
from accession.sandbox.server import SandboxAccount
from accession.web.server import listen
from tests.making import NOON, make_pool, title_data

SPOILT = '<record xmlns="http://www.loc.gov/MARC21/slim"><!-- <script>alert(1)</script> --></record>'

CHROMIUM = shutil.which("chromium")
# Chromium will not run as root within its sandbox, and is to ask nobody for anything.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium, without a window; not for longer than its tests, whose event loop runs meanwhile."""
    if CHROMIUM is None:
        pytest.skip(
            "SCREENS ARE NOT TESTED: there is no chromium; install it with `apt-get install chromium`"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Dashboard:
    """A dashboard that is served, and what a person does there. `expected` is the status of a refusal that
    the console may tell of."""

    base_url: str
    page: Page
    asked: list[str] = field(default_factory=list)
    expected: str | None = None

    def open(self, path: str) -> Page:
        """Afterwards the browser shows this page of the dashboard."""
        self.page.goto(self.base_url + path)
        return self.page

    def add_collection(self, name: str, vendor: str, account_key: str | None = None) -> None:
        """Fill in the form, from the first page on."""
        account = SandboxAccount()
        page = self.open("/")
        page.get_by_role("link", name="Add").first.click()
        page.get_by_label("Name").fill(name)
        page.get_by_label("Library id").fill(account.library_id)
        page.get_by_label("Account id").fill(account.account_id)
        page.get_by_label("Account key").fill(account_key or account.account_key)
        page.get_by_label("Base URL").fill(vendor)
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)

    def is_accessible(self) -> None:
        """Fails when axe finds anything serious on the page that is shown."""
        found = Axe().run(self.page).response["violations"]
        told = [
            f"{fault['id']}: {node['html'][:200]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
        assert not told, told


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Dashboard]]:
    """Opens a dashboard in a browser of its own; a script that fails there fails the test."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def visit(base_url: str, **options: Any) -> Dashboard:
        context = browser.new_context(locale="en-GB", timezone_id="Europe/Berlin", **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        dashboard = Dashboard(base_url, page)
        page.on("request", lambda request: dashboard.asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.extend(_fault(dashboard, said)))
        return dashboard

    yield visit
    for context in contexts:
        context.close()
    assert not faults


def _fault(dashboard: Dashboard, said: ConsoleMessage) -> list[str]:
    told = dashboard.expected is not None and f"status of {dashboard.expected}" in said.text
    return [said.text] if said.type == "error" and not told else []


@dataclass(frozen=True)
class Stock:
    """What the library holds."""

    collection: Collection


@pytest.fixture
def stock(session: Session, collection: Collection) -> Stock:
    """A collection with a title and all that belongs to it, a run, and a record that cannot be used."""
    pool = make_pool(session, collection, "abc")
    apply_outbox(session, put_in_outbox(session, [(pool, title_data("abc", title="<i>Solaris</i>"))]))
    record = pymarc.Record(fields=[pymarc.Field("001", data="abc")])
    store_purchase_records(session, PurchaseDate(NOON.date()), [StoredRecord(pool, record.as_marc, "hash")])
    rejection = Rejection("It has no title identifier (001).", SPOILT, "hash")
    keep_rejected(session, collection, PurchaseDate(NOON.date()), [rejection])
    with time_machine.travel(NOON, tick=False):
        open_run(session, collection.id, Workflow.PURCHASES, "task", {"current_day": None, "offset": 1})
        end_run(session.scalars(select(Run)).one(), RunState.SUCCEEDED)
    session.commit()
    return Stock(collection)


@pytest.fixture
def served(database: None) -> Iterator[str]:
    """The base URL of the dashboard, served by this process on its own servers."""
    # It imports the Celery app, which can only be imported once the broker is known.
    from accession.web.app import create_app

    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(create_app(), log_config=None, access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
