"""OPDS 2.0: collections and titles as the documents that reading apps and discovery layers take.

After the drafts of OPDS 2.0 (https://drafts.opds.io/opds-2.0) and of the Readium Web Publication Manifest,
whose words the models' fields are. What is not known is left out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, urlencode

import pycountry
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from accession.catalog.search import Facets, TitlePage
from accession.catalog.titles import TitleView
from accession.core.vocabulary import Medium
from accession.db.models import PoolStatus

FEED = "application/opds+json"
PUBLICATION = "application/opds-publication+json"
BORROW = "http://opds-spec.org/acquisition/borrow"
NEWEST = "http://opds-spec.org/sort/new"
BISAC = "http://www.bisg.org/standards/bisac_subject/index.html"

_AVAILABILITIES = {"available": "Available now", "waiting": "To wait for"}


# What a document is made of


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Copies(_Part):
    """How many copies a collection has, and how many of them nobody has borrowed."""

    total: int
    available: int


class Holds(_Part):
    """How many patrons wait."""

    total: int


class Availability(_Part):
    """Whether a title can be borrowed now."""

    state: Literal["available", "unavailable"]


class Properties(_Part):
    """What is said of what a link leads to."""

    copies: Copies | None = None
    holds: Holds | None = None
    availability: Availability


class Link(_Part):
    """An address, or where `templated` an URI template of one (RFC 6570)."""

    href: str
    rel: str | None = None
    type: str
    title: str | None = None
    templated: bool | None = None
    properties: Properties | None = None


class Contributor(_Part):
    """A person or an organization."""

    name: str


class Heading(_Part):
    """A subject; `scheme` says which list of headings it is of."""

    name: str
    scheme: str | None = None


class PublicationMetadata(_Part):
    """A title's description. `duration` is in seconds, `language` a tag of BCP 47."""

    kind: str = Field(alias="@type")
    title: str
    subtitle: str | None = None
    identifier: str
    alt_identifier: tuple[str, ...] | None = None
    author: tuple[Contributor, ...] | None = None
    narrator: tuple[Contributor, ...] | None = None
    publisher: Contributor | None = None
    published: date | None = None
    modified: datetime
    language: str | None = None
    subject: tuple[Heading, ...] | None = None
    description: str | None = None
    number_of_pages: int | None = None
    duration: float | None = None


class Publication(_Part):
    """A title of a collection."""

    metadata: PublicationMetadata
    links: tuple[Link, ...]
    images: tuple[Link, ...]


class ListMetadata(_Part):
    """What a list of titles or links is, and which part of it is here."""

    title: str
    number_of_items: int | None = None
    items_per_page: int | None = None
    current_page: int | None = None


class Facet(_Part):
    """Ways to narrow a list, of which one can be taken."""

    metadata: ListMetadata
    links: tuple[Link, ...]


class Group(_Part):
    """Some titles of a list, and where all of it is."""

    metadata: ListMetadata
    links: tuple[Link, ...]
    publications: tuple[Publication, ...]


class Feed(_Part):
    """A document of links, of groups or of titles."""

    metadata: ListMetadata
    links: tuple[Link, ...]
    navigation: tuple[Link, ...] | None = None
    facets: tuple[Facet, ...] | None = None
    groups: tuple[Group, ...] | None = None
    publications: tuple[Publication, ...] | None = None


def written(document: Feed | Publication) -> bytes:
    """The document as JSON; the same one is the same bytes."""
    return document.model_dump_json(by_alias=True, exclude_none=True).encode()


# Where documents are


@dataclass(frozen=True)
class Places:
    """Where documents are served: below `root`, as `https://library.example/opds/v2`.

    Who came by an address with a token in it gets it back in each that leads on, and could not follow them
    else.
    """

    root: str
    token: str | None = None

    def at(self, *steps: object, **query: object) -> str:
        """The address of these steps below the root; what is None or empty is left out of the query."""
        path = "".join(f"/{quote(str(step), safe='')}" for step in steps)
        said = {name: str(value) for name, value in query.items() if value}
        if self.token is not None:
            said["token"] = self.token
        return f"{self.root}{path}" + (f"?{urlencode(said)}" if said else "")


@dataclass(frozen=True)
class Shelf:
    """A collection as it is told of: its titles' vendor's pages are at `title_url_template`, and `bisac` are
    those of its titles' subjects that are headings of BISAC."""

    places: Places
    collection_id: int
    name: str
    library_id: str
    title_url_template: str
    bisac: Collection[str] = ()

    def at(self, *steps: object, **query: object) -> str:
        """The address of these steps below the collection's."""
        return self.places.at("collections", self.collection_id, *steps, **query)

    @property
    def ways(self) -> tuple[Link, ...]:
        """The links that each list of the collection's titles has."""
        address = self.at("search")
        search = f"{address}{{&query}}" if "?" in address else f"{address}{{?query}}"
        return (
            Link(rel="start", href=self.places.at(), type=FEED),
            Link(rel="up", href=self.at(), type=FEED, title=self.name),
            Link(rel="search", href=search, type=FEED, templated=True),
        )


# Documents


def catalog(places: Places, collections: Iterable[tuple[int, str]]) -> Feed:
    """The way to each collection, by its id and name."""
    return Feed(
        metadata=ListMetadata(title="Accession"),
        links=(
            Link(rel="self", href=places.at(), type=FEED),
            Link(rel="start", href=places.at(), type=FEED),
        ),
        navigation=tuple(
            Link(rel="subsection", href=places.at("collections", number), type=FEED, title=name)
            for number, name in collections
        ),
    )


@dataclass(frozen=True)
class Sample:
    """Some titles of a list: of those that `chosen` narrows the collection to. `total` says how many there
    are, where that is known."""

    title: str
    titles: Sequence[TitleView]
    chosen: Mapping[str, object]
    total: int | None = None


def collection_feed(shelf: Shelf, samples: Iterable[Sample], facets: Facets) -> Feed:
    """What a collection has to offer; samples without a title are left out."""
    return Feed(
        metadata=ListMetadata(title=shelf.name),
        links=(Link(rel="self", href=shelf.at(), type=FEED), *shelf.ways),
        navigation=(Link(rel="subsection", href=shelf.at("publications"), type=FEED, title="All titles"),),
        facets=_facets(shelf, facets),
        groups=tuple(_group(shelf, sample) for sample in samples if sample.titles),
    )


def _group(shelf: Shelf, sample: Sample) -> Group:
    return Group(
        metadata=ListMetadata(title=sample.title, number_of_items=sample.total),
        links=(Link(rel="self", href=shelf.at("publications", **sample.chosen), type=FEED),),
        publications=tuple(publication(shelf, title) for title in sample.titles),
    )


@dataclass(frozen=True)
class Part:
    """A part of a list of titles: the `number`th, from 1, as it was asked for at `page`. `previous` is the
    cursor of the part before, None where that is the first; `step` the name of the list in its address, and
    `chosen` what it is narrowed to."""

    found: TitlePage
    size: int
    number: int
    page: str | None
    previous: str | None
    step: Literal["publications", "search"]
    chosen: Mapping[str, object]


def publications_feed(shelf: Shelf, part: Part, facets: Facets) -> Feed:
    """A part of the collection's titles, or of those that were found."""
    return Feed(
        metadata=ListMetadata(
            title=f"{shelf.name}: {part.chosen.get('query') or 'all titles'}",
            number_of_items=part.found.total if part.found.total_is_exact else None,
            items_per_page=part.size,
            current_page=part.number,
        ),
        links=(*_paging(shelf, part), *shelf.ways),
        facets=_facets(shelf, facets, part.step, part.chosen),
        publications=tuple(publication(shelf, title) for title in part.found.titles),
    )


def _paging(shelf: Shelf, part: Part) -> Iterable[Link]:
    def to(rel: str, page: str | None) -> Link:
        return Link(rel=rel, href=shelf.at(part.step, **part.chosen, page=page), type=FEED)

    yield to("self", part.page)
    yield to("first", None)
    if part.page is not None:
        yield to("previous", f"{max(1, part.number - 1)}.{part.previous}" if part.previous else None)
    if part.found.next is not None:
        yield to("next", f"{part.number + 1}.{part.found.next}")
    else:
        yield to("last", part.page)


def _facets(
    shelf: Shelf, facets: Facets, step: str = "publications", chosen: Mapping[str, object] | None = None
) -> tuple[Facet, ...]:
    """The ways to narrow the list, of which those chosen so far can be taken back."""
    offered = {
        "availability": ("Availability", _AVAILABILITIES),
        "format": ("Format", {value: value.upper() for value in facets.formats}),
        "language": ("Language", {value: _name_of_language(value) for value in facets.languages}),
    }
    so_far = chosen or {}

    def to(name: str, value: str | None, words: str) -> Link:
        is_chosen = chosen is not None and so_far.get(name) == value
        address = shelf.at(step, **{**so_far, name: value})
        return Link(rel="self" if is_chosen else None, href=address, type=FEED, title=words)

    return tuple(
        Facet(
            metadata=ListMetadata(title=title),
            links=(to(name, None, "All"), *(to(name, value, words) for value, words in values.items())),
        )
        for name, (title, values) in offered.items()
        if values
    )


# Titles


def publication(shelf: Shelf, title: TitleView) -> Publication:
    """A title of the collection."""
    at_home = shelf.at("publications", title.identifier)
    return Publication(
        metadata=_metadata(shelf, title),
        links=(
            Link(rel="self", href=at_home, type=PUBLICATION),
            Link(
                rel=BORROW,
                href=title_url(shelf.title_url_template, shelf.library_id, title.identifier),
                type="text/html",
                properties=_properties(title),
            ),
        ),
        images=(
            Link(
                href=shelf.at("publications", title.identifier, "cover"),
                # Where the vendor has none, one is drawn.
                type="image/jpeg" if title.cover_url else "image/svg+xml",
            ),
        ),
    )


def title_url(template: str, library_id: str, identifier: str) -> str:
    """The vendor's page of a title, by a template with `{library_id}` and `{identifier}`."""
    named = {"{library_id}": library_id, "{identifier}": identifier}
    for name, value in named.items():
        template = template.replace(name, quote(value, safe=""))
    return template


def _metadata(shelf: Shelf, title: TitleView) -> PublicationMetadata:
    is_heard = title.medium == Medium.AUDIOBOOK
    identifiers = [f"urn:isbn:{isbn}" for isbn in title.isbns]
    identifiers.append(f"urn:bibliotheca:{quote(title.identifier, safe='')}")
    return PublicationMetadata(
        kind="http://schema.org/Audiobook" if is_heard else "http://schema.org/EBook",
        # One that was bought just now may not have been described yet.
        title=title.title or title.identifier,
        subtitle=title.subtitle or None,
        identifier=identifiers[0],
        alt_identifier=tuple(identifiers[1:]) or None,
        author=_people(title.authors),
        narrator=_people(title.narrators),
        publisher=Contributor(name=title.publisher) if title.publisher else None,
        published=_day(title.published),
        modified=title.updated_at,
        language=language_tag(title.language) if title.language else None,
        subject=tuple(
            Heading(name=name, scheme=BISAC if name in shelf.bisac else None) for name in title.subjects
        )
        or None,
        description=title.description or None,
        number_of_pages=title.page_count or None,
        duration=title.duration_ms / 1000 if title.duration_ms else None,
    )


def _people(names: Iterable[str]) -> tuple[Contributor, ...] | None:
    return tuple(Contributor(name=name) for name in names) or None


def _day(published: str | None) -> date | None:
    """The day, where that much is known: readers take nothing shorter."""
    return date.fromisoformat(published) if published and len(published) == len("2016-09-03") else None


def _properties(title: TitleView) -> Properties:
    available = Availability(state="available" if title.licenses_available else "unavailable")
    if title.status == PoolStatus.UNKNOWN:
        return Properties(availability=available)
    return Properties(
        copies=Copies(total=title.licenses_owned, available=title.licenses_available),
        holds=Holds(total=title.patrons_in_hold_queue),
        availability=available,
    )


def language_tag(code: str) -> str:
    """The tag of BCP 47 for a language by its code of ISO 639-2 or 639-3: the code of two letters where it
    has one. What nobody knows is its own tag."""
    language = _language(code)
    return code if language is None else getattr(language, "alpha_2", None) or str(language.alpha_3)


def _name_of_language(code: str) -> str:
    language = _language(code)
    return code if language is None else str(language.name)


@lru_cache(maxsize=1024)
def _language(code: str) -> pycountry.db.Data | None:
    found: pycountry.db.Data | None = pycountry.languages.get(bibliographic=code)
    return found or pycountry.languages.get(alpha_3=code)
