"""Pages and API of titles: order, facets, and one title with its record."""

from datetime import timedelta
from io import BytesIO

import pymarc
import pytest
from lxml import html
from sqlalchemy.orm import Session

from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.catalog.sweeps import record_swept
from accession.core.vocabulary import Format
from accession.db.engine import engine
from accession.db.models import Collection
from tests.fixtures.factories import NOON, make_collection, make_pool, record_statements, store_title
from tests.fixtures.purchases import purchase_title
from tests.fixtures.web_client import Browser

API = "/api/v1"


@pytest.fixture
def titles(session: Session, collection: Collection) -> Collection:
    """Store three titles of two collections."""
    store_title(session, collection, "b", title="The Beta", format=Format.PDF)
    store_title(session, collection, "a", title="Alpha", patrons_in_hold_queue=2)
    store_title(session, make_collection(session, "Birch Library"), "a", title="Alpha", language="eng")
    return collection


def identifiers(browser: Browser, query: str) -> list[str]:
    """Return the ids of all pages of a list of the API."""
    names: list[str] = []
    cursor = ""
    while True:
        page = browser.get(f"{API}/titles?limit=1&{query}{cursor}").json()
        names += [title["identifier"] for title in page["items"]]
        if page["next"] is None:
            return names
        cursor = f"&cursor={page['next']}"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sort=imported", ["b", "a", "a"]),
        ("", ["a", "a", "b"]),
        ("sort=-title", ["b", "a", "a"]),
        ("sort=holds&collection=1", ["b", "a"]),
        ("text=alpha&sort=imported", ["a", "a"]),
        ("audience=general&format=pdf", ["b"]),
        ("audience=children", []),
    ],
)
def test_api_sorts_and_filters_titles(
    browser: Browser, titles: Collection, query: str, expected: list[str]
) -> None:
    assert identifiers(browser, query) == expected


def test_api_returns_facets_with_labels_and_numbers(browser: Browser, titles: Collection) -> None:
    facets = browser.get(f"{API}/title-facets?format=epub").json()
    options = {
        facet["name"]: [(each["label"], each["titles"]) for each in facet["options"]] for facet in facets
    }
    assert options == {
        "format": [("EPUB e-book", 2), ("PDF e-book", 1)],
        "language": [("English", 2)],
        "audience": [("General", 2)],
        "availability": [("Available", 2), ("On loan or on hold", 1)],
        "collection": [("Alder Library", 1), ("Birch Library", 1)],
    }
    assert facets[-1]["options"][0]["value"] == str(titles.id)


@pytest.mark.parametrize(
    ("path", "statements"),
    [
        ("/titles?text=alpha&sort=title&cursor={}", 1),
        # The values of a facet are those without its own filter.
        ("/titles?text=alpha&format=epub&sort=title&cursor={}", 2),
        (f"{API}/titles?text=alpha&sort=title&cursor={{}}", 1),
        (f"{API}/title-facets?text=alpha", 1),
    ],
)
def test_each_filter_of_a_request_is_matched_once(
    browser: Browser, titles: Collection, path: str, statements: int
) -> None:
    cursor = browser.get(f"{API}/titles?text=alpha&sort=title&limit=1").json()["next"]

    with record_statements(engine()) as sent:
        response = browser.get(path.format(cursor))

    assert response.status_code == 200
    assert len([each for each in sent if "to_tsquery" in each]) == statements


@pytest.mark.parametrize(
    "query", ["sort=price", "audience=cats", "view=list", "purchased_from=1", "cursor=x"]
)
def test_invalid_parameter_of_the_catalogue_is_refused(
    browser: Browser, titles: Collection, query: str
) -> None:
    assert browser.get(f"/titles?{query}").status_code in (409, 422)


def test_empty_fields_of_the_form_are_no_conditions(browser: Browser, titles: Collection) -> None:
    response = browser.get("/titles?text=&purchased_from=&purchased_until=&collection=&sort=&view=")
    assert html.fromstring(response.text).xpath("string(//*[@role='status'])") == "3 titles"


def test_record_of_a_title_can_be_downloaded(browser: Browser, session: Session, titles: Collection) -> None:
    store_title(session, titles, "withdrawn", licenses_owned=0, licenses_available=0)
    path = f"{API}/titles/withdrawn/collections/{titles.id}/marc"
    response = browser.get(path)
    assert response.headers["content-disposition"] == "attachment; filename*=UTF-8''withdrawn.mrc"
    (record,) = pymarc.MARCReader(BytesIO(response.content))
    assert record is not None
    assert (record["001"].data, record.leader[5]) == ("withdrawn", "d")
    xml = browser.get(f"{path}?format=marcxml")
    assert xml.headers["content-type"] == "application/marcxml+xml"
    assert b'<controlfield tag="001">withdrawn</controlfield>' in xml.content
    assert browser.get(f"{API}/titles/none/collections/{titles.id}/marc").status_code == 404


def facts(browser: Browser, path: str) -> dict[str, str]:
    """Return the facts that a page lists, by their names."""
    page = html.fromstring(browser.get(path).text)
    return {
        name.text_content(): name.getnext().text_content()
        for name in page.xpath("//dl[@class='facts']/dt")
        if name.getnext() is not None
    }


def test_title_keeps_the_joiners_of_its_script(
    browser: Browser, session: Session, collection: Collection
) -> None:
    """A space in their place would divide the word, and the emoji."""
    title = "می\u200cخواهم 👩\u200d🚀"
    store_title(session, collection, "joined", title=title)
    for path in ("/titles", f"/titles/joined/collections/{collection.id}"):
        assert title in browser.get(path).text, path


def test_title_without_metadata_says_when_it_comes(
    browser: Browser, session: Session, titles: Collection
) -> None:
    make_pool(session, titles, "bare")
    note = "The vendor has not sent its metadata yet."
    assert note in browser.get(f"/titles/bare/collections/{titles.id}").text
    assert note not in browser.get(f"/titles/a/collections/{titles.id}").text


def test_purchase_in_the_history_of_a_title_has_a_day_only(
    browser: Browser, session: Session, titles: Collection
) -> None:
    purchase_title(session, titles, "new", NOON)
    page = html.fromstring(browser.get(f"/titles/new/collections/{titles.id}").text)
    (entry,) = page.xpath("//ul[contains(@class, 'history')]/li[contains(., 'Purchased')]")
    assert entry.text_content().split() == ["2024-05-01", "Purchased"]


def test_title_page_has_facts_of_record_and_import(
    browser: Browser, session: Session, titles: Collection
) -> None:
    pool = make_pool(session, titles, "a")
    fields = [
        pymarc.Field("001", data="a"),
        pymarc.Field("490", subfields=[pymarc.Subfield("a", "Discworld ;"), pymarc.Subfield("v", "8")]),
        pymarc.Field("521", subfields=[pymarc.Subfield("a", "Ages 9-12.")]),
    ]
    record = pymarc.Record(fields=fields, force_utf8=True)
    for days in (0, 1):
        purchase = PurchaseRecordData(pool, record.as_marc, "hash", listed=2 - days)
        store_purchase_records(session, {PurchaseDate(NOON.date() + timedelta(days)): [purchase]})
    swept_at = NOON + timedelta(days=30)
    ids = [pool.identifier_id]
    record_swept(session, titles, after_id=0, last_id=None, identifier_ids=ids, at=swept_at)
    session.commit()

    shown = facts(browser, f"/titles/a/collections/{titles.id}")
    assert shown["Series"] == "Discworld ; 8"
    assert shown["Audience"] == "General; Ages 9-12."
    assert (shown["Format"], shown["Language"]) == ("EPUB e-book", "English")
    assert shown["Purchases"] == "2024-05-01 (2 copies), 2024-05-02"
    assert shown["Metadata received"] == "2024-05-01 12:00 UTC"
    assert shown["Last refreshed"] == "2024-05-31 12:00 UTC"
