"""Pages and API of reports: tables, links behind numbers, charts, CSV, and invalid parameters."""

import csv
import io
from collections.abc import Iterator
from datetime import date
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from lxml import html
from sqlalchemy.orm import Session

from accession.auth.roles import UserRole
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.rejected_records import RejectedRecordData, store_rejected_records
from accession.db.models import Collection
from accession.reports.registry import REPORTS
from tests.fixtures.factories import NOON, make_collection, subject
from tests.fixtures.statistics import refresh_statistics, store_title_in_use
from tests.fixtures.web_client import Browser, bearer, make_token

API = "/api/v1/reports"
LOAN = ("CHECKOUT", NOON)


@pytest.fixture(autouse=True)
def _first_of_may() -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def used(session: Session, collection: Collection) -> Collection:
    """Store titles of which every report has a row."""
    store_title_in_use(
        session,
        collection,
        "lent",
        title='=HYPERLINK("x")',
        subjects=(subject("ART & CRAFT"),),
        purchased_on=date(2020, 1, 1),
        events=[LOAN, ("REMOVED", NOON)],
        licenses_owned=2,
        patrons_in_hold_queue=9,
        links=(),
    )
    store_title_in_use(session, collection, "unused", purchased_on=date(2021, 1, 1))
    birch = make_collection(session, "Birch Library")
    store_title_in_use(session, birch, "unused")
    record = RejectedRecordData("Its ItemId is invalid: '<b>'.", "<record/>", "hash")
    store_rejected_records(session, collection, PurchaseDate(NOON.date()), [record])
    refresh_statistics(session)
    return collection


def page_of(browser: Browser, path: str) -> html.HtmlElement:
    response = browser.get(path)
    assert response.status_code == 200, response.text
    return html.fromstring(response.text)


def cells(page: html.HtmlElement) -> list[list[str]]:
    """Return the texts of the body of the page's last table, row by row."""
    rows = page.xpath("(//table)[last()]/tbody/tr")
    return [[cell.text_content().strip() for cell in row.xpath("th | td")] for row in rows]


def link_in_cell(page: html.HtmlElement, row: int, heading: str) -> str:
    """Return the address of the link in a cell of the page's last table."""
    (table,) = page.xpath("(//table)[last()]")
    headings = [cell.text_content().strip(" ↓↑") for cell in table.xpath("thead//th")]
    return str(table.xpath(f"tbody/tr[{row + 1}]/*[{headings.index(heading) + 1}]//a/@href")[0])


def test_list_leads_to_every_report(browser: Browser, used: Collection) -> None:
    links = page_of(browser, "/reports").xpath("//main//a/@href")
    assert links == [f"/reports/{name}" for name in REPORTS]
    for link in links:
        assert cells(page_of(browser, link)), link


def test_row_leads_to_its_title(browser: Browser, used: Collection) -> None:
    page = page_of(browser, "/reports/holds-ratio?threshold=4")
    (row,) = cells(page)
    assert row[0] == '=HYPERLINK("x")'
    assert row[5:9] == ["9", "1", "9.00", "2"]
    title = page_of(browser, link_in_cell(page, 0, "Title"))
    assert "lent" in title.text_content()


def test_number_leads_to_the_titles_behind_it(browser: Browser, used: Collection) -> None:
    page = page_of(browser, "/reports/turnover?by=subject&sort=value")
    assert [row[:2] for row in cells(page)] == [["ART & CRAFT", "1"], ["FICTION / Science Fiction", "2"]]
    titles = page_of(browser, link_in_cell(page, 0, "Titles"))
    assert titles.xpath("string(//p[@role='status'])") == "1 title"
    assert "Subject: ART & CRAFT" in titles.text_content()


@pytest.mark.parametrize(
    ("by", "condition"),
    [
        ("format", "Without format"),
        ("language", "Without language"),
        ("subject", "Without subject"),
        ("year", "Without purchase"),
    ],
)
def test_number_leads_to_titles_without_a_value(
    browser: Browser, session: Session, used: Collection, by: str, condition: str
) -> None:
    for name in ("first", "second"):
        store_title_in_use(session, used, name, format=None, language=None, subjects=())
    refresh_statistics(session)
    page = page_of(browser, f"/reports/turnover?by={by}&sort=value&collection=1")
    number = next(n for n, row in enumerate(cells(page)) if row[:2] == ["(none)", "2"])
    titles = page_of(browser, link_in_cell(page, number, "Titles"))
    assert titles.xpath("string(//p[@role='status'])") == "2 titles"
    assert condition in titles.xpath("//*[@aria-label='Filters in use']//span/text()")
    # The condition stays when the form is sent.
    assert titles.xpath("//form//input[@type='hidden']/@name") == ["collection", "lacks"]


def test_filter_of_report_can_be_removed_from_the_list(browser: Browser, used: Collection) -> None:
    page = page_of(browser, "/titles?collection=1&lacks=cover&subject=ART %26 CRAFT")
    (remove,) = page.xpath("//a[@aria-label='Remove the filter: Without cover']/@href")
    assert parse_qs(urlsplit(remove).query) == {"collection": ["1"], "subject": ["ART & CRAFT"]}
    # The other conditions stay when the form is sent.
    assert page.xpath("//form//input[@type='hidden']/@name") == ["collection", "subject", "lacks"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("lacks=cover", {"lent"}),
        ("lacks=format", {"bare"}),
        ("lacks=language", {"bare"}),
        ("lacks=subject", {"bare"}),
        ("lacks=purchase", {"bare"}),
        ("unused_since=2024-05-01", {"unused"}),
        ("first_purchased_from=2021-01-01", {"unused"}),
        ("first_purchased_until=2020-12-31", {"lent"}),
        ("also_in=2", {"unused"}),
        ("subject=ART %26 CRAFT", {"lent"}),
    ],
)
def test_api_filters_titles_as_reports_do(
    browser: Browser, session: Session, used: Collection, query: str, expected: set[str]
) -> None:
    store_title_in_use(session, used, "bare", format=None, language=None, subjects=())
    refresh_statistics(session)
    titles = browser.get(f"/api/v1/titles?collection=1&{query}").json()["items"]
    assert {title["identifier"] for title in titles} == expected


def test_number_of_rejected_records_leads_to_them(
    browser: Browser, session: Session, used: Collection
) -> None:
    record = RejectedRecordData("It has no 001.", "<record/>", "other")
    store_rejected_records(session, used, PurchaseDate(NOON.date()), [record])
    session.commit()
    page = page_of(browser, "/reports/rejected?sort=-reason&collection=1")
    assert [row[:2] for row in cells(page)] == [["Its ItemId is invalid: ….", "1"], ["It has no 001.", "1"]]
    records = page_of(browser, link_in_cell(page, 0, "Records"))
    assert [row[1] for row in cells(records)] == ["Its ItemId is invalid: '<b>'."]
    query = "reason=It has no 001.&received_from=2024-05-01"
    items = browser.get(f"/api/v1/rejected-records?{query}").json()["items"]
    assert [item["reason"] for item in items] == ["It has no 001."]


def test_column_heading_sorts_and_reverses_the_table(browser: Browser, used: Collection) -> None:
    page = page_of(browser, "/reports/turnover?by=subject")
    assert page.xpath("//th[@aria-sort='descending']//text()")[0].startswith("Loans")
    (by_titles,) = page.xpath("//th[contains(., 'Titles')]/a/@href")
    page = page_of(browser, by_titles)
    assert [row[1] for row in cells(page)] == ["2", "1"]
    (reverse,) = page.xpath("//th[contains(., 'Titles')]/a/@href")
    assert [row[1] for row in cells(page_of(browser, reverse))] == ["1", "2"]


def test_long_report_has_pages(browser: Browser, session: Session, collection: Collection) -> None:
    headings = tuple(subject(f"Heading {number:02}") for number in range(60))
    store_title_in_use(session, collection, "a", subjects=headings)
    refresh_statistics(session)
    page = page_of(browser, "/reports/turnover?by=subject&sort=value")
    assert len(cells(page)) == 50
    (following,) = page.xpath("//nav[@aria-label='Pages']//a/@href")
    page = page_of(browser, following)
    assert [row[0] for row in cells(page)] == [f"Heading {number}" for number in range(50, 60)]
    assert "51–60 of 60" in page.xpath("string(//p[@role='status'])")
    (back,) = page.xpath("//nav[@aria-label='Pages']//a/@href")
    assert cells(page_of(browser, back))[0][0] == "Heading 00"


def test_charts_have_titles(browser: Browser, used: Collection) -> None:
    labels = page_of(browser, "/reports/growth").xpath("//*[@role='img']/@aria-label")
    assert labels == ["Titles added per month", "Titles at the end of each month", "Loans per month"]


def test_chart_shows_fractions(browser: Browser, used: Collection) -> None:
    page = page_of(browser, "/reports/turnover?by=format&collection=1")
    assert page.xpath("//*[name()='svg']//*[name()='title']/text()") == ["EPUB e-book: 0.33 loans per copy"]


def test_codes_are_shown_as_words(browser: Browser, used: Collection) -> None:
    page = page_of(browser, "/reports/turnover?by=language")
    assert [row[0] for row in cells(page)] == ["Polish"]
    assert page.xpath("//select[@id='by']/option[@selected]/text()") == ["Language"]
    page = page_of(browser, "/reports/holds-ratio")
    assert [row[3] for row in cells(page)] == ["EPUB e-book"]


def test_charts_have_units(browser: Browser, used: Collection) -> None:
    page = page_of(browser, "/reports/growth")
    assert page.xpath("//section//h2/following-sibling::div[1]/text()") == ["Titles", "Titles", "Loans"]
    assert "2024-05: 1 loan" in page.xpath("//*[name()='svg']//*[name()='title']/text()")


def test_report_without_statistics_says_when_they_come(browser: Browser, collection: Collection) -> None:
    page = page_of(browser, "/reports/growth")
    assert page.xpath("//main//h2/text()") == ["No statistics yet"]


def test_report_without_rows_says_so(browser: Browser, collection: Collection) -> None:
    page = page_of(browser, "/reports/holds-ratio")
    assert page.xpath("//main//h2/text()") == ["Nothing to report"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("turnover?by=size", 422, '"size" is no by: choose one of format'),
        ("unused?months=0", 422, '"0" is no months: enter a whole number from 1 to 240.'),
        ("unused?sort=title", 422, 'cannot be sorted by "title"'),
        ("nothing", 404, 'There is no report "nothing"'),
        ("unused?collection=99", 404, "There is no collection with the id 99."),
    ],
)
def test_invalid_address_is_reported(
    browser: Browser, database: None, path: str, status: int, message: str
) -> None:
    page, api = browser.get(f"/reports/{path}"), browser.get(f"{API}/{path}")
    assert (page.status_code, api.status_code) == (status, status)
    assert message in html.fromstring(page.text).text_content()
    assert message in api.json()["detail"]


def test_csv_has_all_rows_and_no_formulas(browser: Browser, used: Collection) -> None:
    page = page_of(browser, "/reports/most-borrowed?collection=1")
    (form,) = page.xpath("//form[.//button[text()='Download CSV']]")
    response = browser.get(form.action, params=form.form_values())
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="most-borrowed-2024-05-01.csv"'
    (row,) = csv.DictReader(io.StringIO(response.text))
    assert list(row) == [column.name for column in REPORTS["most-borrowed"].columns]
    assert row["title"] == '\'=HYPERLINK("x")'
    assert row["format"] == "epub"
    assert (row["loans_last_year"], row["loans_per_copy"]) == ("1", "1.0")


def test_csv_has_the_chosen_delimiter_and_a_bom(browser: Browser, used: Collection) -> None:
    query = "format=csv&collection=1&delimiter=semicolon&bom=true"
    response = browser.get(f"{API}/turnover?{query}")
    assert response.content.decode("utf-8") == (
        "\ufeffvalue;titles;copies;holds;loans_last_year;turnover\r\nepub;2;3;9;1;0.3333333333333333\r\n"
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("delimiter=tab", "Only format=csv has the parameters delimiter and bom"),
        ("format=json&bom=true", "Only format=csv has the parameters delimiter and bom"),
        ("format=csv&delimiter=blank", "delimiter"),
        ("format=csv&bom=1", "bom"),
    ],
)
def test_api_refuses_invalid_options_of_csv(
    browser: Browser, database: None, query: str, message: str
) -> None:
    response = browser.get(f"{API}/turnover?{query}")
    assert response.status_code == 422
    assert message in response.text


def test_api_returns_rows_page_by_page(browser: Browser, used: Collection) -> None:
    first = browser.get(f"{API}/turnover?by=year&sort=value&limit=1").json()
    assert (first["report"], first["total"], first["next"]) == ("turnover", 3, "1")
    assert first["parameters"] == {"by": "year"}
    assert first["as_of"] == "2024-05-01T12:00:00Z"
    second = browser.get(f"{API}/turnover?by=year&sort=value&limit=1&cursor={first['next']}").json()
    assert [first["items"][0]["value"], second["items"][0]["value"]] == ["(none)", "2020"]


def test_api_lists_reports_with_parameters(browser: Browser, database: None) -> None:
    reports = browser.get(API).json()
    assert [report["name"] for report in reports] == list(REPORTS)
    (threshold,) = reports[0]["parameters"]
    assert (threshold["name"], threshold["default"], threshold["minimum"]) == ("threshold", 4.0, 0.5)


def test_viewer_may_read_reports(browser: Browser, session: Session, used: Collection) -> None:
    browser.headers = bearer(make_token(session, role=UserRole.VIEWER))
    assert browser.get(f"{API}/holds-ratio").status_code == 200
    browser.headers = {}
    # With a token in use, nobody may read without one.
    assert browser.get(f"{API}/holds-ratio", headers=bearer("wrong")).status_code == 401
