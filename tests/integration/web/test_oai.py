"""OAI-PMH over HTTP: access, request forms, and complete harvests with an independent harvester (Sickle)."""

import httpx
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
from tests.fixtures.oai import OAI, change, error_of, fill, texts, validate, vendor_id
from tests.fixtures.web_client import Browser, bearer, make_token
from tests.fixtures.web_server import serve_app

IDENTIFY = "/oai?verb=Identify"


def harvester(client: httpx.Client, **options: object) -> Sickle:
    return Sickle(f"{str(client.base_url).rstrip('/')}/oai", **options)


# Access


def test_harvester_without_users_needs_no_token(browser: Browser) -> None:
    response = browser.get(IDENTIFY, headers={"Sec-Fetch-Site": "none"})
    assert (response.status_code, response.headers["content-type"]) == (200, "text/xml; charset=utf-8")
    assert texts(validate(response.content), "Identify/baseURL") == ["http://127.0.0.1:8642/oai"]


def test_harvester_with_users_needs_a_token(browser: Browser, session: Session, ann: str) -> None:
    assert browser.get(IDENTIFY).status_code == 401
    for token, status in ((make_token(session, role=UserRole.VIEWER), 200), ("acc_none", 401)):
        headers = bearer(token)
        assert browser.get(IDENTIFY, headers=headers).status_code == status
        assert browser.post("/oai", headers=headers, data={"verb": "Identify"}).status_code == status


def test_feed_token_of_collection_only_harvests_that_collection(
    browser: Browser, session: Session, collection: Collection
) -> None:
    make_pool(session, collection, "ours")
    make_pool(session, make_collection(session, "Birch Library"), "theirs")
    identifiers = {}
    for name in (None, collection.name):
        token = add_feed_token(session, f"of {name}", [FeedKind.OAI], name)
        session.commit()
        headers = bearer(token.get_secret_value())
        arguments = {"verb": "ListIdentifiers", "metadataPrefix": "oai_dc"}
        by_get = validate(browser.get("/oai", params=arguments, headers=headers).content)
        by_post = validate(browser.post("/oai", data=arguments, headers=headers).content)
        identifiers[name] = texts(by_get, "ListIdentifiers/header/identifier")
        assert identifiers[name] == texts(by_post, "ListIdentifiers/header/identifier")
    theirs = next(identifier for identifier in identifiers[None] if identifier.endswith("theirs"))
    assert [vendor_id(identifier) for identifier in identifiers[collection.name]] == ["ours"]

    def get(**arguments: str) -> bytes:
        return browser.get("/oai", params=arguments, headers=headers).content

    record = validate(get(verb="GetRecord", metadataPrefix="oai_dc", identifier=theirs))
    assert error_of(record) == "idDoesNotExist"
    records = validate(get(verb="ListRecords", metadataPrefix="oai_dc", set="collection:2"))
    assert error_of(records) == "noRecordsMatch"
    assert "collection:2" not in texts(validate(get(verb="ListSets")), "ListSets/set/setSpec")


def test_logged_in_viewer_can_open_it_in_a_browser(browser: Browser, vic: str) -> None:
    browser.log_in("vic")
    assert browser.get(IDENTIFY).status_code == 200


# Requests and responses


def test_arguments_are_read_from_query_or_form(browser: Browser, collection: Collection) -> None:
    arguments = {"verb": "ListSets"}
    by_get, by_post = browser.get("/oai", params=arguments), browser.post("/oai", data=arguments)
    for response in (by_get, by_post):
        assert "collection:1" in texts(validate(response.content), "ListSets/set/setSpec")


def test_admin_email_is_the_configured_one(browser: Browser) -> None:
    use_settings(get_settings().model_copy(update={"oai_admin_email": "ann@alder.example"}))
    document = validate(browser.get(IDENTIFY).content)
    assert texts(document, "Identify/adminEmail") == ["ann@alder.example"]


def test_protocol_error_is_a_document_with_status_200(browser: Browser) -> None:
    response = browser.get("/oai?verb=ListRecords&metadataPrefix=mods")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/xml; charset=utf-8")
    assert error_of(validate(response.content)) == "cannotDisseminateFormat"
    repeated = browser.get("/oai?verb=Identify&verb=Identify")
    assert error_of(validate(repeated.content)) == "badVerb"


def test_base_url_behind_proxy_has_the_proxys_host(browser: Browser, ann: str, session: Session) -> None:
    headers = {**bearer(make_token(session)), "Host": "accession.example.org"}
    document = validate(browser.get(IDENTIFY, headers=headers).content)
    assert texts(document, "Identify/baseURL") == ["http://accession.example.org/oai"]


def test_oversized_body_is_rejected(browser: Browser) -> None:
    response = browser.post("/oai", content=b"verb=" + b"x" * 70_000)
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"


def test_malformed_host_header_gets_a_response(browser: Browser, ann: str, session: Session) -> None:
    token = make_token(session)
    for host in ("[", "<&>", "a b", "\x7f"):
        response = browser.get(IDENTIFY, headers={**bearer(token), "Host": host})
        assert response.status_code == 200
        assert b"<protocolVersion>" in response.content


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), as_form=st.booleans())
def test_any_request_gets_a_valid_document(browser: Browser, data: bytes, as_form: bool) -> None:
    if as_form:
        response = browser.post("/oai", content=data)
    else:
        query = "".join(f"%{byte:02x}" if byte % 3 else chr(byte % 95 + 32) for byte in data)
        response = browser.request("GET", f"/oai?verb=ListRecords&metadataPrefix=oai_dc&{query}")
    assert response.status_code == 200
    validate(response.content)


# Harvests


def test_harvester_reads_every_verb(client: httpx.Client, session: Session, collection: Collection) -> None:
    change(session, make_pool(session, collection, "solaris"), "solaris", title="Solaris")
    sickle = harvester(client)
    assert sickle.Identify().deletedRecord == "persistent"
    assert {item.metadataPrefix for item in sickle.ListMetadataFormats()} == {"oai_dc", "marc21"}
    assert "Alder Library" in [item.setName for item in sickle.ListSets()]
    (header,) = sickle.ListIdentifiers(metadataPrefix="oai_dc")
    record: Record = sickle.GetRecord(identifier=header.identifier, metadataPrefix="oai_dc")
    assert record.metadata["title"] == ["Solaris"]
    assert record.metadata["creator"] == ["Stanisław Lem"]


TITLES = 800
RECORDS_BETWEEN_CHANGES = 200


def test_harvest_during_changes_has_every_title_once(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    fill(session, collection, TITLES)
    birch = make_collection(session, "Birch Library")
    sickle = harvester(client)
    changes = ConcurrentChanges(session, collection)
    response = sickle.ListRecords(metadataPrefix="oai_dc")
    (started_at,) = texts(response.oai_response.xml, "responseDate")
    records: list[Record] = []
    for record in response:
        records.append(record)
        if len(records) % RECORDS_BETWEEN_CHANGES == 0:
            changes.make(len(records))
    last_date = response.oai_response.xml.findtext(f"{OAI}responseDate")

    names = [vendor_id(record.header.identifier) for record in records]
    assert names == [f"t{number}" for number in range(1, TITLES + 1)]
    for name, record in zip(names, records, strict=True):
        assert record.deleted == (name in changes.removed_ahead)
        if not record.deleted:
            expected = "Changed" if name in changes.changed_ahead else f"Title {name}"
            assert record.metadata["title"] == [expected]

    # The next harvest, from the date of any page of this one, has every change and nothing else.
    assert last_date == started_at
    make_pool(session, birch, "of-birch")
    headers = list(sickle.ListIdentifiers(metadataPrefix="oai_dc", **{"from": started_at}))
    changed = [vendor_id(header.identifier) for header in headers]
    assert len(changed) == len(set(changed))
    assert set(changed) == changes.all | {"of-birch"}
    assert {vendor_id(header.identifier) for header in headers if header.deleted} == changes.removed


class ConcurrentChanges:
    """Changes to titles that a harvest has passed, to titles that it has not reached, and new titles."""

    def __init__(self, session: Session, collection: Collection) -> None:
        self._session = session
        self._collection = collection
        self.changed_ahead: set[str] = set()
        self.removed_ahead: set[str] = set()
        self.removed: set[str] = set()
        self.all: set[str] = set()

    def make(self, position: int) -> None:
        self._change(f"t{position - 180}", title="Changed")
        self._remove(f"t{position - 110}")
        new = f"added-{position}"
        self.all.add(new)
        change(self._session, make_pool(self._session, self._collection, new), new)
        # Beyond the page that is being read, which shows an earlier moment.
        for distance in (150, 280):
            if position + distance < TITLES:
                self._change(f"t{position + distance}", title="Changed")
                self.changed_ahead.add(f"t{position + distance}")
                self._remove(f"t{position + distance + 1}")
                self.removed_ahead.add(f"t{position + distance + 1}")

    def _remove(self, name: str) -> None:
        self._change(name, licenses_owned=0, licenses_available=0)
        self.removed.add(name)

    def _change(self, name: str, **changes: object) -> None:
        self.all.add(name)
        pool = self._session.get(LicensePool, int(name.removeprefix("t")))
        assert pool is not None
        change(self._session, pool, name, **changes)


def test_harvest_continues_after_restart(browser: Browser, session: Session, collection: Collection) -> None:
    from accession.web.app import create_app

    fill(session, collection, 150)
    with serve_app(browser.app) as client:
        headers = harvester(client).ListIdentifiers(metadataPrefix="oai_dc")
        token = headers.resumption_token.token
    with serve_app(create_app()) as client:
        rest = list(harvester(client).ListIdentifiers(resumptionToken=token))
    assert [vendor_id(header.identifier) for header in rest] == [f"t{number}" for number in range(101, 151)]


def test_posting_harvester_without_users_needs_a_token(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    make_pool(session, collection, "solaris")
    assert client.post("/oai", data={"verb": "Identify"}).status_code == 403
    token = make_token(session, role=UserRole.VIEWER)
    headers: list[Header] = list(
        harvester(client, http_method="POST", headers=bearer(token)).ListIdentifiers(metadataPrefix="marc21")
    )
    assert [vendor_id(header.identifier) for header in headers] == ["solaris"]


def test_title_of_two_collections_has_two_records(
    client: httpx.Client, session: Session, collection: Collection
) -> None:
    birch = make_collection(session, "Birch Library")
    for owner in (collection, birch):
        make_pool(session, owner, "solaris")
    session.execute(text("UPDATE license_pools SET updated_at = now() - interval '1 day'"))
    session.commit()
    headers = list(harvester(client).ListIdentifiers(metadataPrefix="oai_dc"))
    assert [header.setSpecs for header in headers] == [["collection:1"], ["collection:2"]]
    assert len({header.identifier for header in headers}) == 2
