"""Digests in a browser: setting one up as a person does, and the mail as a mail client shows it."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.settings import get_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection
from accession.digests.content import DigestContent
from accession.digests.issues import preview_content
from accession.digests.options import DigestOptions
from accession.digests.render import render_issue
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.dashboard import Dashboard, OpenDashboard
from tests.fixtures.digests import RECIPIENT, MailServer, make_digest, smtp
from tests.fixtures.factories import day
from tests.integration.digests.test_content import purchase, set_copies

__all__ = ["smtp"]


@pytest.fixture
def content(session: Session, collection: Collection) -> DigestContent:
    """Store purchases and lost copies of the last days, and return the digest of them."""
    now = utc_now()
    days = [(now - timedelta(days=number)).date() for number in range(1, 7)]
    for number, on in enumerate(days):
        purchase(session, collection, f"title-{number}", on)
    yesterday = days[0]
    for identifier, left in (("expired", 1), ("removed", 0)):
        set_copies(session, collection, identifier, 3, day(2024, 1, 1).date())
        set_copies(session, collection, identifier, left, yesterday)
    checkpoint = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    checkpoint.finish = checkpoint.confirmed = now
    session.commit()
    return preview_content(session, collection, DigestOptions(max_titles=4))


def test_digest_is_set_up_previewed_and_sent(
    content: DigestContent,
    collection: Collection,
    open_dashboard: OpenDashboard,
    dashboard_url: str,
    smtp: MailServer,
) -> None:
    page = open_dashboard(dashboard_url).open(f"/collections/{collection.id}")
    page.get_by_role("link", name="Set up a digest").click()
    page.get_by_label("Frequency").select_option("weekly")
    page.get_by_label("Day, if weekly").select_option("friday")
    page.get_by_label("Time zone").fill("Europe/Berlin")
    page.get_by_label("Recipients").fill(RECIPIENT)
    page.get_by_label("Titles per section").fill("2")
    page.get_by_role("button", name="Preview").click()
    expect(page.get_by_role("heading", name="Preview with these options")).to_be_visible()
    mail = page.frame_locator("iframe")
    expect(mail.get_by_role("heading", name="Purchased: 6")).to_be_visible()
    expect(mail.get_by_text("and 4 more")).to_be_visible()
    expect(page.get_by_label("Recipients")).to_have_value(RECIPIENT)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Digest saved.")).to_be_visible()
    expect(page.get_by_text("At 07:00 on Friday (Europe/Berlin)")).to_be_visible()
    page.get_by_role("button", name="Send now").click()
    expect(page.get_by_text(f"Digest sent to {RECIPIENT}.")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="sent by hand")).to_contain_text(RECIPIENT)
    assert smtp.recipients == [RECIPIENT]
    # The covers in the preview are still being fetched.
    page.wait_for_load_state("networkidle")


def test_pages_of_digest_are_accessible_and_fit_phones(
    session: Session,
    content: DigestContent,
    collection: Collection,
    open_dashboard: OpenDashboard,
    dashboard_url: str,
) -> None:
    make_digest(session, collection, recipients=(RECIPIENT,))
    dashboard = open_dashboard(dashboard_url, viewport={"width": 400, "height": 800})
    period = content.period
    titles = f"titles?section=purchased&first={period.first}&last={period.last}"
    for path in ("", f"/{titles}"):
        page = dashboard.open(f"/collections/{collection.id}/digest{path}")
        dashboard.assert_accessible()
        dashboard.switch_to_dark_theme()
        dashboard.assert_accessible("color-contrast")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.wait_for_load_state("networkidle")
    assert all(url.startswith(dashboard_url) for url in dashboard.requested_urls)


@pytest.fixture
def mail_page(chromium: Browser) -> Iterator[Dashboard]:
    """A narrow page without network, such as the window of a mail client."""
    context = chromium.new_context(viewport={"width": 400, "height": 800}, offline=True)
    yield Dashboard("", context.new_page())
    context.close()


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_mail_is_readable_in_mail_clients(
    content: DigestContent, mail_page: Dashboard, color_scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(get_settings(), "public_url", "https://accession.library.example")
    page = mail_page.page
    page.emulate_media(color_scheme="light" if color_scheme == "light" else "dark")
    page.set_content(render_issue(content).html)
    mail_page.assert_accessible("color-contrast", "image-alt", "link-name")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    expect(page.get_by_role("link", name="and 2 more")).to_be_visible()
    # Covers are the only resources: nothing tells who has opened the mail.
    sources = page.locator("img").evaluate_all("images => images.map(image => image.src)")
    assert set(sources) == {"https://images.example/1"}
    assert page.locator("script, link, iframe").count() == 0
