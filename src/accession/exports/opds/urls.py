"""URLs of OPDS documents."""

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from accession.exports.opds.models import FEED_TYPE, Link
from accession.exports.templates import fill_vendor_url


@dataclass(frozen=True)
class UrlBuilder:
    """Builder of URLs below `root`, such as `https://library.example/opds/v2`.

    `token` is the token in the URL of the request; it is repeated in all URLs, because the client could not
    follow them without it.
    """

    root: str
    token: str | None = None

    def build(self, *segments: object, **query: object) -> str:
        """Return the URL of these path segments; query parameters that are None or empty are omitted."""
        path = "".join(f"/{quote(str(segment), safe='')}" for segment in segments)
        parameters = {name: str(value) for name, value in query.items() if value}
        if self.token is not None:
            parameters["token"] = self.token
        return f"{self.root}{path}" + (f"?{urlencode(parameters)}" if parameters else "")


@dataclass(frozen=True)
class FeedCollection:
    """A collection as its feeds need it.

    Attributes:
        urls: Builder of the URLs of the feeds.
        collection_id: Id of the collection.
        name: Name of the collection.
        library_id: Vendor's id of the library.
        title_url_template: URL of the vendor's page of a title (`vendor_page_url`).
        bisac_subjects: Subjects of the titles that are BISAC headings.
    """

    urls: UrlBuilder
    collection_id: int
    name: str
    library_id: str
    title_url_template: str
    bisac_subjects: Collection[str] = ()

    def build_url(self, *segments: object, **query: object) -> str:
        """Return a URL below that of the collection."""
        return self.urls.build("collections", self.collection_id, *segments, **query)

    def vendor_page_url(self, identifier: str) -> str:
        """Return the URL of the vendor's page of a title."""
        return fill_vendor_url(self.title_url_template, self.library_id, identifier)

    def navigation_links(self) -> tuple[Link, ...]:
        """Return the links that all feeds of the collection have: start, up and search."""
        url = self.build_url("search")
        search = f"{url}{{&query}}" if "?" in url else f"{url}{{?query}}"
        return (
            Link(rel="start", href=self.urls.build(), type=FEED_TYPE),
            Link(rel="up", href=self.build_url(), type=FEED_TYPE, title=self.name),
            Link(rel="search", href=search, type=FEED_TYPE, templated=True),
        )
