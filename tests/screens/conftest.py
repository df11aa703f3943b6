"""A real browser before a real installation: everything of `accession up`, a sandbox vendor among it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from accession.local.embedded import free_port
from accession.sandbox.server import SandboxAccount
from tests.chaos.installation import Installation

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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium, without a window."""
    if CHROMIUM is None:
        pytest.skip("SCREENS ARE NOT TESTED: there is no chromium; install it with `apt-get install chromium`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Dashboard:
    """A dashboard that is served, and what a person does there."""

    base_url: str
    page: Page
    asked: list[str]

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
    """Opens a dashboard in a browser of its own, that fails on an error of a script and notes what is asked for."""
    contexts = []

    def visit(base_url: str, **options: object) -> Dashboard:
        context = browser.new_context(locale="en-GB", timezone_id="Europe/Berlin", **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        dashboard = Dashboard(base_url, page, [])
        page.on("request", lambda request: dashboard.asked.append(request.url))
        page.on("pageerror", lambda error: pytest.fail(f"a script failed: {error}"))
        page.on(
            "console",
            lambda said: pytest.fail(f"the console says: {said.text}") if said.type == "error" else None,
        )
        return dashboard

    yield visit
    for context in contexts:
        context.close()
