"""Data classes for titles, copy counts and events, independent of the vendor that sent them.

The vendor's package creates these objects, the outbox stores them as JSON, and the apply writes them to the
catalogue.
"""

import hashlib
import json
from datetime import datetime
from functools import cached_property
from typing import Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
)

from accession.core.articles import article_length
from accession.core.text import (
    MAX_SEARCH_TEXT_LENGTH,
    MAX_URL_BYTES,
    Count,
    Name,
    Text,
    normalise_text,
    sort_text,
)
from accession.core.vocabulary import (
    Audience,
    ContributorRole,
    Format,
    IdentifierType,
    LinkRel,
    Medium,
    SubjectScheme,
)

# Raise it when the way of hashing changes: every title then differs and is applied once more.
HASH_VERSION = 1

_encode_canonically = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False
).encode


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ContributorData(_Data):
    """A person or an organisation in one role.

    `sort_name` is "Last, First, dates" (`accession.core.names`) and `display_name` "First Last", each cut at
    300 characters.
    """

    sort_name: Name
    display_name: Name
    role: ContributorRole


class SubjectData(_Data):
    """A subject heading, cut at 300 characters."""

    scheme: SubjectScheme
    name: Name


class LinkData(_Data):
    """A web address that belongs to a title."""

    rel: LinkRel
    href: Text = Field(min_length=1)


class BibliographicData(_Data):
    """Metadata of one title from one data source.

    Attributes:
        as_of: When the source returned the metadata (UTC).
        published: ISO 8601 date in the source's precision: `2016`, `2016-09` or `2016-09-03`.
        language: ISO 639-2 code of three letters.
        isbns: ISBN-13s, the title's own first.
        duration_ms: Playing time in milliseconds.
        links: Web addresses; those longer than 2,000 bytes, which browsers do not open, are left out.

    The order of contributors, subjects and ISBNs is kept, because it has a meaning.
    """

    data_source: Text
    identifier_type: IdentifierType
    identifier: Text = Field(min_length=1)
    as_of: AwareDatetime
    title: Text = Field(min_length=1)
    subtitle: Text | None = None
    contributors: tuple[ContributorData, ...] = ()
    publisher: Text | None = None
    published: str | None = Field(default=None, pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")
    on_sale: str | None = Field(default=None, pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")
    language: str | None = Field(default=None, pattern=r"^[a-z]{3}$")
    isbns: tuple[str, ...] = ()
    subjects: tuple[SubjectData, ...] = ()
    description: Text | None = None
    links: tuple[LinkData, ...] = ()
    page_count: Count | None = None
    duration_ms: int | None = Field(default=None, ge=0)
    medium: Medium
    format: Format | None = None

    @field_validator("links")
    @classmethod
    def _drop_long_links(cls, links: tuple[LinkData, ...]) -> tuple[LinkData, ...]:
        return tuple(link for link in links if len(link.href.encode()) <= MAX_URL_BYTES)

    def content_hash(self) -> str:
        """Return `<version>:<SHA-256>` of the canonical JSON of every field but `as_of`, computed once.

        The same metadata fetched later has the same hash.
        """
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        # Without `mode="json"`, which takes longer: apart from `as_of` all values are texts and numbers.
        canonical = _encode_canonically(self.model_dump(exclude={"as_of"}))
        return f"{HASH_VERSION}:{hashlib.sha256(canonical.encode()).hexdigest()}"

    def search_text(self) -> str:
        """Return the text that a search looks in, as one normalised line.

        It holds title, subtitle, contributors, publisher, ISBNs and identifier.
        """
        people = dict.fromkeys(each.display_name for each in self.contributors)
        parts = (self.title, self.subtitle, *people, self.publisher, *self.isbns, self.identifier)
        return " ".join(normalise_text(" ".join(filter(None, parts))).split())[:MAX_SEARCH_TEXT_LENGTH]

    def sort_title(self) -> str:
        """Return the text by which to sort the title: see `sort_text`, and without an initial article."""
        return sort_text(self.title[article_length(self.title, self.language) :])

    def sort_author(self) -> str | None:
        """Return the text by which to sort the first author; without an author, the first contributor."""
        people = [each for each in self.contributors if each.role != ContributorRole.NARRATOR]
        people.sort(key=lambda each: each.role != ContributorRole.AUTHOR)
        return sort_text(people[0].sort_name) if people else None

    def audience(self) -> Audience | None:
        """Return the audience by the first BISAC subject, or None without any."""
        subjects = (each.name for each in self.subjects if each.scheme is SubjectScheme.BISAC)
        return next(map(_audience_of_subject, subjects), None)


def _audience_of_subject(name: str) -> Audience:
    """Return the audience of a BISAC subject heading, such as `JUVENILE FICTION / Fantasy`."""
    category = name.upper()
    if category.startswith("JUVENILE "):
        return Audience.CHILDREN
    return Audience.YOUNG_ADULT if category.startswith("YOUNG ADULT ") else Audience.GENERAL


class CirculationData(_Data):
    """Copy counts of one title in one collection as of a moment (UTC): a snapshot.

    `licenses_reserved` is None where the source does not report it.
    """

    as_of: AwareDatetime
    licenses_owned: Count
    licenses_available: Count
    patrons_in_hold_queue: Count
    licenses_reserved: Count | None = None


class ApplyData(_Data):
    """A pending change of one title of a collection: its counts, and its metadata if that has changed.

    In the outbox `metadata_hash` is the content hash of the metadata, so that it is computed once.
    """

    bibliographic: BibliographicData | None = None
    circulation: CirculationData
    metadata_hash: str | None = None

    @property
    def as_of(self) -> datetime:
        """Return when the source returned the data (UTC)."""
        return self.circulation.as_of

    def with_hash(self) -> Self:
        """Return the data with the hash of its metadata, if it has any."""
        if self.bibliographic is None:
            return self
        return self.model_copy(update={"metadata_hash": self.bibliographic.content_hash()})


class TitleData(ApplyData):
    """Metadata and counts of one title in one collection, from one response."""

    bibliographic: BibliographicData

    @property
    def identifier(self) -> str:
        """Return the source's identifier of the title."""
        return self.bibliographic.identifier


class EventData(_Data):
    """A circulation event of a title at a moment (UTC), without any data about the patron.

    `event_id` is the source's and stays the same when the event is delivered again. `event_type` is an
    `EventType`, or an unknown type. Ids and types are cut at 300 characters.
    """

    event_id: Name
    event_type: Name
    identifier: Name
    occurred_at: AwareDatetime
    isbn: str | None = None
