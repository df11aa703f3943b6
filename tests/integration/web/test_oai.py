"""OAI-PMH over HTTP: who may harvest, and that a harvester of others' gets everything once."""

from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sickle import Sickle
from sickle.models import Header, Record
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.auth.roles import FeedKind, UserRole
from accession.auth.tokens import add_feed_token
from accession.core.settings import get_settings, use_settings
from accession.db.models import Collection, LicensePool
from tests.fixtures.factories import make_collection, make_pool
from tests.fixtures.oai import OAI, change, error_of, fill, texts, valid, vendors_id
from tests.fixtures.web_client import Browser, make_token
from tests.fixtures.web_server import served

IDENTIFY = "/oai?verb=Identify"
TITLES = 20_000


@pytest.fixture
def client(browser: Browser) -> Iterator[httpx.Client]:
    """A client of the app as it is served."""
    with served(browser.app) as client:
        yield client


def harvester(client: httpx.Client, **options: object) -> Sickle:
    """A harvester that others have written."""
    return Sickle(f"{client.base_url}/oai".replace("//oai", "/oai"), **options)


# Who may harvest


def test_while_the_house_is_open_it_is_so_for_harvesters(browser: Browser) -> None:
    answer = browser.get(IDENTIFY, headers={"Sec-Fetch-Site": "none"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/xml; charset=utf-8")
    assert texts(valid(answer.content), "Identify/baseURL") == ["http://127.0.0.1:8642/oai"]


def test_else_a_harvester_needs_a_viewers_token(browser: Browser, session: Session, ann: str) -> None:
    assert browser.get(IDENTIFY).status_code == 401
    for token, status in ((make_token(session, role=UserRole.VIEWER), 200), ("acc_none", 401)):
        shown = {"Authorization": f"Bearer {token}"}
        assert browser.get(IDENTIFY, headers=shown).status_code == status
        assert browser.post("/oai", headers=shown, data={"verb": "Identify"}).status_code == status


def test_a_token_of_the_feed_harvests_either_way_and_one_of_a_collection_that_alone(
    browser: Browser, session: Session, collection: Collection
) -> None:
    make_pool(session, collection, "ours")
    make_pool(session, make_collection(session, "Birch Library"), "theirs")
    identifiers = {}
    for name in (None, collection.name):
        token = add_feed_token(session, f"of {name}", [FeedKind.OAI], name)
        session.commit()
        shown = {"Authorization": f"Bearer {token.get_secret_value()}"}
        asked = {"verb": "ListIdentifiers", "metadataPrefix": "oai_dc"}
        by_get = valid(browser.get("/oai", params=asked, headers=shown).content)
        by_post = valid(browser.post("/oai", data=asked, headers=shown).content)
        identifiers[name] = texts(by_get, "ListIdentifiers/header/identifier")
        assert identifiers[name] == texts(by_post, "ListIdentifiers/header/identifier")
    theirs = next(each for each in identifiers[None] if each.endswith("theirs"))
    assert [each.rpartition("/")[2] for each in identifiers[collection.name]] == ["ours"]

    def told(**asked: str) -> bytes:
        return browser.get("/oai", params=asked, headers=shown).content

    record = valid(told(verb="GetRecord", metadataPrefix="oai_dc", identifier=theirs))
    assert error_of(record) == "idDoesNotExist"
    listed = valid(told(verb="ListRecords", metadataPrefix="oai_dc", set="collection:2"))
    assert error_of(listed) == "noRecordsMatch"
    assert "collection:2" not in texts(valid(told(verb="ListSets")), "ListSets/set/setSpec")


def test_a_viewer_may_look_at_it_in_a_browser(browser: Browser, vic: str) -> None:
    browser.log_in("vic")
    assert browser.get(IDENTIFY).status_code == 200


# How it is asked


def test_arguments_come_in_the_address_or_as_a_form(browser: Browser, collection: Collection) -> None:
    arguments = {"verb": "ListSets"}
    by_get, by_post = browser.get("/oai", params=arguments), browser.post("/oai", data=arguments)
    for answer in (by_get, by_post):
        assert "collection:1" in texts(valid(answer.content), "ListSets/set/setSpec")


def test_it_names_whom_the_operator_has_chosen_to_write_to(browser: Browser) -> None:
    use_settings(get_settings().model_copy(update={"oai_admin_email": "ann@alder.example"}))
    assert texts(valid(browser.get(IDENTIFY).content), "Identify/adminEmail") == ["ann@alder.example"]


def test_what_the_protocol_calls_an_error_is_an_answer(browser: Browser) -> None:
    answer = browser.get("/oai?verb=ListRecords&metadataPrefix=mods")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/xml; charset=utf-8")
    assert error_of(valid(answer.content)) == "cannotDisseminateFormat"
    twice = browser.get("/oai?verb=Identify&verb=Identify")
    assert error_of(valid(twice.content)) == "badVerb"


def test_behind_a_proxy_it_gives_the_proxys_address(browser: Browser, ann: str, session: Session) -> None:
    shown = {"Authorization": f"Bearer {make_token(session)}", "Host": "accession.example.org"}
    answer = browser.get(IDENTIFY, headers=shown)
    assert texts(valid(answer.content), "Identify/baseURL") == ["http://accession.example.org/oai"]


def test_a_body_without_end_is_refused(browser: Browser) -> None:
    answer = browser.post("/oai", content=b"verb=" + b"x" * 70_000)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_strange_host_breaks_nothing(browser: Browser, ann: str, session: Session) -> None:
    token = make_token(session)
    for host in ("[", "<&>", "a b", "\x7f"):
        answer = browser.get(IDENTIFY, headers={"Authorization": f"Bearer {token}", "Host": host})
        assert answer.status_code == 200
        assert b"<protocolVersion>" in answer.content


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.binary(max_size=200), as_form=st.booleans())
def test_whatever_is_sent_a_valid_document_answers(browser: Browser, sent: bytes, as_form: bool) -> None:
    if as_form:
        answer = browser.post("/oai", content=sent)
    else:
        percent = "".join(f"%{byte:02x}" if byte % 3 else chr(byte % 95 + 32) for byte in sent)
        answer = browser.request("GET", f"/oai?verb=ListRecords&metadataPrefix=oai_dc&{percent}")
    assert answer.status_code == 200
    valid(answer.content)


# A harvest


def test_a_harvester_reads_what_there_is(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    change(session, make_pool(session, collection, "solaris"), "solaris", title="Solaris")
    sickle = harvester(client)
    assert sickle.Identify().deletedRecord == "persistent"
    assert {each.metadataPrefix for each in sickle.ListMetadataFormats()} == {"oai_dc", "marc21"}
    assert "Alder Library" in [each.setName for each in sickle.ListSets()]
    (header,) = sickle.ListIdentifiers(metadataPrefix="oai_dc")
    told: Record = sickle.GetRecord(identifier=header.identifier, metadataPrefix="oai_dc")
    assert told.metadata["title"] == ["Solaris"]
    assert told.metadata["creator"] == ["Stanisław Lem"]


def test_of_a_catalogue_that_changes_all_the_while_nothing_is_missed_and_nothing_doubled(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    fill(session, collection, TITLES)
    birch = make_collection(session, "Birch Library")
    sickle = harvester(client)
    changes = Changes(session, collection)
    going = sickle.ListRecords(metadataPrefix="oai_dc")
    (begun,) = texts(going.oai_response.xml, "responseDate")
    told: list[Record] = []
    for record in going:
        told.append(record)
        if len(told) % 1500 == 0:
            changes.make(len(told))
    last = going.oai_response.xml.findtext(f"{OAI}responseDate")

    names = [vendors_id(record.header.identifier) for record in told]
    assert names == [f"t{number}" for number in range(1, TITLES + 1)]
    for name, record in zip(names, told, strict=True):
        assert record.deleted == (name in changes.removed_ahead)
        if not record.deleted:
            expected = "Changed" if name in changes.changed_ahead else f"Title {name}"
            assert record.metadata["title"] == [expected]

    # Whichever page's date it begins at the next time, it gets every change and nothing else.
    assert last == begun
    make_pool(session, birch, "of-birch")
    harvested = list(sickle.ListIdentifiers(metadataPrefix="oai_dc", **{"from": begun}))
    found = [vendors_id(header.identifier) for header in harvested]
    assert len(found) == len(set(found))
    assert set(found) == changes.all | {"of-birch"}
    gone = {vendors_id(header.identifier) for header in harvested if header.deleted}
    assert gone == changes.removed


class Changes:
    """Changes to a catalogue at a place of a harvest: in its back, ahead of it, and at its end."""

    def __init__(self, session: Session, collection: Collection) -> None:
        self._session = session
        self._collection = collection
        self.changed_ahead: set[str] = set()
        self.removed_ahead: set[str] = set()
        self.removed: set[str] = set()
        self.all: set[str] = set()

    def make(self, place: int) -> None:
        behind, gone_behind = f"t{place - 700}", f"t{place - 600}"
        self._change(behind, title="Changed")
        self._change(gone_behind, licenses_owned=0, licenses_available=0)
        self.removed.add(gone_behind)
        added = f"added-{place}"
        self.all.add(added)
        change(self._session, make_pool(self._session, self._collection, added), added)
        # Beyond the page that is being read, which is of a moment before.
        for distance in (150, 900):
            if place + distance < TITLES:
                self._change(f"t{place + distance}", title="Changed")
                self.changed_ahead.add(f"t{place + distance}")
                gone = f"t{place + distance + 1}"
                self._change(gone, licenses_owned=0, licenses_available=0)
                self.removed_ahead.add(gone)
                self.removed.add(gone)

    def _change(self, name: str, **changes: object) -> None:
        self.all.add(name)
        pool = self._session.get(LicensePool, int(name.removeprefix("t")))
        assert pool is not None
        change(self._session, pool, name, **changes)


def test_a_harvest_goes_on_after_a_restart(
    browser: Browser, session: Session, collection: Collection
) -> None:
    from accession.web.app import create_app

    fill(session, collection, 150)
    with served(browser.app) as client:
        going = harvester(client).ListIdentifiers(metadataPrefix="oai_dc")
        token = going.resumption_token.token
    with served(create_app()) as client:
        rest = list(harvester(client).ListIdentifiers(resumptionToken=token))
    assert [vendors_id(header.identifier) for header in rest] == [f"t{number}" for number in range(101, 151)]


def test_a_harvester_that_posts_needs_a_token_in_an_open_house_too(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    make_pool(session, collection, "solaris")
    assert client.post("/oai", data={"verb": "Identify"}).status_code == 403
    shown = {"Authorization": f"Bearer {make_token(session, role=UserRole.VIEWER)}"}
    headers: list[Header] = list(
        harvester(client, http_method="POST", headers=shown).ListIdentifiers(metadataPrefix="marc21")
    )
    assert [vendors_id(header.identifier) for header in headers] == ["solaris"]


def test_a_title_that_many_share_is_a_record_of_each(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    birch = make_collection(session, "Birch Library")
    for each in (collection, birch):
        make_pool(session, each, "solaris")
    session.execute(text("UPDATE license_pools SET updated_at = now() - interval '1 day'"))
    session.commit()
    headers = list(harvester(client).ListIdentifiers(metadataPrefix="oai_dc"))
    assert [header.setSpecs for header in headers] == [["collection:1"], ["collection:2"]]
    assert len({header.identifier for header in headers}) == 2
