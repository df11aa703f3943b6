"""Identifiers of OAI-PMH records: their domain name never changes, and follows the format of identifiers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from accession.catalog.oai_namespace import repository_namespace
from accession.core.settings import get_settings, use_settings
from accession.db.engine import engine
from accession.db.models import Collection, LicensePool
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor, Width
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.signatures import SandboxAccount
from accession.sandbox.vendor import Sandbox
from tests.fixtures.factories import ACCOUNT_KEY, day, make_collection, make_hourly_pools, make_pool
from tests.fixtures.holdings import commit_and_apply
from tests.fixtures.oai import OAI, deletion_states, identifier_of, send_request, texts
from tests.fixtures.running_sandbox import running_sandbox

SCHEME = "{http://www.openarchives.org/OAI/2.0/oai-identifier}"


@pytest.fixture
def configured() -> Iterator[Any]:
    """A function that changes settings until the test ends."""
    before = get_settings()
    yield lambda **changes: use_settings(before.model_copy(update=changes))
    use_settings(before)


@pytest.fixture
def pools(session: Session, collection: Collection) -> list[LicensePool]:
    return make_hourly_pools(session, collection)


def namespace_of(session: Session) -> str:
    """Return the domain name in the identifier of a record."""
    scheme, namespace, local = identifier_of(session, "a").split(":")
    assert (scheme, local) == ("oai", "1/a")
    session.commit()
    return namespace


def test_namespace_is_the_host_of_the_public_url(
    session: Session, pools: list[LicensePool], configured: Any
) -> None:
    configured(public_url="https://books.library.example:8443/accession")
    assert namespace_of(session) == "books.library.example"

    configured(public_url="https://other.example")
    assert namespace_of(session) == "books.library.example", "it stays"
    configured(public_url=None)
    assert namespace_of(session) == "books.library.example"


@pytest.mark.parametrize("url", [None, "http://localhost:8642", "http://127.0.0.1", "https://3m.example"])
def test_namespace_is_unique_without_a_usable_host(
    session: Session, pools: list[LicensePool], configured: Any, url: str | None
) -> None:
    configured(public_url=url)
    first = namespace_of(session)
    assert first.startswith("accession-")
    assert first.endswith(".invalid")

    configured(public_url="https://books.library.example")
    assert namespace_of(session) == first, "records were identified by it"


def test_configured_namespace_takes_precedence(
    session: Session, pools: list[LicensePool], configured: Any
) -> None:
    configured(public_url="https://books.library.example")
    namespace_of(session)
    configured(oai_namespace="consortium.example")
    assert namespace_of(session) == "consortium.example"


def test_configured_namespace_of_first_use_stays_when_unset(
    session: Session, pools: list[LicensePool], configured: Any
) -> None:
    configured(oai_namespace="consortium.example")
    namespace_of(session)
    configured(oai_namespace=None, public_url="https://books.library.example")
    assert namespace_of(session) == "consortium.example", "records were identified by it"


def test_concurrent_first_uses_agree(session: Session, pools: list[LicensePool], configured: Any) -> None:
    session.commit()

    def first_use(number: int) -> str:
        with Session(engine()) as other, other.begin():
            return repository_namespace(other)

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(first_use, range(4)))) == 1


def test_empty_repository_stores_no_namespace(session: Session, configured: Any) -> None:
    response = send_request(session, verb="Identify")
    assert response.findtext(f".//{SCHEME}repositoryIdentifier") == "accession.invalid"
    session.commit()
    pool = make_pool(session, make_collection(session, "Alder Library"), "a")
    assert pool.id
    assert namespace_of(session) != "accession.invalid"


def test_identify_describes_the_identifiers(session: Session, pools: list[LicensePool]) -> None:
    description = send_request(session, verb="Identify").find(f"{OAI}Identify/{OAI}description/*")
    assert description is not None
    namespace = namespace_of(session)
    assert {element.tag: element.text for element in description} == {
        f"{SCHEME}scheme": "oai",
        f"{SCHEME}repositoryIdentifier": namespace,
        f"{SCHEME}delimiter": ":",
        f"{SCHEME}sampleIdentifier": f"oai:{namespace}:1/abc123",
    }


def test_every_response_of_an_odd_catalogue_is_valid(session: Session) -> None:
    """Among its titles are invalid MARC records, and titles without metadata or with strange characters."""
    since, until = day(2024, 1, 1), day(2024, 3, 1)
    catalogue = build_catalogue(130, since, until)
    account = SandboxAccount("alder", "library.alder", ACCOUNT_KEY)
    with running_sandbox(Sandbox(catalogue, account)) as vendor:
        collection = make_collection(session, "Alder Library")
        collection.base_url = vendor.base_url
        session.commit()
        import_catalogue(session, collection, ImportCursor(since), until)
    for prefix in ("oai_dc", "marc21"):
        records = send_request(session, verb="ListRecords", metadataPrefix=prefix)
        token = records.findtext(f"*/{OAI}resumptionToken")
        assert token
        rest = send_request(session, verb="ListRecords", resumptionToken=token)
        headers = [*records.iterfind(f".//{OAI}header"), *rest.iterfind(f".//{OAI}header")]
        assert len(headers) > 120
        assert not any(deletion_states(headers))
        for header in headers:
            identifier = header.findtext(f"{OAI}identifier") or ""
            record = send_request(session, verb="GetRecord", identifier=identifier, metadataPrefix=prefix)
            assert texts(record, "GetRecord/record/header/identifier") == [identifier]


def import_catalogue(session: Session, collection: Collection, cursor: ImportCursor, until: Any) -> None:
    """Import everything until a time, with the metadata."""
    importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))
    now = until + timedelta(hours=1)
    while not cursor.is_complete(now):
        page = importer.import_day(cursor, now, Width.MONTH)
        commit_and_apply(session, page.outbox_ids)
        cursor = page.next_cursor
