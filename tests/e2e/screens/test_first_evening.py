"""The systems librarian's first evening: from nothing to a catalogue that she can search."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

from playwright.sync_api import expect

from accession.local.embedded import free_port
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.server import Sandbox, running_sandbox
from tests.fixtures.dashboard import Dashboard
from tests.fixtures.installation import new_installation

SOLD = build_catalogue(60, datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 12, 1, tzinfo=UTC))


def test_from_an_empty_page_to_a_catalogue_that_can_be_searched(visit: Callable[..., Dashboard]) -> None:
    port = free_port()
    with (
        running_sandbox(Sandbox(SOLD, latency_ms=30)) as vendor,
        new_installation(ACCESSION_WEB_PORT=str(port)),
    ):
        dashboard = visit(f"http://127.0.0.1:{port}")
        page = dashboard.open("/")
        expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
        dashboard.is_accessible()

        dashboard.add_collection("Alder Library", vendor.base_url)
        page.get_by_role("button", name="Test connection").click()
        expect(page.get_by_role("status").first).to_contain_text('The vendor answers for "Alder Library"')
        page.get_by_role("button", name="Run purchases now").click()

        # It goes on by itself: nobody reloads the page.
        page.get_by_role("link", name="Overview").click()
        row = page.get_by_role("row", name="Alder Library")
        expect(row.get_by_role("progressbar")).to_be_visible()
        expect(row).to_contain_text(re.compile(r"\d+ %"))
        asked = len(dashboard.asked)
        expect(row.locator("td").first).to_have_text(f"{len(SOLD) - SOLD.unusable}")
        expect(row.get_by_role("progressbar")).to_have_count(0)
        assert all(url.startswith(dashboard.base_url) for url in dashboard.asked)
        assert len(dashboard.asked) > asked
        dashboard.is_accessible()

        title = next(purchase.work.title for purchase in SOLD.purchases if purchase.flaw is None)
        page.get_by_role("link", name="Catalogue").click()
        page.get_by_label("Title, author, ISBN or id").fill(title.upper())
        page.get_by_role("button", name="Search").click()
        page.get_by_role("link", name=title).first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        expect(page.get_by_role("heading", name="MARC record")).to_be_visible()
        dashboard.is_accessible()


def test_a_wrong_account_key_is_told_at_once_and_put_right(visit: Callable[..., Dashboard]) -> None:
    port = free_port()
    with running_sandbox(Sandbox(SOLD)) as vendor, new_installation(ACCESSION_WEB_PORT=str(port)):
        dashboard = visit(f"http://127.0.0.1:{port}")
        page = dashboard.page
        dashboard.add_collection("Birch Library", vendor.base_url, account_key="mistyped")
        page.get_by_role("button", name="Run purchases now").click()
        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_role("status")).to_contain_text("1 of 1 in trouble")
        expect(page.get_by_role("row", name="Birch Library")).to_contain_text(
            "check the account id and the account key"
        )
        dashboard.is_accessible()

        page.get_by_role("link", name="Birch Library").click()
        page.get_by_role("link", name="Edit").click()
        page.get_by_label("Account key").fill(vendor.account.account_key)
        page.get_by_role("button", name="Save").click()
        page.get_by_role("button", name="Test connection").click()
        expect(page.get_by_role("status").first).to_contain_text("the account is right")
        page.get_by_role("button", name="Run purchases now").click()
        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_role("status")).to_contain_text("All is well")
