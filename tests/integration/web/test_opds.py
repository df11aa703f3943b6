"""OPDS 2.0 over HTTP: feeds, facets, search, paging, conditional requests and tokens."""

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
from accession.exports.opds.models import BISAC_SCHEME
from tests.fixtures.factories import NOON, SOURCE, apply_titles, make_collection, person, title_data
from tests.fixtures.opds import validate
from tests.fixtures.web_client import BASE_URL, Browser, bearer, make_feed_token

ROOT = f"{BASE_URL}/opds/v2"
FEED, PUBLICATION = "application/opds+json", "application/opds-publication+json"
HOUR = timedelta(hours=1)
MAY_1 = NOON.date()
PAGES = 8
TITLES = 50 * PAGES


def store_titles(
    session: Session, collection: Collection, titles: dict[str, dict[str, Any]], *, purchased_on: date = MAY_1
) -> dict[str, LicensePool]:
    """Store titles with this metadata, as of noon, and their purchase records; return their pools."""
    with time_machine.travel(NOON, tick=False):
        rows = LicensePool.for_foreign_ids(
            session, SOURCE, IdentifierType.BIBLIOTHECA, list(titles), collection=collection
        )
        pools = {name: pool for name, (pool, _) in rows.items()}
        apply_titles(
            session, {pools[name].id: title_data(name, **metadata) for name, metadata in titles.items()}
        )
        records = [PurchaseRecordData(pool, lambda: b"marc", name) for name, pool in pools.items()]
        store_purchase_records(session, {PurchaseDate(purchased_on): records})
    session.commit()
    return pools


def payload(response: httpx.Response, media_type: str = FEED) -> Any:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == media_type
    return validate("feed" if media_type == FEED else "publication", response.json())


def links_of(document: Any) -> dict[str, str]:
    """Return the URLs of a document's links by relation, or by title for links without one."""
    return {link.get("rel") or link["title"]: link["href"] for link in document["links"]}


def ids_of(document: Any) -> list[str]:
    """Return the vendor's ids of the document's publications."""
    return [links_of(publication)["self"].rpartition("/")[2] for publication in document["publications"]]


def every_page(browser: Browser, url: str) -> Iterator[Any]:
    next_url: str | None = url
    while next_url is not None:
        document = payload(browser.get(next_url))
        yield document
        next_url = links_of(document).get("next")


@pytest.fixture
def feed_url(session: Session, collection: Collection) -> str:
    """Store a collection of four titles, one of them withdrawn, and return the URL of its feed."""
    with time_machine.travel(NOON, tick=False):
        audio = {"medium": Medium.AUDIOBOOK, "format": Format.MP3, "duration_ms": 60_500}
        on_loan = {"licenses_available": 0, "patrons_in_hold_queue": 3}
        store_titles(session, collection, {"rings": {"title": "The Lord of the Rings", "language": "eng"}})
        store_titles(
            session, collection, {"hobbit": {"title": "The Hobbit"} | audio}, purchased_on=date(2024, 5, 3)
        )
        store_titles(
            session, collection, {"solaris": {"title": "Solaris"} | on_loan}, purchased_on=date(2024, 5, 2)
        )
        store_titles(session, collection, {"withdrawn": {"licenses_owned": 0, "licenses_available": 0}})
    return f"{ROOT}/collections/{collection.id}"


def test_links_lead_from_root_feed_to_publication(
    browser: Browser, collection: Collection, feed_url: str
) -> None:
    root = payload(browser.get(ROOT))
    (link,) = root["navigation"]
    assert (link["title"], link["rel"], link["href"]) == (collection.name, "subsection", feed_url)

    feed = payload(browser.get(link["href"]))
    assert links_of(feed)["start"] == links_of(root)["self"] == ROOT
    groups = {group["metadata"]["title"]: group for group in feed["groups"]}
    assert {title: ids_of(group) for title, group in groups.items()} == {
        "Recently added": ["hobbit", "solaris", "rings"],
        "Available now": ["rings", "hobbit"],
        "Audiobooks": ["hobbit"],
    }
    for group in groups.values():
        assert set(ids_of(payload(browser.get(links_of(group)["self"])))) >= set(ids_of(group))

    (hobbit,) = groups["Audiobooks"]["publications"]
    assert payload(browser.get(links_of(hobbit)["self"]), PUBLICATION) == hobbit


def test_publication_has_all_metadata(browser: Browser, session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON, tick=False):
        subjects = (
            SubjectData(scheme=SubjectScheme.BISAC, name="FICTION / Science Fiction"),
            SubjectData(scheme=SubjectScheme.LABEL, name="Planets"),
        )
        metadata: dict[str, Any] = {
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
        store_titles(session, collection, {"abc9": metadata})
    url = f"{ROOT}/collections/{collection.id}/publications/abc9"
    assert payload(browser.get(url), PUBLICATION) == {
        "metadata": {
            "@type": "http://schema.org/Book",
            "title": "Solaris",
            "subtitle": "Powieść",
            "identifier": "http://librarysimplified.org/terms/id/Bibliotheca%20ID/abc9",
            "altIdentifier": ["urn:isbn:9788308068298", "urn:isbn:9780156027601"],
            "author": [{"name": "Stanisław Lem"}],
            "publisher": {"name": "Wydawnictwo"},
            "published": "1961-06-01",
            "modified": "2024-05-01T12:00:00Z",
            "language": "pl",
            "subject": [{"name": "FICTION / Science Fiction", "scheme": BISAC_SCHEME}, {"name": "Planets"}],
            "description": "An ocean thinks.",
            "numberOfPages": 204,
        },
        "links": [
            {"rel": "self", "href": url, "type": PUBLICATION},
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
        "images": [{"href": f"{url}/cover", "type": "image/jpeg"}],
    }


def test_borrow_link_follows_the_url_template_setting(browser: Browser, feed_url: str) -> None:
    template = "https://library.example/{identifier}?at={library_id}"
    use_settings(get_settings().model_copy(update={"title_url_template": template}))
    title = payload(browser.get(f"{feed_url}/publications/rings"), PUBLICATION)
    assert title["links"][1]["href"] == "https://library.example/rings?at=alder"


def test_cover_is_served_for_titles_of_the_collection_only(
    browser: Browser, session: Session, collection: Collection
) -> None:
    store_titles(session, collection, {"bare": {"links": ()}})
    title = payload(browser.get(f"{ROOT}/collections/{collection.id}/publications/bare"), PUBLICATION)
    (image,) = title["images"]
    assert image["href"].startswith(ROOT)
    cover = browser.get(image["href"])
    assert (cover.status_code, cover.headers["content-type"]) == (200, image["type"])
    assert browser.get(image["href"].replace("bare", "none")).status_code == 404


def test_facets_filter_the_titles(browser: Browser, feed_url: str) -> None:
    all_titles = payload(browser.get(f"{feed_url}/publications"))
    assert ids_of(all_titles) == ["rings", "hobbit", "solaris"]
    assert all_titles["metadata"]["numberOfItems"] == 3
    titles_by_facet = {
        title: ids_of(payload(browser.get(url)))
        for facet in all_titles["facets"]
        for title, url in links_of(facet).items()
        if title != "self"
    }
    assert titles_by_facet == {
        "Available now": ["rings", "hobbit"],
        "Unavailable, place hold": ["solaris"],
        "On order": [],
        "EPUB e-book": ["rings", "solaris"],
        "Audiobook": ["hobbit"],
        "English": ["rings"],
        "Polish": ["hobbit", "solaris"],
    }
    polish = payload(browser.get(f"{feed_url}/publications?language=pol"))
    facets = {facet["metadata"]["title"]: links_of(facet) for facet in polish["facets"]}
    assert ids_of(payload(browser.get(facets["Format"]["Audiobook"]))) == ["hobbit"]
    assert ids_of(payload(browser.get(facets["Language"]["All"]))) == ids_of(all_titles)


def test_search_finds_words_typos_authors_and_formats(browser: Browser, feed_url: str) -> None:
    template = links_of(payload(browser.get(feed_url)))["search"]
    assert template == f"{feed_url}/search{{?query}}"

    def search(words: str, **filters: str) -> list[str]:
        url = template.replace("{?query}", f"?query={quote(words)}")
        return ids_of(
            payload(browser.get(url + "".join(f"&{name}={value}" for name, value in filters.items())))
        )

    assert search("lord rings") == ["rings"]
    assert search("hobit") == ["hobbit"]
    assert search("solaris") == ["solaris"]
    assert search("lem") == ["rings", "hobbit", "solaris"]
    assert search("lem", format="mp3") == ["hobbit"]
    assert search("withdrawn") == search("%'; DROP TABLE titles") == []


def test_independent_parser_accepts_all_feeds(browser: Browser, feed_url: str) -> None:
    def read(url: str) -> Any:
        result = OPDS2FeedParserFactory().create().parse_stream(BytesIO(browser.get(url).content))
        assert result.errors == []
        return result.root

    assert [link.href for link in read(ROOT).navigation.links] == [feed_url]
    groups = [group.metadata.title for group in read(feed_url).groups]
    assert groups == ["Recently added", "Available now", "Audiobooks"]
    publications_url = f"{feed_url}/publications"
    expected = {
        publication["metadata"]["title"]: publication["metadata"]
        for publication in payload(browser.get(publications_url))["publications"]
    }
    assert len(expected) == 3
    for publication in read(publications_url).publications:
        metadata = expected.pop(publication.metadata.title)
        borrow = next(link for link in publication.links if "borrow" in link.rels[0])
        assert publication.metadata.identifier == metadata["identifier"]
        assert [person.name for person in publication.metadata.authors] == [
            person["name"] for person in metadata["author"]
        ]
        assert borrow.properties.availability.state in ("available", "unavailable")
        assert borrow.properties.copies.total >= borrow.properties.copies.available >= 0
    assert expected == {}


@pytest.fixture
def large_feed_url(session: Session, collection: Collection) -> str:
    """Store a collection with `TITLES` titles, and return the URL of its feed."""
    store_titles(session, collection, {f"t{number:04}": {"title": "Dune"} for number in range(TITLES)})
    return f"{ROOT}/collections/{collection.id}"


def test_paging_during_changes_has_every_title_once(
    browser: Browser, session: Session, collection: Collection, large_feed_url: str
) -> None:
    seen: list[str] = []
    for number, page in enumerate(every_page(browser, f"{large_feed_url}/publications"), start=1):
        assert page["metadata"]["currentPage"] == number
        seen += ids_of(page)
        # Withdraw a title of a later page, change one of an earlier page, and add one.
        if number == 2:
            pools = store_titles(session, collection, {"t0150": {}, "t0010": {}, "new": {}})
            later = NOON + HOUR
            with time_machine.travel(later, tick=False):
                withdrawn = title_data("t0150", licenses_owned=0, licenses_available=0, as_of=later)
                changed = title_data("t0010", title="Other", as_of=later)
                apply_titles(session, {pools["t0150"].id: withdrawn, pools["t0010"].id: changed})
            session.commit()
    assert seen == [f"t{number:04}" for number in range(TITLES) if number != 150] + ["new"]


@pytest.mark.parametrize("step", ["publications?format=epub", "search?query=dune"])
def test_previous_links_reverse_next_links(browser: Browser, large_feed_url: str, step: str) -> None:
    pages = list(every_page(browser, f"{large_feed_url}/{step}"))
    assert [len(page["publications"]) for page in pages] == [50] * PAGES
    assert {page["metadata"]["itemsPerPage"] for page in pages} == {50}
    assert {page["metadata"]["numberOfItems"] for page in pages} == {TITLES}
    assert links_of(pages[-1])["last"] == links_of(pages[-1])["self"]
    assert {links_of(page)["first"] for page in pages} == {links_of(pages[0])["self"]}

    reverse = [pages[-1]]
    while "previous" in links_of(reverse[-1]):
        reverse.append(payload(browser.get(links_of(reverse[-1])["previous"])))
    assert [ids_of(page) for page in reversed(reverse)] == [ids_of(page) for page in pages]
    assert [page["metadata"]["currentPage"] for page in reversed(reverse)] == list(range(1, PAGES + 1))


# Conditional requests


def test_request_with_current_etag_gets_status_304(browser: Browser, feed_url: str) -> None:
    for url in (
        ROOT,
        feed_url,
        f"{feed_url}/publications",
        f"{feed_url}/search?query=x",
        f"{feed_url}/publications/rings",
    ):
        response = browser.get(url)
        assert response.headers["cache-control"] == "private, no-cache"
        etag = response.headers["etag"]
        assert re.fullmatch(r'"[0-9a-f]{32}"', etag)
        for client_etags in (etag, f'W/{etag}, "other"', "*"):
            again = browser.get(url, headers={"If-None-Match": client_etags})
            assert (again.status_code, again.content) == (304, b"")
            assert (again.headers["etag"], again.headers["cache-control"]) == (etag, "private, no-cache")
        # An ETag takes precedence over a date.
        other = {"If-None-Match": '"other"', "If-Modified-Since": "Fri, 01 Jan 2044 00:00:00 GMT"}
        assert browser.get(url, headers=other).status_code == 200


def test_request_with_current_date_gets_status_304(browser: Browser, session: Session, feed_url: str) -> None:
    with time_machine.travel(NOON, tick=False):
        session.execute(Collection.__table__.update().values(created_at=NOON))  # type: ignore[attr-defined]
        session.commit()
    for url in (ROOT, feed_url, f"{feed_url}/publications", f"{feed_url}/publications/rings"):
        assert browser.get(url).headers["last-modified"] == "Wed, 01 May 2024 12:00:00 GMT"
        statuses = [
            browser.get(url, headers={"If-Modified-Since": since}).status_code
            for since in (
                "Wed, 01 May 2024 12:00:00 GMT",
                "Wed, 01 May 2024 11:59:59 GMT",
                "soon",
                "1 May 2024 12:00:00 -0000",
            )
        ]
        assert statuses == [304, 200, 200, 200]


def test_last_modified_is_omitted_for_the_current_second(
    browser: Browser, session: Session, collection: Collection, feed_url: str
) -> None:
    """A change that is committed a moment later may have the same second."""
    assert "last-modified" not in browser.get(f"{feed_url}/publications").headers
    pool = session.query(LicensePool).order_by(LicensePool.id).first()
    assert pool is not None
    apply_titles(session, {pool.id: title_data("rings", title="Anew", as_of=NOON + HOUR)})
    session.commit()
    for url in (f"{feed_url}/publications", f"{feed_url}/publications/rings"):
        response = browser.get(url)
        assert "last-modified" not in response.headers
        assert "etag" in response.headers


def test_modified_and_etag_change_only_with_the_title(
    browser: Browser, session: Session, collection: Collection
) -> None:
    pool = store_titles(session, collection, {"a": {}})["a"]
    url = f"{ROOT}/collections/{collection.id}/publications/a"
    now = NOON

    def after(**changes: Any) -> tuple[str, str]:
        """Apply the metadata again, and return the publication's modification time and ETag."""
        nonlocal now
        now += HOUR
        with time_machine.travel(now, tick=False):
            apply_titles(session, {pool.id: title_data("a", as_of=now, **changes)})
        session.commit()
        response = browser.get(url)
        return payload(response, PUBLICATION)["metadata"]["modified"], response.headers["etag"]

    first = after()
    assert first[0] == "2024-05-01T12:00:00Z"
    assert after() == first
    on_loan = after(licenses_available=0)
    assert on_loan[0] == "2024-05-01T15:00:00Z"
    assert on_loan[1] != first[1]
    assert after(licenses_available=0) == on_loan
    assert after(licenses_available=0, title="Other")[0] == "2024-05-01T17:00:00Z"


# Invalid requests and hostile text


def test_invalid_request_gets_problem_document(
    browser: Browser, session: Session, collection: Collection, feed_url: str
) -> None:
    for url, status in {
        f"{feed_url}/publications/withdrawn": 404,
        f"{feed_url}/publications/none": 404,
        f"{ROOT}/collections/{collection.id + 1}": 404,
        f"{ROOT}/collections/x": 422,
        f"{ROOT}/nowhere": 404,
        f"{feed_url}/search": 422,
        f"{feed_url}/search?query=": 422,
        f"{feed_url}/search?query=%00": 422,
        f"{feed_url}/publications?page=2": 422,
        f"{feed_url}/publications?page=2.cmFuazo1MA==": 422,
        f"{feed_url}/publications?availability=withdrawn": 422,
        f"{feed_url}/publications?purchased_from=yesterday": 422,
    }.items():
        response = browser.get(url)
        assert response.headers["content-type"] == "application/problem+json", url
        assert response.status_code == response.json()["status"] == status, url
    assert browser.post(feed_url).status_code == 405

    mark_for_deletion(collection)
    session.commit()
    assert browser.get(feed_url).status_code == 404
    assert payload(browser.get(ROOT))["navigation"] == []


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    step=st.sampled_from(["", "/publications", "/search", "/publications/rings"]),
    parameters=st.dictionaries(
        st.sampled_from(
            ["query", "page", "format", "language", "availability", "purchased_from", "token", "x"]
        ),
        st.one_of(st.text(max_size=300), st.sampled_from(["1.cG9vbDow", "9.cmFuazo1MA==", "mp3", "on_hold"])),
    ),
)
def test_any_request_gets_a_valid_or_problem_document(
    browser: Browser, feed_url: str, step: str, parameters: dict[str, str]
) -> None:
    response = browser.get(feed_url + step, params=parameters)
    if response.status_code == 200:
        payload(response, PUBLICATION if step.endswith("rings") else FEED)
    else:
        assert response.status_code in (401, 422)
        problem_type = "application/problem+json" if response.status_code == 422 else AUTHENTICATION_TYPE
        assert response.headers["content-type"] == problem_type


HOSTILE = [
    '</script><script>alert(1)</script>"}],"links":[{"href":"http://evil.example',
    "\u202egnp.exe\u2066\x1b[2J\u2028\r\nX-Header: 1",
    "{identifier}{?query}%2e%2e/../",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_data(
    browser: Browser, session: Session, collection: Collection, text: str
) -> None:
    metadata = {"title": text, "publisher": text, "description": text, "contributors": (person(text),)}
    store_titles(session, collection, {"evil": metadata})
    (title,) = payload(browser.get(f"{ROOT}/collections/{collection.id}/publications"))["publications"]
    metadata = title["metadata"]
    assert (metadata["title"], metadata["publisher"], metadata["description"]) == (text, {"name": text}, text)
    assert "evil.example" not in str(title["links"])


# Tokens


AUTHENTICATION_TYPE = "application/opds-authentication+json"


def test_refusal_has_the_authentication_document(browser: Browser, ann: str) -> None:
    response = browser.get(f"{ROOT}/collections/1")

    assert (response.status_code, response.headers["content-type"]) == (401, AUTHENTICATION_TYPE)
    assert response.headers["www-authenticate"] == 'Basic realm="Accession", charset="UTF-8"'
    url = f"{ROOT}/authentication"
    assert response.headers["link"] == (
        f'<{url}>; rel="http://opds-spec.org/auth/document"; type="{AUTHENTICATION_TYPE}"'
    )
    document = response.json()
    assert (document["id"], document["title"]) == (url, "Accession")
    assert document["authentication"] == [
        {
            "type": "http://opds-spec.org/auth/basic",
            "labels": {"login": "Name (any)", "password": "Token"},
        }
    ]
    public = browser.get(url)
    assert (public.status_code, public.headers["content-type"]) == (200, AUTHENTICATION_TYPE)
    assert public.json() == document
    links = {link["rel"]: link for link in document["links"]}
    assert links["start"]["href"] == ROOT
    logo = browser.get(links["logo"]["href"])
    assert logo.headers["content-type"].startswith(links["logo"]["type"])


def test_wrong_token_gets_the_authentication_document(browser: Browser, ann: str) -> None:
    response = browser.get(ROOT, headers={"Authorization": "Basic eDp5"})

    assert (response.status_code, response.headers["content-type"]) == (401, AUTHENTICATION_TYPE)


def test_token_in_url_is_kept_in_all_links_of_the_feed(
    browser: Browser, session: Session, large_feed_url: str, ann: str
) -> None:
    assert browser.get(ROOT).status_code == 401
    token = make_feed_token(session)
    root = payload(browser.get(f"{ROOT}?token={token}"))
    feed = payload(browser.get(root["navigation"][0]["href"]))
    pages = list(every_page(browser, feed["navigation"][0]["href"]))
    assert sum(len(page["publications"]) for page in pages) == TITLES
    title = payload(browser.get(links_of(pages[0]["publications"][0])["self"]), PUBLICATION)
    assert browser.get(title["images"][0]["href"]).status_code == 200
    assert token not in links_of(title)["http://opds-spec.org/acquisition/borrow"]
    search = links_of(feed)["search"].replace("{&query}", "&query=dune")
    assert payload(browser.get(search))["metadata"]["numberOfItems"] == TITLES


def test_token_of_collection_is_rejected_by_other_collection(
    browser: Browser, session: Session, collection: Collection, feed_url: str, ann: str
) -> None:
    other = make_collection(session, "Birch Library")
    store_titles(session, other, {"birch": {}})
    token = make_feed_token(session, FeedKind.OPDS, collection=other.name)
    browser.headers = bearer(token)
    theirs = f"{ROOT}/collections/{other.id}"
    assert [link["href"] for link in payload(browser.get(ROOT))["navigation"]] == [theirs]
    assert ids_of(payload(browser.get(f"{theirs}/publications"))) == ["birch"]
    for step in (
        "",
        "/publications",
        "/search?query=x",
        "/publications/rings",
        "/publications/rings/cover",
    ):
        response = browser.get(f"{feed_url}{step}")
        assert (response.status_code, response.headers["content-type"]) == (403, "application/problem+json")
        assert (
            response.json()["detail"]
            == 'The token "app" only allows reading the feeds of another collection.'
        )

    mark_for_deletion(other)
    make_collection(session, other.name)
    session.commit()
    assert payload(browser.get(ROOT))["navigation"] == []


def test_collections_of_one_library_show_its_copies(
    browser: Browser, session: Session, collection: Collection
) -> None:
    branch = make_collection(session, "Branch")
    branch.library_id = collection.library_id
    for owner in (collection, branch):
        store_titles(session, owner, {"solaris": {"licenses_owned": 2, "licenses_available": 1}})
    for owner in (collection, branch):
        feed = payload(browser.get(f"{ROOT}/collections/{owner.id}/publications"))
        (properties,) = [
            link["properties"]
            for publication in feed["publications"]
            for link in publication["links"]
            if "copies" in link.get("properties", {})
        ]
        assert properties["copies"] == {"total": 2, "available": 1}
