"""Pages of the catalogue in a browser: search, filters, order, view, and one title."""

from datetime import date

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.core.vocabulary import EventType, Format
from accession.db.models import Collection
from tests.fixtures.dashboard import OpenDashboard
from tests.fixtures.factories import NOON, make_collection, make_pool, store_title
from tests.fixtures.marc import purchase_record
from tests.fixtures.statistics import refresh_statistics, store_title_in_use

WIDTHS = (400, 1440, 1920)
LONG = "Extraordinarily long title " * 111
# Number of lines of each tag and each pair of indicators of a MARC record.
LINES = """() => [...document.querySelectorAll(".marc th, .marc .indicators")].map(cell => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  return new Set([...range.getClientRects()].map(rect => rect.top)).size;
})"""


@pytest.fixture
def titles(session: Session, collection: Collection) -> Collection:
    """Store titles that differ in format, language, purchase date and holds."""
    birch = make_collection(session, "Birch Library")
    for name, year, values in (
        ("dune", 2014, {"title": "Dune", "language": "eng", "patrons_in_hold_queue": 3}),
        ("emma", 2020, {"title": "Emma", "language": "eng", "format": Format.PDF}),
        ("solaris", 2016, {"title": "Solaris", "format": Format.MP3, "duration_ms": 27_000_000}),
    ):
        store_title_in_use(session, collection, name, purchased_on=date(year, 5, 1), **values)
    store_title(session, birch, "dune", title="Dune", language="eng")
    refresh_statistics(session)
    return collection


def expect_titles(page: Page, titles: list[str]) -> None:
    """Expect these titles in the list on the page."""
    expect(page.locator(".covers .cover-title, tbody th")).to_have_text(titles)


def test_facets_narrow_the_list_and_chips_widen_it(
    titles: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    page = open_dashboard(dashboard_url).open("/titles")
    expect(page.get_by_role("status")).to_have_text("4 titles")
    page.get_by_role("link", name="English 3").click()
    expect(page.get_by_role("status")).to_have_text("3 titles")
    page.get_by_role("link", name="PDF e-book 1").click()
    expect_titles(page, ["Emma"])
    expect(page.get_by_role("region", name="Format").get_by_role("link")).to_have_text(
        ["EPUB e-book 2", "PDF e-book 1"]
    )
    page.get_by_role("link", name="Remove the filter: English").click()
    expect(page).to_have_url(f"{dashboard_url}/titles?format=pdf")
    page.get_by_role("link", name="Clear all").click()
    expect(page).to_have_url(f"{dashboard_url}/titles")


def test_order_and_view_are_kept_in_the_address(
    titles: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    page = dashboard.open("/titles?collection=1")
    expect_titles(page, ["Emma", "Solaris", "Dune"])
    page.get_by_role("navigation", name="View").get_by_role("link", name="Table").click()
    page.get_by_role("columnheader", name="Holds").get_by_role("link").click()
    expect_titles(page, ["Dune", "Solaris", "Emma"])
    expect(page.get_by_role("columnheader", name="Holds")).to_have_attribute("aria-sort", "descending")
    page.get_by_role("columnheader", name="Title").get_by_role("link").click()
    expect_titles(page, ["Dune", "Emma", "Solaris"])
    page.get_by_role("columnheader", name="Title").get_by_role("link").click()
    expect_titles(page, ["Solaris", "Emma", "Dune"])
    page.get_by_label("Title, author, ISBN or id").fill("lem")
    page.get_by_role("button", name="Search").click()
    expect(page).to_have_url(
        f"{dashboard_url}/titles?text=lem&purchased_from=&purchased_until=&collection=1&sort=-title&view=table"
    )
    expect_titles(page, ["Solaris", "Emma", "Dune"])
    dashboard.assert_accessible_in_both_themes()


def test_list_without_matches_names_the_filter_to_remove(
    titles: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    page = dashboard.open("/titles?format=pdf&language=pol")
    expect(page.get_by_role("heading", name="No matching titles")).to_be_visible()
    dashboard.assert_accessible()
    expect(page.get_by_role("link", name="Without “Polish”: 1 title")).to_be_visible()
    page.get_by_role("link", name="Without “PDF e-book”: 1 title").click()
    expect_titles(page, ["Solaris"])


def test_empty_catalogue_tells_where_titles_come_from(
    database: None, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    dashboard = open_dashboard(dashboard_url)
    page = dashboard.open("/titles")
    expect(page.get_by_text("when the purchases of a collection are imported")).to_be_visible()
    expect(page.get_by_role("search")).to_have_count(0)
    dashboard.assert_accessible()


def test_filters_can_be_opened_on_a_phone(
    titles: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    phone = {"width": 400, "height": 844}
    page = open_dashboard(dashboard_url, viewport=phone).open("/titles")
    expect(page.get_by_role("link", name="Audiobook 1")).to_be_hidden()
    page.get_by_role("button", name="Filters").click()
    page.get_by_role("link", name="Audiobook 1").click()
    expect_titles(page, ["Solaris"])
    page = open_dashboard(dashboard_url, viewport=phone, java_script_enabled=False).open("/titles")
    expect(page.get_by_role("link", name="Audiobook 1")).to_be_visible()


def test_lists_lead_from_page_to_page_and_back(
    session: Session, collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    for number in range(101):
        store_title(session, collection, f"{number:03}", title=f"Title {number:03}")
    page = open_dashboard(dashboard_url).open("/titles?sort=title")
    page.get_by_role("link", name="Next page").click()
    expect(page.locator(".cover-title").first).to_have_text("Title 050")
    page.get_by_role("link", name="Next page").click()
    expect_titles(page, ["Title 100"])
    expect(page.get_by_role("status")).to_have_text("101 titles")
    page.get_by_role("link", name="Previous page").click()
    page.get_by_role("link", name="Previous page").click()
    expect(page.locator(".cover-title").first).to_have_text("Title 000")
    expect(page).to_have_url(f"{dashboard_url}/titles?sort=title")


def test_title_page_shows_use_holdings_and_downloads(
    session: Session, titles: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    events = [(EventType.CHECKOUT, NOON), (EventType.CHECKOUT, NOON), (EventType.HOLD, NOON)]
    store_title_in_use(session, titles, "dune", title="Dune", events=events)
    refresh_statistics(session)
    page = open_dashboard(dashboard_url).open("/titles/dune/collections/1")
    expect(
        page.get_by_text("2 loans, 2 of them in the last 12 months; the last on 2024-05-01.")
    ).to_be_visible()
    expect(page.get_by_role("region", name="Holdings", exact=True)).to_contain_text("Birch Library")
    expect(page.get_by_role("link", name="Open at cloudLibrary")).to_have_attribute(
        "href", "https://ebook.yourcloudlibrary.com/library/alder-document_id-dune"
    )
    for name, content in (("MARC 21", "dune"), ("MARCXML", "<controlfield"), ("OPDS entry", '"Dune"')):
        path = page.get_by_role("link", name=name).get_attribute("href")
        assert content in page.request.get(f"{dashboard_url}{path}").text()


@pytest.mark.parametrize("font", ["monospace", "serif", "sans-serif"])
def test_tags_of_marc_records_are_never_broken(
    session: Session, collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str, font: str
) -> None:
    """Also with a wide font, and if the browser enlarges texts."""
    pool = make_pool(session, collection, "abc")
    record = PurchaseRecordData(pool, lambda: purchase_record("abc", "Solaris " * 300), "hash")
    store_purchase_records(session, {PurchaseDate(NOON.date()): [record]})
    session.commit()
    page = open_dashboard(dashboard_url, viewport={"width": 400, "height": 844}).open(
        f"/titles/abc/collections/{collection.id}"
    )
    for size in ("13px", "52px"):
        page.locator(".marc").evaluate(
            "(table, [font, size]) => { table.style.fontFamily = font; table.style.fontSize = size; }",
            [font, size],
        )
        lines = page.evaluate(LINES)
        assert len(lines) > 10
        assert max(lines) == 1


def test_long_titles_fit_every_screen(
    session: Session, collection: Collection, open_dashboard: OpenDashboard, dashboard_url: str
) -> None:
    texts = {"title": LONG, "subtitle": "W" * 3000, "description": "x" * 3000}
    store_title(session, collection, "long", **texts, publisher="y" * 3000)
    for width in WIDTHS:
        dashboard = open_dashboard(dashboard_url, viewport={"width": width, "height": 900})
        for path in (
            "/titles",
            "/titles?view=table",
            f"/titles?text={LONG[:200]}",
            "/titles/long/collections/1",
        ):
            page = dashboard.open(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
        dashboard.assert_accessible_in_both_themes()
