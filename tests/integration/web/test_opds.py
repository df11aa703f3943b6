"""OPDS 2.0 as a reading app asks for it."""

import re
from collections.abc import Iterator
from datetime import date, timedelta
from io import BytesIO
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session
from webpub_manifest_parser.opds2 import OPDS2FeedParserFactory

from accession.accounts.collections import mark_for_deletion
from accession.auth.roles import FeedKind
from accession.catalog.data import SubjectData
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.core.settings import get_settings, use_settings
from accession.core.vocabulary import Format, IdentifierType, Medium, SubjectScheme
from accession.db.models import Collection, LicensePool
from accession.exports.opds import BISAC
from tests.fixtures.factories import NOON, SOURCE, apply_titles, make_collection, person, title_data
from tests.fixtures.opds import valid
from tests.fixtures.web_client import HERE, Browser, make_feed_token

ROOT = f"{HERE}/opds/v2"
FEED, PUBLICATION = "application/opds+json", "application/opds-publication+json"
HOUR = timedelta(hours=1)
MAY_1 = NOON.date()


def stock(
    session: Session, collection: Collection, titles: dict[str, dict[str, Any]], *, bought: date = MAY_1
) -> dict[str, LicensePool]:
    """Titles of the collection that are described at noon as is said here; committed."""
    with time_machine.travel(NOON, tick=False):
        made = LicensePool.for_foreign_ids(
            session, SOURCE, IdentifierType.BIBLIOTHECA, list(titles), collection=collection
        )
        pools = {name: pool for name, (pool, _) in made.items()}
        apply_titles(session, {pools[name].id: title_data(name, **said) for name, said in titles.items()})
        records = [PurchaseRecordData(pool, lambda: b"marc", name) for name, pool in pools.items()]
        store_purchase_records(session, PurchaseDate(bought), records)
    session.commit()
    return pools


def told(answer: httpx.Response, media_type: str = FEED) -> Any:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    return valid("feed" if media_type == FEED else "publication", answer.json())


def links_of(document: Any) -> dict[str, str]:
    """The links of a document by relation, and by title where they have none."""
    return {link.get("rel") or link["title"]: link["href"] for link in document["links"]}


def ids_of(document: Any) -> list[str]:
    """The vendor's ids of the document's titles."""
    return [links_of(found)["self"].rpartition("/")[2] for found in document["publications"]]


def every_page(browser: Browser, url: str) -> Iterator[Any]:
    following: str | None = url
    while following is not None:
        document = told(browser.get(following))
        yield document
        following = links_of(document).get("next")


@pytest.fixture
def shelf(session: Session, collection: Collection) -> str:
    """A collection of five titles, of which one is gone; the address of its feed."""
    with time_machine.travel(NOON, tick=False):
        audio = {"medium": Medium.AUDIOBOOK, "format": Format.MP3, "duration_ms": 60_500}
        lent = {"licenses_available": 0, "patrons_in_hold_queue": 3}
        stock(session, collection, {"rings": {"title": "The Lord of the Rings", "language": "eng"}})
        stock(session, collection, {"hobbit": {"title": "The Hobbit"} | audio}, bought=date(2024, 5, 3))
        stock(session, collection, {"solaris": {"title": "Solaris"} | lent}, bought=date(2024, 5, 2))
        stock(session, collection, {"gone": {"licenses_owned": 0, "licenses_available": 0}})
    return f"{ROOT}/collections/{collection.id}"


def test_the_way_leads_from_the_root_to_a_title(browser: Browser, collection: Collection, shelf: str) -> None:
    root = told(browser.get(ROOT))
    (found,) = root["navigation"]
    assert (found["title"], found["rel"], found["href"]) == (collection.name, "subsection", shelf)

    feed = told(browser.get(found["href"]))
    assert links_of(feed)["start"] == links_of(root)["self"] == ROOT
    groups = {group["metadata"]["title"]: group for group in feed["groups"]}
    assert {title: ids_of(group) for title, group in groups.items()} == {
        "Bought lately": ["hobbit", "solaris", "rings"],
        "Available now": ["rings", "hobbit"],
        "Audiobooks": ["hobbit"],
    }
    for group in groups.values():
        assert set(ids_of(told(browser.get(links_of(group)["self"])))) >= set(ids_of(group))

    (hobbit,) = groups["Audiobooks"]["publications"]
    assert told(browser.get(links_of(hobbit)["self"]), PUBLICATION) == hobbit


def test_all_that_is_known_of_a_title_is_told(
    browser: Browser, session: Session, collection: Collection
) -> None:
    with time_machine.travel(NOON, tick=False):
        subjects = (
            SubjectData(scheme=SubjectScheme.BISAC, name="FICTION / Science Fiction"),
            SubjectData(scheme=SubjectScheme.LABEL, name="Planets"),
        )
        described: dict[str, Any] = {
            "title": "Solaris",
            "subtitle": "Powieść",
            "description": "An ocean thinks.",
            "published": "1961-06-01",
            "isbns": ("9788308068298", "9780156027601"),
            "page_count": 204,
            "subjects": subjects,
            "contributors": (person("Lem, Stanisław"),),
            "patrons_in_hold_queue": 4,
        }
        stock(session, collection, {"abc9": described})
    address = f"{ROOT}/collections/{collection.id}/publications/abc9"
    assert told(browser.get(address), PUBLICATION) == {
        "metadata": {
            "@type": "http://schema.org/EBook",
            "title": "Solaris",
            "subtitle": "Powieść",
            "identifier": "urn:isbn:9788308068298",
            "altIdentifier": ["urn:isbn:9780156027601", "urn:bibliotheca:abc9"],
            "author": [{"name": "Stanisław Lem"}],
            "publisher": {"name": "Wydawnictwo"},
            "published": "1961-06-01",
            "modified": "2024-05-01T12:00:00Z",
            "language": "pl",
            "subject": [{"name": "FICTION / Science Fiction", "scheme": BISAC}, {"name": "Planets"}],
            "description": "An ocean thinks.",
            "numberOfPages": 204,
        },
        "links": [
            {"rel": "self", "href": address, "type": PUBLICATION},
            {
                "rel": "http://opds-spec.org/acquisition/borrow",
                "href": "https://ebook.yourcloudlibrary.com/library/alder-document_id-abc9",
                "type": "text/html",
                "properties": {
                    "copies": {"total": 2, "available": 1},
                    "holds": {"total": 4},
                    "availability": {"state": "available"},
                },
            },
        ],
        "images": [{"href": f"{address}/cover", "type": "image/jpeg"}],
    }


def test_the_vendors_page_of_a_title_is_where_the_setting_says(browser: Browser, shelf: str) -> None:
    template = "https://library.example/{identifier}?at={library_id}"
    use_settings(get_settings().model_copy(update={"title_url_template": template}))
    title = told(browser.get(f"{shelf}/publications/rings"), PUBLICATION)
    assert title["links"][1]["href"] == "https://library.example/rings?at=alder"


def test_a_cover_comes_from_us_and_only_of_what_the_collection_has(
    browser: Browser, session: Session, collection: Collection
) -> None:
    stock(session, collection, {"bare": {"links": ()}})
    title = told(browser.get(f"{ROOT}/collections/{collection.id}/publications/bare"), PUBLICATION)
    (image,) = title["images"]
    assert image["href"].startswith(ROOT)
    cover = browser.get(image["href"])
    assert (cover.status_code, cover.headers["content-type"]) == (200, image["type"])
    assert browser.get(image["href"].replace("bare", "none")).status_code == 404


def test_facets_narrow(browser: Browser, shelf: str) -> None:
    all_titles = told(browser.get(f"{shelf}/publications"))
    assert ids_of(all_titles) == ["rings", "hobbit", "solaris"]
    assert all_titles["metadata"]["numberOfItems"] == 3
    found = {
        title: ids_of(told(browser.get(url)))
        for facet in all_titles["facets"]
        for title, url in links_of(facet).items()
        if title != "self"
    }
    assert found == {
        "Available now": ["rings", "hobbit"],
        "To wait for": ["solaris"],
        "EPUB": ["rings", "solaris"],
        "MP3": ["hobbit"],
        "English": ["rings"],
        "Polish": ["hobbit", "solaris"],
    }
    polish = told(browser.get(f"{shelf}/publications?language=pol"))
    facets = {facet["metadata"]["title"]: links_of(facet) for facet in polish["facets"]}
    assert ids_of(told(browser.get(facets["Format"]["MP3"]))) == ["hobbit"]
    assert ids_of(told(browser.get(facets["Language"]["All"]))) == ids_of(all_titles)


def test_search_finds(browser: Browser, shelf: str) -> None:
    template = links_of(told(browser.get(shelf)))["search"]
    assert template == f"{shelf}/search{{?query}}"

    def found(words: str, **chosen: str) -> list[str]:
        url = template.replace("{?query}", f"?query={quote(words)}")
        return ids_of(told(browser.get(url + "".join(f"&{name}={value}" for name, value in chosen.items()))))

    assert found("lord rings") == ["rings"]
    assert found("hobit") == ["hobbit"]
    assert found("solaris") == ["solaris"]
    assert found("lem") == ["rings", "hobbit", "solaris"]
    assert found("lem", format="mp3") == ["hobbit"]
    assert found("gone") == found("%'; DROP TABLE titles") == []


# A thousand titles


def test_a_reader_that_others_have_written_finds_nothing_wrong(browser: Browser, shelf: str) -> None:
    def read(url: str) -> Any:
        found = OPDS2FeedParserFactory().create().parse_stream(BytesIO(browser.get(url).content))
        assert found.errors == []
        return found.root

    assert [link.href for link in read(ROOT).navigation.links] == [shelf]
    groups = [group.metadata.title for group in read(shelf).groups]
    assert groups == ["Bought lately", "Available now", "Audiobooks"]
    every = f"{shelf}/publications"
    said = {
        found["metadata"]["title"]: found["metadata"] for found in told(browser.get(every))["publications"]
    }
    assert len(said) == 3
    for publication in read(every).publications:
        metadata = said.pop(publication.metadata.title)
        borrow = next(link for link in publication.links if "borrow" in link.rels[0])
        assert publication.metadata.identifier == metadata["identifier"]
        assert [person.name for person in publication.metadata.authors] == [
            person["name"] for person in metadata["author"]
        ]
        assert borrow.properties.availability.state in ("available", "unavailable")
        assert borrow.properties.copies.total >= borrow.properties.copies.available >= 0
    assert said == {}


@pytest.fixture
def thousand(session: Session, collection: Collection) -> str:
    """A collection of a thousand titles; the address of its feed."""
    stock(session, collection, {f"t{number:04}": {"title": "Dune"} for number in range(1000)})
    return f"{ROOT}/collections/{collection.id}"


def test_paging_walks_all_titles_once_while_they_change(
    browser: Browser, session: Session, collection: Collection, thousand: str
) -> None:
    seen: list[str] = []
    for number, page in enumerate(every_page(browser, f"{thousand}/publications"), start=1):
        assert page["metadata"]["currentPage"] == number
        seen += ids_of(page)
        # One of those to come goes, one of those that were changes, and one comes.
        if number == 2:
            pools = stock(session, collection, {"t0150": {}, "t0010": {}, "new": {}})
            later = NOON + HOUR
            with time_machine.travel(later, tick=False):
                gone = title_data("t0150", licenses_owned=0, licenses_available=0, as_of=later)
                changed = title_data("t0010", title="Other", as_of=later)
                apply_titles(session, {pools["t0150"].id: gone, pools["t0010"].id: changed})
            session.commit()
    assert seen == [f"t{number:04}" for number in range(1000) if number != 150] + ["new"]


@pytest.mark.parametrize("step", ["publications?format=epub", "search?query=dune"])
def test_pages_lead_back_as_they_lead_on(browser: Browser, thousand: str, step: str) -> None:
    pages = list(every_page(browser, f"{thousand}/{step}"))
    assert [len(page["publications"]) for page in pages] == [50] * 20
    assert {page["metadata"]["itemsPerPage"] for page in pages} == {50}
    assert {page["metadata"]["numberOfItems"] for page in pages} == {1000}
    assert links_of(pages[-1])["last"] == links_of(pages[-1])["self"]
    assert {links_of(page)["first"] for page in pages} == {links_of(pages[0])["self"]}

    back = [pages[-1]]
    while "previous" in links_of(back[-1]):
        back.append(told(browser.get(links_of(back[-1])["previous"])))
    assert [ids_of(page) for page in reversed(back)] == [ids_of(page) for page in pages]
    assert [page["metadata"]["currentPage"] for page in reversed(back)] == list(range(1, 21))


# What has not changed


def test_what_is_known_is_not_sent_again(browser: Browser, shelf: str) -> None:
    for url in (
        ROOT,
        shelf,
        f"{shelf}/publications",
        f"{shelf}/search?query=x",
        f"{shelf}/publications/rings",
    ):
        answer = browser.get(url)
        assert answer.headers["cache-control"] == "private, no-cache"
        etag = answer.headers["etag"]
        assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
        for known in (etag, f'W/{etag}, "other"', "*"):
            again = browser.get(url, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert (again.headers["etag"], again.headers["cache-control"]) == (etag, "private, no-cache")
        # A tag counts for more than a date.
        other = {"If-None-Match": '"other"', "If-Modified-Since": "Fri, 01 Jan 2044 00:00:00 GMT"}
        assert browser.get(url, headers=other).status_code == 200


def test_what_has_not_changed_since_is_not_sent_again(browser: Browser, session: Session, shelf: str) -> None:
    with time_machine.travel(NOON, tick=False):
        session.execute(Collection.__table__.update().values(created_at=NOON))  # type: ignore[attr-defined]
        session.commit()
    for url in (ROOT, shelf, f"{shelf}/publications", f"{shelf}/publications/rings"):
        assert browser.get(url).headers["last-modified"] == "Wed, 01 May 2024 12:00:00 GMT"
        answers = [
            browser.get(url, headers={"If-Modified-Since": since}).status_code
            for since in (
                "Wed, 01 May 2024 12:00:00 GMT",
                "Wed, 01 May 2024 11:59:59 GMT",
                "soon",
                "1 May 2024 12:00:00 -0000",
            )
        ]
        assert answers == [304, 200, 200, 200]


def test_while_the_catalogue_is_written_no_date_is_told(
    browser: Browser, session: Session, collection: Collection, shelf: str
) -> None:
    """What is committed a moment later may stand under the same second."""
    assert "last-modified" not in browser.get(f"{shelf}/publications").headers
    pool = session.query(LicensePool).order_by(LicensePool.id).first()
    assert pool is not None
    apply_titles(session, {pool.id: title_data("rings", title="Anew", as_of=NOON + HOUR)})
    session.commit()
    for url in (f"{shelf}/publications", f"{shelf}/publications/rings"):
        answer = browser.get(url)
        assert "last-modified" not in answer.headers
        assert "etag" in answer.headers


def test_modified_changes_only_when_something_has(
    browser: Browser, session: Session, collection: Collection
) -> None:
    pool = stock(session, collection, {"a": {}})["a"]
    url = f"{ROOT}/collections/{collection.id}/publications/a"
    now = NOON

    def after(**changes: Any) -> tuple[str, str]:
        """When the title is told to have changed, and its tag, after it was described once more."""
        nonlocal now
        now += HOUR
        with time_machine.travel(now, tick=False):
            apply_titles(session, {pool.id: title_data("a", as_of=now, **changes)})
        session.commit()
        answer = browser.get(url)
        return told(answer, PUBLICATION)["metadata"]["modified"], answer.headers["etag"]

    first = after()
    assert first[0] == "2024-05-01T12:00:00Z"
    assert after() == first
    lent = after(licenses_available=0)
    assert lent[0] == "2024-05-01T15:00:00Z"
    assert lent[1] != first[1]
    assert after(licenses_available=0) == lent
    assert after(licenses_available=0, title="Other")[0] == "2024-05-01T17:00:00Z"


# What cannot be


def test_what_is_not_there_is_told_as_a_problem(
    browser: Browser, session: Session, collection: Collection, shelf: str
) -> None:
    for url, status in {
        f"{shelf}/publications/gone": 404,
        f"{shelf}/publications/none": 404,
        f"{ROOT}/collections/{collection.id + 1}": 404,
        f"{ROOT}/collections/x": 422,
        f"{ROOT}/nowhere": 404,
        f"{shelf}/search": 422,
        f"{shelf}/search?query=": 422,
        f"{shelf}/search?query=%00": 422,
        f"{shelf}/publications?page=2": 422,
        f"{shelf}/publications?page=2.cmFuazo1MA==": 422,
        f"{shelf}/publications?availability=withdrawn": 422,
        f"{shelf}/publications?purchased_from=yesterday": 422,
    }.items():
        answer = browser.get(url)
        assert answer.headers["content-type"] == "application/problem+json", url
        assert answer.status_code == answer.json()["status"] == status, url
    assert browser.post(shelf).status_code == 405

    mark_for_deletion(collection)
    session.commit()
    assert browser.get(shelf).status_code == 404
    assert told(browser.get(ROOT))["navigation"] == []


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    step=st.sampled_from(["", "/publications", "/search", "/publications/rings"]),
    said=st.dictionaries(
        st.sampled_from(
            ["query", "page", "format", "language", "availability", "purchased_from", "token", "x"]
        ),
        st.one_of(st.text(max_size=300), st.sampled_from(["1.cG9vbDow", "9.cmFuazo1MA==", "mp3", "on_hold"])),
    ),
)
def test_whatever_is_asked_for_is_answered_or_refused(
    browser: Browser, shelf: str, step: str, said: dict[str, str]
) -> None:
    answer = browser.get(shelf + step, params=said)
    if answer.status_code == 200:
        told(answer, PUBLICATION if step.endswith("rings") else FEED)
    else:
        assert answer.status_code in (401, 422)
        assert answer.headers["content-type"] == "application/problem+json"


HOSTILE = [
    '</script><script>alert(1)</script>"}],"links":[{"href":"http://evil.example',
    "\u202egnp.exe\u2066\x1b[2J\u2028\r\nX-Header: 1",
    "{identifier}{?query}%2e%2e/../",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_made_to_harm_stays_data(
    browser: Browser, session: Session, collection: Collection, text: str
) -> None:
    said = {"title": text, "publisher": text, "description": text, "contributors": (person(text),)}
    stock(session, collection, {"evil": said})
    (title,) = told(browser.get(f"{ROOT}/collections/{collection.id}/publications"))["publications"]
    metadata = title["metadata"]
    assert (metadata["title"], metadata["publisher"], metadata["description"]) == (text, {"name": text}, text)
    assert "evil.example" not in str(title["links"])


# Tokens


def test_a_reading_app_walks_the_feed_with_its_token_in_the_address(
    browser: Browser, session: Session, thousand: str, ann: str
) -> None:
    assert browser.get(ROOT).status_code == 401
    token = make_feed_token(session)
    root = told(browser.get(f"{ROOT}?token={token}"))
    feed = told(browser.get(root["navigation"][0]["href"]))
    pages = list(every_page(browser, feed["navigation"][0]["href"]))
    assert sum(len(page["publications"]) for page in pages) == 1000
    title = told(browser.get(links_of(pages[0]["publications"][0])["self"]), PUBLICATION)
    assert browser.get(title["images"][0]["href"]).status_code == 200
    assert token not in links_of(title)["http://opds-spec.org/acquisition/borrow"]
    search = links_of(feed)["search"].replace("{&query}", "&query=dune")
    assert told(browser.get(search))["metadata"]["numberOfItems"] == 1000


def test_a_token_for_one_collections_feed_does_not_open_anothers(
    browser: Browser, session: Session, collection: Collection, shelf: str, ann: str
) -> None:
    other = make_collection(session, "Birch Library")
    stock(session, other, {"birch": {}})
    token = make_feed_token(session, FeedKind.OPDS, collection=other.name)
    browser.says = {"Authorization": f"Bearer {token}"}
    theirs = f"{ROOT}/collections/{other.id}"
    assert [found["href"] for found in told(browser.get(ROOT))["navigation"]] == [theirs]
    assert ids_of(told(browser.get(f"{theirs}/publications"))) == ["birch"]
    for step in (
        "",
        "/publications",
        "/search?query=x",
        "/publications/rings",
        "/publications/rings/cover",
    ):
        answer = browser.get(f"{shelf}{step}")
        assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
        assert (
            answer.json()["detail"] == 'The token "app" opens the feeds of one collection, and not of this.'
        )

    mark_for_deletion(other)
    make_collection(session, other.name)
    session.commit()
    assert told(browser.get(ROOT))["navigation"] == []
