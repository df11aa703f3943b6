"""The dashboard in a browser below the path of its public URL: scripts, forms, frames and login."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from accession.auth.roles import UserRole
from accession.core.settings import get_settings, use_settings
from accession.db import schema
from accession.db.models import Collection
from accession.digests.options import DigestOptions, set_digest
from accession.local.servers import ServerUrls
from tests.fixtures.commands import background_command, environment
from tests.fixtures.dashboard import Dashboard, OpenDashboard
from tests.fixtures.databases import url_of
from tests.fixtures.digests import ANN
from tests.fixtures.factories import PASSWORD
from tests.fixtures.machine import free_port, http_status
from tests.fixtures.waiting import wait_until
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


def log_in(page: Page, name: str) -> None:
    """Log in with the form that the page shows."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_browser_requests_nothing_outside_the_path(dashboard: Dashboard) -> None:
    """Login, a shortcut, a form, a frame, a download of covers, and logout."""
    page = dashboard.page
    log_in(page, "ada")
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


@pytest.fixture
def other_url(servers: ServerUrls, scratch: Engine, tmp_path: Path) -> Iterator[str]:
    """Serve another installation of the same host, with the user bob, below a path; return its URL.

    It has another port, which makes no difference to cookies.
    """
    schema.upgrade(scratch)
    with Session(scratch) as session:
        make_user(session, "bob", UserRole.ADMINISTRATOR)
    scratch.dispose()
    port = free_port()
    url = f"http://127.0.0.1:{port}/accession"
    env = environment(
        ACCESSION_HOME=str(tmp_path),
        ACCESSION_DATABASE_URL=url_of(scratch),
        ACCESSION_REDIS_URL=servers.redis_url,
        ACCESSION_WEB_PORT=port,
        ACCESSION_PUBLIC_URL=url,
    )
    with background_command("web", env=env):
        wait_until(lambda: http_status(f"{url}/login"), "the other installation is served")
        yield url


def test_installations_on_one_host_have_separate_sessions(
    session: Session, open_dashboard: OpenDashboard, dashboard_url: str, other_url: str
) -> None:
    """The browser sends the cookies of the installation at `/` to the one below a path, too."""
    make_user(session, "ada", UserRole.ADMINISTRATOR)
    page = open_dashboard(dashboard_url).open("/")
    log_in(page, "ada")
    page.goto(other_url)
    log_in(page, "bob")

    for url, name in ((dashboard_url, "ada"), (other_url, "bob")):
        page.goto(url)
        expect(page.get_by_role("button", name=f"Log out {name}")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    page.goto(dashboard_url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    page.goto(other_url)
    log_in(page, "bob")
    page.goto(dashboard_url)
    page.get_by_role("button", name="Log out").click()
    page.goto(other_url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
