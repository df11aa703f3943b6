"""What harvesters of OAI-PMH do, and catalogues worth a harvest."""

from collections.abc import Iterable
from pathlib import Path

from lxml import etree
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_titles
from accession.catalog.models import Collection, LicensePool
from accession.clock import utc_now
from accession.exports.oai import NAMESPACE, Repository, respond
from tests.making import SOURCE, title_data

REPOSITORY = Repository("http://127.0.0.1:8642/oai", "ann@alder.example")
SCHEMA = etree.XMLSchema(etree.parse(Path(__file__).parent / "schemas" / "oai-pmh.xsd"))
OAI = f"{{{NAMESPACE}}}"
DC = "{http://purl.org/dc/elements/1.1/}"
MARC = "{http://www.loc.gov/MARC21/slim}"

_FILL = """
WITH named AS (
    INSERT INTO identifiers (type, identifier)
    SELECT 'Bibliotheca ID', 't' || number FROM generate_series(1, :titles) AS number ORDER BY number
    RETURNING id, identifier
), described AS (
    INSERT INTO editions (data_source, identifier_id, title, format, medium, created_at, updated_at)
    SELECT :source, id, 'Title ' || identifier, 'epub', 'book', :at, :at FROM named
)
INSERT INTO license_pools
    (collection_id, identifier_id, data_source, licenses_owned, status, created_at, updated_at)
SELECT :collection, id, :source, 2, 'active', :at, :at FROM named ORDER BY id
"""


def fill(session: Session, collection: Collection, titles: int, *, days_ago: int = 2) -> None:
    """Committed afterwards: titles t1, t2, ... of the collection in the order of their pools, last modified
    these days ago."""
    at = text("SELECT now() - make_interval(days => :days_ago)").bindparams(days_ago=days_ago)
    row = {"titles": titles, "source": SOURCE, "collection": collection.id, "at": session.scalar(at)}
    session.execute(text(_FILL), row)
    session.commit()


def change(session: Session, pool: LicensePool, identifier: str, **changes: object) -> None:
    """What the vendor says of the title now, committed."""
    apply_titles(session, {pool.id: title_data(identifier, as_of=utc_now(), **changes)})
    session.commit()


def valid(document: bytes) -> etree._Element:
    """The root of a document that the schemas of protocol and formats allow."""
    root = etree.fromstring(document)
    SCHEMA.assertValid(root)
    return root


def ask(session: Session, *arguments: tuple[str, str], **more: str) -> etree._Element:
    """The root of the valid document that answers; `from_` is `from`."""
    named = [(name.rstrip("_"), value) for name, value in more.items()]
    return valid(respond(session, REPOSITORY, [*arguments, *named]))


def texts(root: etree._Element, path: str) -> list[str]:
    """The text of each element of the protocol that the path, of their names, leads to."""
    return [found.text or "" for found in root.iterfind("/".join(f"{OAI}{name}" for name in path.split("/")))]


def error_of(root: etree._Element) -> str | None:
    """The protocol's code of the error that the document tells, or none."""
    error = root.find(f"{OAI}error")
    return None if error is None else error.get("code")


def identifiers(root: etree._Element) -> list[str]:
    """The vendor's ids of the records that a page of identifiers tells of."""
    return [vendors_id(each) for each in texts(root, "ListIdentifiers/header/identifier")]


def vendors_id(identifier: str) -> str:
    """The vendor's id in a record's identifier."""
    return identifier.rpartition("/")[2]


def deleted(headers: Iterable[etree._Element]) -> list[bool]:
    """Which of the records that these headers are of are told as deleted."""
    return [header.get("status") == "deleted" for header in headers]
