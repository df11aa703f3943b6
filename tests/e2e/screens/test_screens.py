"""What a person sees and does on the pages, with what a library holds already."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.auth.users import Role, add_user
from accession.catalog.purchase_records import PurchaseDate
from accession.catalog.rejected_records import Rejection, keep_rejected
from accession.db.models import RejectedRecord
from tests.fixtures.dashboard import Dashboard, Stock
from tests.fixtures.factories import NOON, PASSWORD
from tests.fixtures.vendor import Vendor, item, raw

PAGES = [
    "/",
    "/collections/1",
    "/collections/new",
    "/collections/1/reimport",
    "/runs",
    "/runs/1",
    "/titles",
    "/titles/abc/collections/1",
    "/exports",
    "/rejected-records",
    "/rejected-records/1",
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(
    scheme: str, stock: Stock, visit: Callable[..., Dashboard], served: str
) -> None:
    dashboard = visit(served, color_scheme=scheme)
    for path in PAGES:
        dashboard.open(path)
        dashboard.is_accessible()


def test_on_a_phone_nothing_is_wider_than_the_screen(
    stock: Stock, visit: Callable[..., Dashboard], served: str
) -> None:
    dashboard = visit(served, viewport={"width": 390, "height": 844})
    for path in PAGES:
        page = dashboard.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    page = dashboard.open("/")
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Runs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")


def test_a_rejected_record_is_shown_as_it_came_retried_and_resolved(
    session: Session, stock: Stock, visit: Callable[..., Dashboard], served: str
) -> None:
    dashboard = visit(served)
    page = dashboard.open("/")
    page.get_by_role("link", name="1 rejected records of").click()
    page.get_by_role("link", name="1", exact=True).click()
    expect(page.get_by_role("region", name="Raw record")).to_contain_text("<script>alert(1)</script>")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_have_text("The record cannot be used yet: see its reason.")
    page.get_by_label("Note").fill("The vendor has taken it back.")
    page.get_by_role("button", name="Resolve").click()
    expect(page.get_by_text("The vendor has taken it back.")).to_be_visible()
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    session.expire_all()
    assert session.get_one(RejectedRecord, 1).resolved_at is not None


def test_a_rejected_record_that_can_pass_now_is_retried_and_resolved(
    session: Session, stock: Stock, visit: Callable[..., Dashboard], served: str, vendor: Vendor
) -> None:
    vendor.items["new"] = item("new", title="A title that can be used now")
    session.get_one(RejectedRecord, 1).raw_xml = raw("new")
    session.commit()
    page = visit(served).open("/rejected-records/1")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_have_text("The record has passed and is resolved.")
    page.get_by_role("link", name="Rejected records", exact=True).click()
    expect(page.get_by_role("heading", name="No rejected records")).to_be_visible()
    page.get_by_role("link", name="Catalogue").click()
    expect(page.get_by_role("status")).to_have_text("2 titles")


def test_times_are_in_the_viewers_zone_with_utc_on_hover(
    stock: Stock, visit: Callable[..., Dashboard], served: str
) -> None:
    page = visit(served).open("/runs/1")
    started = page.locator("time").first
    expect(started).to_have_text("1 May 2024, 14:00")
    expect(started).to_have_attribute("title", "2024-05-01 12:00 UTC")


def test_the_theme_that_was_chosen_stays(stock: Stock, visit: Callable[..., Dashboard], served: str) -> None:
    page = visit(served, color_scheme="light").open("/")
    page.get_by_role("button", name="Dark mode").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")


def test_a_page_can_be_used_with_the_keyboard_alone(
    stock: Stock, visit: Callable[..., Dashboard], served: str
) -> None:
    page = visit(served).open("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Add a collection")).to_be_focused()


def test_what_changes_is_shown_without_moving_what_the_eye_is_on(
    session: Session, stock: Stock, visit: Callable[..., Dashboard], served: str
) -> None:
    page = visit(served).open("/")
    page.get_by_role("link", name="Alder Library", exact=True).focus()
    keep_rejected(
        session, stock.collection, PurchaseDate(NOON.date()), [Rejection("Again.", "<record/>", "other")]
    )
    session.commit()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_role("link", name="2 rejected records")).to_be_visible()
    expect(page.get_by_role("link", name="Alder Library", exact=True)).to_be_focused()


def test_without_a_script_all_can_be_read_and_done(
    session: Session, stock: Stock, visit: Callable[..., Dashboard], served: str
) -> None:
    dashboard = visit(served, java_script_enabled=False, viewport={"width": 390, "height": 844})
    page = dashboard.open("/")
    page.get_by_role("link", name="Rejected records", exact=True).click()
    page.get_by_role("link", name="1", exact=True).click()
    page.get_by_label("Note").fill("Taken back.")
    page.get_by_role("button", name="Resolve").click()
    expect(page.get_by_role("status")).to_have_text("The record is resolved.")
    expect(page.locator("time").first).to_contain_text("UTC")


def test_a_stranger_logs_in_and_a_viewer_is_offered_no_deeds(
    session: Session, stock: Stock, visit: Callable[..., Dashboard], served: str
) -> None:
    add_user(session, "vic", SecretStr(PASSWORD), Role.VIEWER)
    session.commit()
    dashboard = visit(served)
    page = dashboard.open("/collections/1")
    dashboard.is_accessible()
    page.get_by_label("Name").fill("vic")
    page.get_by_label("Password").fill("not the password")
    dashboard.expected = "401"
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("Name or password is wrong.")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Alder Library")
    expect(page.get_by_role("button", name="Run purchases now")).to_have_count(0)
    expect(page.get_by_role("link", name="Edit")).to_have_count(0)
    dashboard.expected = "403"
    dashboard.open("/collections/new")
    expect(page.get_by_role("alert")).to_contain_text('"vic" may see everything and change nothing')
    page.get_by_role("button", name="Log out vic").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Accession")
