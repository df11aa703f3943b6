"""Models of OPDS 2.0 documents.

The field names are those of OPDS 2.0 and the Readium Web Publication Manifest. Unknown values are omitted.
"""

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

FEED_TYPE = "application/opds+json"
PUBLICATION_TYPE = "application/opds-publication+json"
BORROW_REL = "http://opds-spec.org/acquisition/borrow"
BISAC_SCHEME = "http://www.bisg.org/standards/bisac_subject/index.html"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Copies(_Model):
    """Number of copies that a collection owns and that are available."""

    total: int
    available: int


class Holds(_Model):
    """Number of holds."""

    total: int


class Availability(_Model):
    """Availability for loan; `until` is the time of the next change of the state, where it is known."""

    state: Literal["available", "unavailable"]
    until: datetime | None = None


class Properties(_Model):
    """Properties of an acquisition link."""

    copies: Copies | None = None
    holds: Holds | None = None
    availability: Availability


class Link(_Model):
    """A link; `href` is a URI template (RFC 6570) if `templated`."""

    href: str
    rel: str | None = None
    type: str
    title: str | None = None
    templated: bool | None = None
    properties: Properties | None = None


class Contributor(_Model):
    """A person or an organisation; `role` is a code of the MARC list for relators."""

    name: str
    role: str | None = None


class SubjectHeading(_Model):
    """A subject; `scheme` identifies its vocabulary."""

    name: str
    scheme: str | None = None


class PublicationMetadata(_Model):
    """Metadata of a title. `duration` is in seconds, `language` a BCP 47 tag."""

    kind: str = Field(alias="@type")
    title: str
    subtitle: str | None = None
    identifier: str
    alt_identifier: tuple[str, ...] | None = None
    author: tuple[Contributor, ...] | None = None
    translator: tuple[Contributor, ...] | None = None
    editor: tuple[Contributor, ...] | None = None
    artist: tuple[Contributor, ...] | None = None
    illustrator: tuple[Contributor, ...] | None = None
    letterer: tuple[Contributor, ...] | None = None
    penciler: tuple[Contributor, ...] | None = None
    colorist: tuple[Contributor, ...] | None = None
    inker: tuple[Contributor, ...] | None = None
    narrator: tuple[Contributor, ...] | None = None
    contributor: tuple[Contributor, ...] | None = None
    publisher: Contributor | None = None
    published: date | None = None
    modified: datetime
    language: str | None = None
    subject: tuple[SubjectHeading, ...] | None = None
    description: str | None = None
    number_of_pages: int | None = None
    duration: float | None = None


class Publication(_Model):
    """A title of a collection."""

    metadata: PublicationMetadata
    links: tuple[Link, ...]
    images: tuple[Link, ...]


class FeedMetadata(_Model):
    """Title of a feed, group or facet, and the position of its page in the list."""

    title: str
    number_of_items: int | None = None
    items_per_page: int | None = None
    current_page: int | None = None


class Facet(_Model):
    """Alternative filters of a list."""

    metadata: FeedMetadata
    links: tuple[Link, ...]


class Group(_Model):
    """A few titles of a list, with a link to the complete list."""

    metadata: FeedMetadata
    links: tuple[Link, ...]
    publications: tuple[Publication, ...]


class Feed(_Model):
    """A feed of links, groups or titles."""

    metadata: FeedMetadata
    links: tuple[Link, ...]
    navigation: tuple[Link, ...] | None = None
    facets: tuple[Facet, ...] | None = None
    groups: tuple[Group, ...] | None = None
    publications: tuple[Publication, ...] | None = None


def to_json(document: Feed | Publication) -> bytes:
    """Return the document as JSON; equal documents give equal bytes."""
    return document.model_dump_json(by_alias=True, exclude_none=True).encode()
