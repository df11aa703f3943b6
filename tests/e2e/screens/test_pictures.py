"""Pictures of the main pages, from the demo's data: `make screenshots` puts them into docs/screens."""

import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.sync_api import expect

from accession.local.embedded import free_port
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.server import Sandbox, running_sandbox
from tests.fixtures.dashboard import Dashboard
from tests.fixtures.installation import new_installation

FIRST, LAST = datetime(2014, 1, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
FOLDER = os.environ.get("SCREENSHOTS")


@pytest.fixture
def lived_in(visit: Callable[..., Dashboard]) -> Iterator[Dashboard]:
    """A dashboard over a library that has imported everything, one that does so, and one with a wrong key."""
    port = free_port()
    settings = {"ACCESSION_WEB_PORT": str(port), "ACCESSION_PURCHASE_WINDOW": "month"}
    library = Sandbox(build_catalogue(2000, FIRST, LAST))
    slow = Sandbox(build_catalogue(500, FIRST, LAST, seed=1), latency_ms=300)
    with (
        running_sandbox(library) as vendor,
        running_sandbox(slow) as slow_vendor,
        new_installation(**settings),
    ):
        dashboard = visit(f"http://127.0.0.1:{port}", viewport={"width": 1280, "height": 800})
        page = dashboard.page
        for name, base_url, key in (
            ("Alder Library", vendor.base_url, None),
            ("Cedar County", vendor.base_url, "mistyped"),
            ("Birch Public Library", slow_vendor.base_url, None),
        ):
            dashboard.add_collection(name, base_url, key)
            page.get_by_role("button", name="Run purchases now").click()
            if name == "Alder Library":
                dashboard.open("/")
                imported = page.get_by_role("row", name=name)
                expect(imported.get_by_role("progressbar")).to_be_visible()
                expect(imported.get_by_role("progressbar")).to_have_count(0, timeout=120_000)
        dashboard.open("/")
        expect(page.get_by_role("status")).to_contain_text("1 of 3 in trouble · 1 at work")
        expect(page.get_by_role("row", name="Birch")).to_contain_text(re.compile(r"[1-9]\d? %"))
        yield dashboard


def test_the_main_pages_are_pictured(lived_in: Dashboard, tmp_path: Path) -> None:
    folder = Path(FOLDER) if FOLDER else tmp_path
    page = lived_in.page
    for name, path in (
        ("overview", "/"),
        ("collection", "/collections/1"),
        ("catalogue", "/titles?collection=1"),
        ("run", "/runs/1"),
    ):
        lived_in.open(path)
        page.wait_for_load_state("networkidle")
        page.screenshot(path=folder / f"{name}.png")
    page.get_by_role("link", name="Catalogue").click()
    page.get_by_role("link", name="Rejected records").click()
    page.get_by_role("link", name="1", exact=True).click()
    page.screenshot(path=folder / "rejected-record.png")
    assert {picture.name for picture in folder.glob("*.png")} >= {"overview.png", "rejected-record.png"}
