"""Pages of the dashboard in a browser: accessibility, small screens, keyboard, scripts, and actions."""

from playwright.sync_api import Locator, expect
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.auth.roles import UserRole
from accession.auth.users import add_user
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.core.workflow import Workflow
from accession.db.models import Collection, RejectedRecord
from accession.runs.ledger import open_run
from tests.fixtures.dashboard import OpenDashboard
from tests.fixtures.factories import NOON, PASSWORD, make_collection
from tests.fixtures.vendor import ScriptedVendor, item, raw_record

PATHS = [
    "/",
    "/collections/1",
    "/collections/new",
    "/collections/1/limits",
    "/collections/1/reimport",
    "/collections/1/backfill?first_day=2023-01-01&last_day=2023-01-31",
    "/?filter=never-imported&sort=-titles",
    "/collections/1/schedules/purchases",
    "/collections/1/verification",
    "/collections/1/verify",
    "/runs",
    "/runs/1",
    "/runs/days?days=365",
    "/storage",
    "/titles",
    "/titles?subject=FICTION",
    "/reports",
    "/reports/growth",
    "/reports/turnover?by=subject",
    "/titles/abc/collections/1",
    "/exports",
    "/exports?collection=1",
    "/rejected-records",
    "/rejected-records/1",
    "/rejected-records?reason=It+has+no+title+identifier+%28001%29.",
    "/users",
    "/users/new",
    "/tokens",
    "/tokens/new",
    "/audit",
    "/settings",
    "/about",
]


def test_every_page_is_accessible_in_both_themes(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    """In the second theme only colours can differ."""
    dashboard = open_dashboard(dashboard_url, color_scheme="light")
    for path in PATHS:
        dashboard.open(path)
        dashboard.assert_accessible_in_both_themes()


def test_empty_installation_shows_welcome(
    database: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    page = dashboard.open("/")
    expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
    dashboard.assert_accessible()


def test_every_page_fits_a_phone_screen(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, viewport={"width": 390, "height": 844})
    for path in PATHS:
        page = dashboard.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
    page = dashboard.open("/")
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Runs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runs")


def test_lists_fit_a_phone_screen_without_scrolling(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url, viewport={"width": 390, "height": 844})
    for path in (
        "/",
        "/collections/1",
        "/runs",
        "/runs/1",
        "/titles?view=table",
        "/titles/abc/collections/1",
        "/rejected-records",
    ):
        page = dashboard.open(path)
        widths = "lists => lists.map(list => [list.scrollWidth, list.clientWidth])"
        for content, visible in page.locator(".table-responsive").evaluate_all(widths):
            assert content <= visible, path


def test_long_name_of_a_collection_is_cut_in_headings_and_lists(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    other = make_collection(session, "X" * 300)
    open_run(session, other.id, Workflow.EVENTS, "other", {})
    session.commit()
    dashboard = open_dashboard(dashboard_url, viewport={"width": 390, "height": 844})
    for path in ("/", "/runs", f"/collections/{other.id}", "/runs/2"):
        page = dashboard.open(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        names = page.locator("h1, .clamp").filter(has_text="X" * 300)
        assert [box["height"] < 200 for box in map(Locator.bounding_box, names.all()) if box] == [True], path


def test_rejected_record_is_shown_retried_and_resolved(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.get_by_role("link", name="1 rejected record of").click()
    page.get_by_role("link", name="1", exact=True).click()
    page.get_by_text("Raw record, as the vendor sent it").click()
    expect(page.get_by_role("region", name="Raw XML")).to_contain_text("<script>alert(1)</script>")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_have_text("Record rejected again: see the updated reason.")
    page.get_by_label("Note").fill("The vendor withdrew the record.")
    page.get_by_role("button", name="Resolve").click()
    expect(page.get_by_text("The vendor withdrew the record.")).to_be_visible()
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    session.expire_all()
    assert session.get_one(RejectedRecord, 1).resolved_at is not None


def test_corrected_rejected_record_is_imported_on_retry(
    session: Session,
    stored_collection: Collection,
    open_dashboard: OpenDashboard,
    dashboard_url: str,
    vendor: ScriptedVendor,
) -> None:
    vendor.items["new"] = item("new", title="A title that is valid now")
    session.get_one(RejectedRecord, 1).raw_xml = raw_record("new")
    session.commit()
    page = open_dashboard(dashboard_url).open("/rejected-records/1")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status")).to_have_text("Record imported and resolved.")
    page.get_by_role("link", name="Rejected records", exact=True).first.click()
    expect(page.get_by_role("heading", name="No rejected records")).to_be_visible()
    page.get_by_role("link", name="Catalogue").click()
    expect(page.get_by_role("status")).to_have_text("2 titles")


def test_selected_collections_are_paused_and_resumed(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    make_collection(session, "Birch Library")
    page = open_dashboard(dashboard_url).open("/")
    page.get_by_label("Select all collections").check()
    expect(page.get_by_label("Select Birch Library")).to_be_checked()
    page.get_by_label("Select Birch Library").uncheck()
    page.get_by_label("Workflow").select_option("purchases")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Pause {stored_collection.name}")
    page.get_by_label("Reason").fill("vendor maintenance")
    page.get_by_label("Until").fill("2999-01-01T06:00")
    page.get_by_label("Cancel active runs").check()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".alert-info")).to_have_text("1 workflow paused.")
    expect(page.get_by_text("paused until 1 Jan 2999, 07:00: vendor maintenance")).to_be_visible()
    page.get_by_label(f"Select {stored_collection.name}").check()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".alert-info")).to_have_text("1 workflow resumed.")


def test_bulk_actions_work_without_scripts(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url, java_script_enabled=False).open("/")
    expect(page.get_by_label("Select all collections")).to_be_hidden()
    page.get_by_label(f"Select {stored_collection.name}").check()
    page.get_by_label("Workflow").select_option("events")
    page.get_by_role("button", name="Run now").click()
    expect(page.locator(".alert-info")).to_have_text("1 run queued.")
    page.get_by_role("button", name="Cancel runs").click()
    expect(page.locator(".alert-info")).to_have_text("Select at least one collection.")


def test_times_are_local_with_utc_on_hover(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/runs/1")
    started_at = page.locator("time").first
    expect(started_at).to_have_text("1 May 2024, 14:00")
    expect(started_at).to_have_attribute("title", "2024-05-01 12:00 UTC")


def test_selected_theme_replaces_the_system_theme(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url, color_scheme="dark").open("/")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    page.get_by_role("button", name="Light mode").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "light")


def test_page_can_be_used_with_the_keyboard(
    stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Add a collection")).to_be_focused()


def test_live_update_keeps_the_keyboard_focus(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.get_by_role("link", name="Alder Library", exact=True).focus()
    record = RejectedRecordData("Again.", "<record/>", "other")
    store_rejected_records(session, stored_collection, PurchaseDate(NOON.date()), [record])
    session.commit()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_role("link", name="2 rejected records")).to_be_visible()
    expect(page.get_by_role("link", name="Alder Library", exact=True)).to_be_focused()


def test_dashboard_works_without_scripts(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(
        dashboard_url, java_script_enabled=False, viewport={"width": 390, "height": 844}
    )
    page = dashboard.open("/")
    page.get_by_role("link", name="Rejected records", exact=True).click()
    page.get_by_role("link", name="1", exact=True).click()
    page.get_by_label("Note").fill("Withdrawn.")
    page.get_by_role("button", name="Resolve").click()
    expect(page.get_by_role("status")).to_have_text("Record resolved.")
    expect(page.locator("time").first).to_contain_text("UTC")


def test_viewer_logs_in_and_sees_no_actions(
    session: Session, stored_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    add_user(session, "vic", SecretStr(PASSWORD), UserRole.VIEWER)
    session.commit()
    dashboard = open_dashboard(dashboard_url)
    page = dashboard.open("/collections/1")
    dashboard.assert_accessible()
    page.get_by_label("Name").fill("vic")
    page.get_by_label("Password").fill("not the password")
    dashboard.expected_status = "401"
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("Wrong name or password.")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Alder Library")
    expect(page.get_by_role("button", name="Run all now")).to_have_count(0)
    expect(page.get_by_role("button", name="Run purchases now")).to_have_count(0)
    expect(page.get_by_role("link", name="Edit")).to_have_count(0)
    dashboard.expected_status = "403"
    dashboard.open("/collections/new")
    expect(page.get_by_role("alert")).to_contain_text('"vic" is a viewer and cannot change anything')
    page.get_by_role("button", name="Log out vic").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Accession")
