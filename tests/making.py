"""Making what tests start from."""

from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.catalog.collections import add_collection
from accession.catalog.data import (
    BibliographicData,
    CirculationData,
    ContributorData,
    Format,
    IdentifierType,
    LinkData,
    LinkRel,
    Medium,
    Role,
    SubjectData,
    SubjectScheme,
    TitleData,
)
from accession.catalog.models import Collection, LicensePool

SOURCE = "Bibliotheca"
ACCOUNT_KEY = "alder-account-key"
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def day(year: int, month: int, number: int, hour: int = 0, minute: int = 0) -> datetime:
    """A moment in UTC."""
    return datetime(year, month, number, hour, minute, tzinfo=UTC)


def make_collection(session: Session, name: str) -> Collection:
    """A committed collection whose vendor is on this machine."""
    collection = add_collection(
        session,
        name=name,
        library_id="alder",
        account_id="library.alder",
        account_key=SecretStr(ACCOUNT_KEY),
        base_url="http://127.0.0.1:9",
    )
    session.commit()
    return collection


def make_pool(session: Session, collection: Collection, identifier: str) -> LicensePool:
    """A committed pool of the collection."""
    pool, _ = LicensePool.for_foreign_id(
        session, SOURCE, IdentifierType.BIBLIOTHECA, identifier, collection=collection
    )
    session.commit()
    return pool


def person(sort_name: str, role: Role = Role.AUTHOR) -> ContributorData:
    """A contributor by "Last, First"."""
    last, _, first = sort_name.partition(", ")
    return ContributorData(sort_name=sort_name, display_name=f"{first} {last}".strip(), role=role)


def subject(name: str) -> SubjectData:
    """A BISAC subject."""
    return SubjectData(scheme=SubjectScheme.BISAC, name=name)


def title_data(identifier: str, *, as_of: datetime = NOON, **changes: Any) -> TitleData:
    """A title as a vendor may describe it; `changes` to its description or its counts."""
    counts = {"licenses_owned": 2, "licenses_available": 1, "patrons_in_hold_queue": 0}
    described: dict[str, Any] = {
        "title": f"Title {identifier}",
        "contributors": (person("Lem, Stanisław"), person("Reader, Rita", Role.NARRATOR)),
        "publisher": "Wydawnictwo",
        "published": "1961",
        "language": "pol",
        "isbns": ("9788308068298",),
        "subjects": (subject("FICTION / Science Fiction"),),
        "links": (LinkData(rel=LinkRel.COVER, href="https://images.example/1"),),
        "medium": Medium.BOOK,
        "format": Format.EPUB,
    }
    for name, value in changes.items():
        (counts if name in counts or name == "licenses_reserved" else described)[name] = value
    return TitleData(
        bibliographic=BibliographicData(
            data_source=SOURCE,
            identifier_type=IdentifierType.BIBLIOTHECA,
            identifier=identifier,
            as_of=as_of,
            **described,
        ),
        circulation=CirculationData(as_of=as_of, **counts),
    )
