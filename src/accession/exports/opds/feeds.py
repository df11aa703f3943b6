"""OPDS feeds: root, collection, and pages of titles with facets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from accession.catalog.facets import Facets
from accession.catalog.search import TitlePage
from accession.catalog.titles import TitleView
from accession.core.labels import value_label
from accession.exports.opds.models import FEED_TYPE, Facet, Feed, FeedMetadata, Group, Link
from accession.exports.opds.publications import build_publication
from accession.exports.opds.urls import FeedCollection, UrlBuilder

_AVAILABILITIES = {
    "available": "Available now",
    "on_hold": "Unavailable, place hold",
    "on_order": "On order",
}


def build_root_feed(urls: UrlBuilder, collections: Iterable[tuple[int, str]]) -> Feed:
    """Return the root feed, which links to collections given as (id, name)."""
    return Feed(
        metadata=FeedMetadata(title="Accession"),
        links=(
            Link(rel="self", href=urls.build(), type=FEED_TYPE),
            Link(rel="start", href=urls.build(), type=FEED_TYPE),
        ),
        navigation=tuple(
            Link(rel="subsection", href=urls.build("collections", number), type=FEED_TYPE, title=name)
            for number, name in collections
        ),
    )


@dataclass(frozen=True)
class TitleGroup:
    """A few titles of a list.

    Attributes:
        name: Name of the list.
        titles: First titles of the list.
        filters: Query parameters that select the complete list.
        total: Number of titles of the complete list, None if it is not known.
    """

    name: str
    titles: Sequence[TitleView]
    filters: Mapping[str, object]
    total: int | None = None


def build_collection_feed(
    collection: FeedCollection, title_groups: Iterable[TitleGroup], facets: Facets
) -> Feed:
    """Return the start feed of a collection; groups without titles are omitted."""
    return Feed(
        metadata=FeedMetadata(title=collection.name),
        links=(
            Link(rel="self", href=collection.build_url(), type=FEED_TYPE),
            *collection.navigation_links(),
        ),
        navigation=(
            Link(
                rel="subsection",
                href=collection.build_url("publications"),
                type=FEED_TYPE,
                title="All titles",
            ),
        ),
        facets=_build_facets(collection, facets),
        groups=tuple(_build_group(collection, group) for group in title_groups if group.titles),
    )


def _build_group(collection: FeedCollection, group: TitleGroup) -> Group:
    return Group(
        metadata=FeedMetadata(title=group.name, number_of_items=group.total),
        links=(Link(rel="self", href=collection.build_url("publications", **group.filters), type=FEED_TYPE),),
        publications=tuple(build_publication(collection, title) for title in group.titles),
    )


@dataclass(frozen=True)
class PublicationsPage:
    """A page of a list of titles.

    Attributes:
        titles: Titles of the page.
        size: Maximum number of titles per page.
        number: Number of the page, from 1.
        position: Query parameter `page` of the request, None on the first page.
        previous_cursor: Cursor of the previous page, None if that is the first.
        path: Last path segment of the list's URL.
        filters: Query parameters that select the list.
    """

    titles: TitlePage
    size: int
    number: int
    position: str | None
    previous_cursor: str | None
    path: Literal["publications", "search"]
    filters: Mapping[str, object]


def build_publications_feed(collection: FeedCollection, page: PublicationsPage, facets: Facets) -> Feed:
    """Return a page of a collection's titles or of search results."""
    return Feed(
        metadata=FeedMetadata(
            title=f"{collection.name}: {page.filters.get('query') or 'all titles'}",
            number_of_items=page.titles.total if page.titles.total_is_exact else None,
            items_per_page=page.size,
            current_page=page.number,
        ),
        links=(*_paging_links(collection, page), *collection.navigation_links()),
        facets=_build_facets(collection, facets, page.path, page.filters),
        publications=tuple(build_publication(collection, title) for title in page.titles.titles),
    )


def _paging_links(collection: FeedCollection, page: PublicationsPage) -> Iterator[Link]:
    def link(rel: str, position: str | None) -> Link:
        return Link(
            rel=rel, href=collection.build_url(page.path, **page.filters, page=position), type=FEED_TYPE
        )

    yield link("self", page.position)
    yield link("first", None)
    if page.position is not None:
        previous = f"{max(1, page.number - 1)}.{page.previous_cursor}" if page.previous_cursor else None
        yield link("previous", previous)
    if page.titles.next is not None:
        yield link("next", f"{page.number + 1}.{page.titles.next}")
    else:
        yield link("last", page.position)


def _build_facets(
    collection: FeedCollection,
    facets: Facets,
    path: str = "publications",
    filters: Mapping[str, object] | None = None,
) -> tuple[Facet, ...]:
    """Return links that filter the list further, or remove a filter; the active one has the rel `self`."""
    options = {
        "availability": ("Availability", _AVAILABILITIES),
        "format": ("Format", {value: value_label("format", value) for value in facets.formats}),
        "language": ("Language", {value: value_label("language", value) for value in facets.languages}),
    }
    current = filters or {}

    def link(name: str, value: str | None, title: str) -> Link:
        is_active = filters is not None and current.get(name) == value
        url = collection.build_url(path, **{**current, name: value})
        return Link(rel="self" if is_active else None, href=url, type=FEED_TYPE, title=title)

    return tuple(
        Facet(
            metadata=FeedMetadata(title=facet_title),
            links=(link(name, None, "All"), *(link(name, value, title) for value, title in values.items())),
        )
        for name, (facet_title, values) in options.items()
        if values
    )
