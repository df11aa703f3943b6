"""Screenshots of the main pages for the README; run by `make screenshots`, not by the tests.

The environment variable SCREENSHOTS names the folder.
"""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import expect

from accession.local.ports import free_port
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.vendor import Sandbox
from tests.fixtures.dashboard import Dashboard, OpenDashboard
from tests.fixtures.installation import new_installation
from tests.fixtures.running_sandbox import running_sandbox

FIRST, LAST = datetime(2014, 1, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def dashboard(open_dashboard: OpenDashboard) -> Iterator[Dashboard]:
    """Open a dashboard with an imported collection, a running one, and one with a wrong account key."""
    port = free_port()
    settings = {"ACCESSION_WEB_PORT": str(port), "ACCESSION_PURCHASE_WINDOW": "month"}
    fast = Sandbox(build_catalogue(2000, FIRST, LAST))
    slow = Sandbox(build_catalogue(500, FIRST, LAST, seed=1), latency_ms=300)
    with (
        running_sandbox(fast) as vendor,
        running_sandbox(slow) as slow_vendor,
        new_installation(**settings),
    ):
        dashboard = open_dashboard(f"http://127.0.0.1:{port}", viewport={"width": 1280, "height": 800})
        page = dashboard.page
        for name, base_url, key in (
            ("Alder Library", vendor.base_url, None),
            ("Cedar County", vendor.base_url, "mistyped"),
            ("Birch Public Library", slow_vendor.base_url, None),
        ):
            dashboard.add_collection(name, base_url, key)
            page.get_by_role("button", name="Start the first import").click()
            if name == "Alder Library":
                dashboard.open("/")
                row = page.get_by_role("row", name=name)
                expect(row.get_by_role("progressbar")).to_be_visible()
                expect(row.get_by_role("progressbar")).to_have_count(0)
        dashboard.open("/")
        expect(page.get_by_role("status")).to_contain_text("1 of 3 failing · 1 running")
        expect(page.get_by_role("row", name="Birch")).to_contain_text(re.compile(r"[1-9]\d? %"))
        yield dashboard


def test_main_pages_are_saved(dashboard: Dashboard) -> None:
    folder = Path(os.environ["SCREENSHOTS"])
    page = dashboard.page
    for name, path in (
        ("overview", "/"),
        ("collection", "/collections/1"),
        ("catalogue", "/titles?collection=1"),
        ("run", "/runs/1"),
    ):
        dashboard.open(path)
        page.wait_for_load_state("networkidle")
        # The list of collections is below the fold.
        page.screenshot(path=folder / f"{name}.png", full_page=name == "overview")
    page.get_by_role("link", name="Rejected records").click()
    page.get_by_role("link", name="1", exact=True).click()
    page.get_by_text("Raw record, as the vendor sent it").click()
    page.screenshot(path=folder / "rejected-record.png")
