"""Reports in a browser: parameters, sorting, and the lists behind the numbers."""

from datetime import date

import pytest
from playwright.sync_api import expect
from sqlalchemy.orm import Session

from accession.db.models import Collection
from tests.fixtures.dashboard import OpenDashboard
from tests.fixtures.factories import NOON, subject
from tests.fixtures.statistics import refresh_statistics, store_title_in_use


@pytest.fixture
def used_collection(session: Session, collection: Collection) -> Collection:
    """Store two titles with subjects; one has many holds, and one was borrowed."""
    store_title_in_use(
        session,
        collection,
        "popular",
        title="Wanted by many",
        purchased_on=date(2020, 1, 1),
        subjects=(subject("ART"),),
        licenses_owned=1,
        patrons_in_hold_queue=12,
    )
    store_title_in_use(
        session,
        collection,
        "borrowed",
        title="Borrowed once",
        purchased_on=date(2021, 1, 1),
        subjects=(subject("HISTORY"),),
        events=[("CHECKOUT", NOON)],
    )
    refresh_statistics(session)
    return collection


def test_number_of_report_is_followed_to_the_titles(
    used_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/")
    page.get_by_role("link", name="Reports").click()
    page.get_by_role("link", name="Turnover").click()
    page.get_by_label("By", exact=True).select_option("subject")
    page.get_by_role("button", name="Show").click()
    row = page.get_by_role("row", name="HISTORY")
    row.get_by_role("link").click()
    expect(page.get_by_text("Subject: HISTORY")).to_be_visible()
    expect(page.get_by_text("Borrowed once")).to_be_visible()
    expect(page.get_by_text("Wanted by many")).to_have_count(0)
    page.get_by_role("link", name="Remove the filter: Subject: HISTORY").click()
    expect(page.get_by_text("Wanted by many")).to_be_visible()


def test_threshold_selects_titles_of_which_to_buy_more(
    used_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/reports/holds-ratio")
    expect(page.get_by_role("row", name="Wanted by many")).to_contain_text("12.00")
    page.get_by_label("More holds per copy than").fill("12")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name="Nothing to report")).to_be_visible()


def test_table_is_sorted_by_its_headings(
    used_collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/reports/turnover?by=subject")
    expect(page.get_by_role("rowheader")).to_have_text(["HISTORY", "ART"])
    page.get_by_role("columnheader", name="Group").get_by_role("link").click()
    expect(page.get_by_role("rowheader")).to_have_text(["ART", "HISTORY"])
    page.get_by_role("columnheader", name="Group").get_by_role("link").click()
    expect(page.get_by_role("rowheader")).to_have_text(["HISTORY", "ART"])
