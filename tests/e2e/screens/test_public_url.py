"""The dashboard in a browser below the path of its public URL: scripts, forms, frames and login."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect
from sqlalchemy.orm import Session

from accession.auth.roles import UserRole
from accession.core.settings import get_settings, use_settings
from accession.db.models import Collection
from accession.digests.options import DigestOptions, set_digest
from tests.fixtures.dashboard import Dashboard, OpenDashboard
from tests.fixtures.digests import ANN
from tests.fixtures.factories import PASSWORD
from tests.fixtures.web_client import make_user


@pytest.fixture
def dashboard(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> Iterator[Dashboard]:
    """Open the login page of a dashboard that has a public URL with a path."""
    set_digest(session, ANN, stored_collection, DigestOptions())
    make_user(session, "ada", UserRole.ADMINISTRATOR)
    before = get_settings()
    use_settings(before.model_copy(update={"public_url": f"{dashboard_url}/accession"}))
    dashboard = open_dashboard(dashboard_url)
    dashboard.open("/accession/")
    yield dashboard
    use_settings(before)


def test_browser_requests_nothing_outside_the_path(dashboard: Dashboard) -> None:
    """Login, a shortcut, a form, a frame, a download of covers, and logout."""
    page = dashboard.page
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(page.get_by_role("link", name="Overview")).to_have_attribute("aria-current", "page")
    page.wait_for_load_state()
    page.keyboard.press("g")
    page.keyboard.press("c")
    expect(page.get_by_role("heading", level=1)).to_have_text("Catalogue")
    page.get_by_role("link", name="Solaris").click()
    page.goto(f"{dashboard.base_url}/accession/collections/1/digest")
    expect(page.frame_locator("iframe").get_by_role("heading").first).to_be_visible()
    page.goto(f"{dashboard.base_url}/accession/rejected-records/1")
    page.get_by_label("Note").fill("The vendor withdrew the record.")
    page.get_by_role("button", name="Resolve").click()
    expect(page.get_by_role("status")).to_have_text("Record resolved.")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()

    paths = {urlsplit(url).path for url in dashboard.requested_urls}
    assert [path for path in paths if not path.startswith("/accession/")] == []
    assert {"/accession/static/app.js", "/accession/covers/abc"} <= paths
