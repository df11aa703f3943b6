"""The dashboard below the path of its public URL: pages, redirects, cookies, tokens and feeds."""

from datetime import timedelta

import pytest
import time_machine
from lxml import etree, html
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.auth.roles import FeedKind
from accession.core.settings import get_settings, use_settings
from accession.core.workflow import Workflow
from accession.db.models import Collection, Run, RunState
from accession.digests.options import DigestOptions, set_digest
from accession.runs.ledger import end_run, get_or_create_checkpoint, open_run
from tests.fixtures.digests import ANN
from tests.fixtures.factories import NOON, PASSWORD
from tests.fixtures.web_client import Browser, bearer, make_feed_token
from tests.integration.digests.test_content import purchase

PUBLIC_URL = "https://library.example/accession"
NEXT_DAY = NOON + timedelta(days=1)
ATOM_LINK = "{http://www.w3.org/2005/Atom}link"


@pytest.fixture(autouse=True)
def _public_url(browser: Browser) -> None:
    """Set the public URL; the fixture `browser` restores the settings."""
    use_settings(get_settings().model_copy(update={"public_url": f"{PUBLIC_URL}/"}))


@pytest.mark.parametrize("path", ["/accession", "/accession/", "/"])
def test_page_is_served_with_and_without_the_path(browser: Browser, path: str) -> None:
    """Proxies may remove it, and probes on this machine do not know it."""
    page = html.fromstring(browser.get(path).text)

    assert page.xpath("//a[@aria-current='page']/@href") == ["/accession/"]


def test_login_returns_to_the_page_below_the_path(browser: Browser, ann: str) -> None:
    redirect = browser.get("/accession/titles?text=solaris")
    page = browser.get(redirect.headers["location"])
    (form,) = html.fromstring(page.text).forms
    login = browser.post("/accession/login", data={**form.fields, "name": ann, "password": PASSWORD})

    assert form.action == "/accession/login"
    assert login.headers["location"] == "/accession/titles?text=solaris"
    assert browser.get(login.headers["location"]).status_code == 200


def test_cookies_are_sent_below_the_path_only(browser: Browser, ann: str) -> None:
    """Other programs at the same host name do not get the session."""
    assert "; Path=/accession;" in browser.log_in().headers["set-cookie"]
    redirect = browser.post("/accession/control/run", data={})
    assert redirect.headers["location"] == "/accession/"
    assert "; Path=/accession;" in redirect.headers["set-cookie"]
    assert [cookie.path for cookie in browser.cookies.jar] == ["/accession"] * 2
    browser.get("/accession/")
    browser.post("/accession/logout")
    assert list(browser.cookies.jar) == []


def test_feed_token_reads_its_feed_only_below_the_path(browser: Browser, session: Session, ann: str) -> None:
    token = bearer(make_feed_token(session, FeedKind.OPDS))

    assert browser.get("/accession/opds/v2", headers=token).status_code == 200
    for path in ("/accession/titles", "/accession/oai", "/accession/api/v1/titles"):
        assert browser.get(path, headers=token).status_code == 403


@pytest.mark.parametrize("path", ["/accession/static/app.css", "/accession/healthz"])
def test_public_paths_need_no_login_below_the_path(browser: Browser, ann: str, path: str) -> None:
    assert browser.get(path).status_code == 200


def test_error_below_the_path_is_problem_for_programs(browser: Browser, ann: str) -> None:
    response = browser.get("/accession/api/v1/titles")

    assert (response.status_code, response.headers["content-type"]) == (401, "application/problem+json")


def test_links_of_error_page_stay_below_the_path(browser: Browser) -> None:
    """The route of static files has a root of its own."""
    response = browser.get("/accession/static/none.css")

    assert response.status_code == 404
    assert '<a class="btn btn-primary" href="/accession/">' in response.text


def test_links_of_the_timeline_stay_below_the_path(
    browser: Browser, session: Session, collection: Collection
) -> None:
    """They are drawn without a template."""
    open_run(session, collection.id, Workflow.PURCHASES, "task", {"current_day": None, "offset": 1})
    end_run(session.scalars(select(Run)).one(), RunState.SUCCEEDED)
    session.commit()
    page = html.fromstring(browser.get("/accession/").text)
    addresses = page.xpath("//*[@id='timeline']//*[local-name()='svg']//@href")

    assert [address.partition("&")[0] for address in addresses] == ["/accession/runs?workflow=purchases"]


def test_covers_in_shown_digests_are_below_the_path(
    browser: Browser, session: Session, collection: Collection
) -> None:
    purchase(session, collection, "abc", NOON.date())
    checkpoint = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    checkpoint.finish = checkpoint.confirmed = NEXT_DAY
    session.commit()
    with time_machine.travel(NEXT_DAY, tick=False):
        preview = browser.get("/accession/collections/1/digest/preview?frequency=daily")

    assert [image.get("src") for image in html.fromstring(preview.text).iter("img")] == [
        "/accession/covers/abc"
    ]


def test_slash_at_the_end_is_removed_below_the_path(browser: Browser) -> None:
    response = browser.get("/accession/titles/")

    assert (response.status_code, response.headers["location"]) == (
        307,
        "http://127.0.0.1:8642/accession/titles",
    )


def test_openapi_document_names_the_path(browser: Browser) -> None:
    assert browser.get("/accession/api/v1/openapi.json").json()["servers"] == [{"url": "/accession"}]


def test_opds_links_begin_with_the_public_url(
    browser: Browser, session: Session, collection: Collection
) -> None:
    feed = browser.get("/accession/opds/v2").json()
    links = [*feed["links"], *feed["navigation"]]

    assert [link["href"] for link in links if not link["href"].startswith(f"{PUBLIC_URL}/opds/v2")] == []
    assert f"{PUBLIC_URL}/opds/v2/collections/1" in [link["href"] for link in links]


def test_opds_login_begins_with_the_public_url(browser: Browser, ann: str) -> None:
    response = browser.get("/accession/opds/v2")

    assert response.status_code == 401
    assert response.json()["id"] == f"{PUBLIC_URL}/opds/v2/authentication"
    assert response.headers["link"].startswith(f"<{PUBLIC_URL}/opds/v2/authentication>;")


def test_oai_base_url_begins_with_the_public_url(browser: Browser) -> None:
    assert f"<baseURL>{PUBLIC_URL}/oai</baseURL>" in browser.get("/accession/oai?verb=Identify").text


def test_atom_feed_begins_with_the_public_url(
    browser: Browser, session: Session, collection: Collection
) -> None:
    set_digest(session, ANN, collection, DigestOptions())
    token = make_feed_token(session, FeedKind.DIGESTS)
    feed = etree.fromstring(browser.get(f"/accession/digests/1.atom?token={token}").content)
    links = {link.get("rel"): link.get("href") for link in feed.findall(ATOM_LINK)}

    assert links == {
        "self": f"{PUBLIC_URL}/digests/1.atom?token={token}",
        "alternate": f"{PUBLIC_URL}/collections/1",
    }
