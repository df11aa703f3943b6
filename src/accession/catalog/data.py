"""What a vendor says of a title, in the catalogue's words, before it is stored.

A data class owns its hash and its comparison. The vendor folders make these objects, `apply` writes
them, and the outbox carries them as JSON in between.
"""

import hashlib
import json
from datetime import datetime

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
)

from accession.core.text import _LONGEST_ADDRESS, _LONGEST_SEARCH_TEXT, Count, Name, Text, comparable
from accession.core.vocabulary import Format, IdentifierType, LinkRel, Medium, Role, SubjectScheme

# A new way of hashing is a new version: titles then differ by version, and are applied once more.
HASH_VERSION = 1


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ContributorData(_Data):
    """A person in one role. `sort_name` is "Last, First"; `display_name` is "First Last".

    Names are cut at 300 characters.
    """

    sort_name: Name
    display_name: Name
    role: Role


class SubjectData(_Data):
    """One subject heading, cut at 300 characters."""

    scheme: SubjectScheme
    name: Name


class LinkData(_Data):
    """One web address of a title."""

    rel: LinkRel
    href: Text = Field(min_length=1)


class BibliographicData(_Data):
    """The description of one title by one data source.

    `as_of` is when the source said so (UTC). `published` is an ISO 8601 date of whatever precision the
    source has: `2016`, `2016-09` or `2016-09-03`. `language` is ISO 639-2 (three letters). `isbns` are
    13 digits, the title's own first. `duration_ms` is in milliseconds. Order is kept where it means
    something: contributors, subjects, ISBNs. Links longer than 2,000 bytes, which browsers do not take,
    are left out.
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
    def _addresses_in_use(cls, links: tuple[LinkData, ...]) -> tuple[LinkData, ...]:
        return tuple(link for link in links if len(link.href.encode()) <= _LONGEST_ADDRESS)

    def content_hash(self) -> str:
        """`<version>:<SHA-256>` over everything that describes the title.

        Left out: `as_of`, because a later look at the same description is no change. Circulation is a
        class of its own and takes no part.
        """
        content = self.model_dump(mode="json", exclude={"as_of"})
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return f"{HASH_VERSION}:{hashlib.sha256(canonical.encode()).hexdigest()}"

    def search_text(self) -> str:
        """What the title is found by, in one line, `comparable`: title, subtitle, authors and narrators,
        publisher, ISBNs and identifier."""
        people = dict.fromkeys(each.display_name for each in self.contributors)
        parts = (self.title, self.subtitle, *people, self.publisher, *self.isbns, self.identifier)
        return " ".join(comparable(" ".join(filter(None, parts))).split())[:_LONGEST_SEARCH_TEXT]


class CirculationData(_Data):
    """How many copies of one title the collection has, in copies, as of a moment (UTC).

    `licenses_reserved` is None where the source does not say.
    """

    as_of: AwareDatetime
    licenses_owned: Count
    licenses_available: Count
    patrons_in_hold_queue: Count
    licenses_reserved: Count | None = None


class ApplyData(_Data):
    """What has to be applied to one title of a collection: its counts, and its description where that is
    news."""

    bibliographic: BibliographicData | None = None
    circulation: CirculationData

    @property
    def as_of(self) -> datetime:
        """When the source said so."""
        return self.circulation.as_of


class TitleData(ApplyData):
    """All that a source says of one title in one collection, at one moment."""

    bibliographic: BibliographicData

    @property
    def identifier(self) -> str:
        """The title's identifier at its source."""
        return self.bibliographic.identifier


class EventData(_Data):
    """One thing that happened to a title, at a moment (UTC). Who the patron was is never part of it.

    `event_id` is the source's, and the same whenever the event is told again. `event_type` is one of
    `EventType`, or a word that nobody here knows. Ids and types are cut at 300 characters.
    """

    event_id: Name
    event_type: Name
    identifier: Name
    occurred_at: AwareDatetime
    isbn: str | None = None
