"""Administration in a browser: the first administrator, users, tokens, audit log, and rejected records."""

import re

from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, ActorKind, AuditAction, record
from accession.auth.roles import FeedKind, UserRole
from accession.auth.tokens import add_feed_token
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.db.models import Collection
from tests.fixtures.dashboard import OpenDashboard
from tests.fixtures.factories import NOON, PASSWORD, make_collection
from tests.fixtures.vendor import raw_record
from tests.fixtures.web_client import make_user

NO_ID = "It has no title identifier (001)."


def log_in(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()


def open_from_menu(page: Page, name: str) -> None:
    page.get_by_role("button", name="Administration").click()
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_first_administrator_adds_users_and_tokens(
    database: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    open_from_menu(page, "Users")
    page.get_by_role("link", name="Add an administrator").click()
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("Administrator").check()
    page.get_by_role("button", name="Add").click()
    log_in(page, "ada")

    page.get_by_role("link", name="Add a user").click()
    page.get_by_label("Name").fill("vic")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Add").click()
    page.get_by_role("link", name="vic").click()
    page.get_by_label("Operator").check()
    page.get_by_role("button", name="Change role").click()
    expect(page.get_by_role("row", name="vic")).to_contain_text("operator")

    open_from_menu(page, "Tokens")
    page.get_by_role("link", name="Create a token").first.click()
    page.get_by_label("Name").fill("script")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_label("Token")).to_have_value(re.compile("acc_"))
    page.get_by_role("link", name="Done").click()
    page.get_by_role("link", name="Revoke script").click()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("heading", name="No tokens")).to_be_visible()

    open_from_menu(page, "Audit log")
    page.get_by_label("Action").select_option("user")
    page.get_by_label("Actor").fill("ada")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("row")).to_have_count(4)
    expect(page.get_by_role("row").nth(1)).to_contain_text("role: viewer → operator")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    assert download.value.suggested_filename.endswith(".csv")


def test_pages_with_entries_are_accessible(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    make_user(session, "ada", UserRole.ADMINISTRATOR)
    actor = Actor(ActorKind.USER, "ada", "192.0.2.1")
    record(session, actor, AuditAction.USER_ADD, "ben", {"role": "viewer"})
    rejected = RejectedRecordData(NO_ID, raw_record("abc", "abd"), "other")
    store_rejected_records(session, stored_collection, PurchaseDate(NOON.date()), [rejected])
    session.commit()
    dashboard = open_dashboard(dashboard_url, viewport={"width": 390, "height": 844})
    log_in(dashboard.open("/audit"), "ada")

    for path in ("/audit", "/users", "/users/1", "/users/1/remove", "/rejected-records/2"):
        page = dashboard.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        dashboard.assert_accessible_in_both_themes()
    expect(page.get_by_role("region", name="Fields of both records")).to_contain_text("001 abd")


def test_long_names_do_not_widen_pages(
    session: Session, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    library = make_collection(session, "Bibliothek" * 20)
    add_feed_token(session, "reading app of the children's department", list(FeedKind), library.name)
    make_user(session, "administrator" * 5, UserRole.ADMINISTRATOR)
    session.commit()
    dashboard = open_dashboard(dashboard_url)
    log_in(dashboard.open("/tokens"), "administrator" * 5)

    for width in (390, 800):
        dashboard.page.set_viewport_size({"width": width, "height": 844})
        for path in ("/tokens", "/users", "/users/1", "/audit"):
            page = dashboard.open(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
    expect(dashboard.open("/tokens").get_by_role("table")).to_contain_text("Downloads of exports, OAI-PMH")


def test_menu_works_without_scripts(
    database: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url, java_script_enabled=False).open("/")
    page.get_by_role("link", name="Audit log").click()
    expect(page.get_by_role("heading", name="No entries yet")).to_be_visible()


def test_records_with_a_reason_are_resolved_together(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    rejected = RejectedRecordData(NO_ID, "<record/>", "other")
    store_rejected_records(session, stored_collection, PurchaseDate(NOON.date()), [rejected])
    session.commit()
    page = open_dashboard(dashboard_url).open("/rejected-records")
    page.get_by_role("link", name=NO_ID, exact=True).click()
    page.get_by_label("Note").fill("The vendor withdrew the records.")
    page.get_by_role("button", name="Resolve all 2").click()
    expect(page.get_by_role("status")).to_have_text("2 records resolved.")
    expect(page.get_by_role("heading", name="No rejected records")).to_be_visible()
