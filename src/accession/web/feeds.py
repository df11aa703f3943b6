"""Addresses of the feeds and export files that programs read, for people who set these programs up."""

import shlex
from dataclasses import dataclass

from accession.auth.roles import FeedKind
from accession.db.models import Collection
from accession.exports.formats import FORMATS


@dataclass(frozen=True)
class FeedAddress:
    """A feed of one collection, or of all.

    Attributes:
        name: Name for people.
        readers: What reads it, as the end of "for ...".
        path: Its path, with a query string where it has one.
        kind: Kind of the feed that a token needs.
        command: Command that creates such a token, limited to the collection.
        note: Further settings of the program.
    """

    name: str
    readers: str
    path: str
    kind: FeedKind
    command: str
    note: str = ""


def feed_addresses(collection: Collection | None, *, has_digest: bool) -> list[FeedAddress]:
    """Return the feeds of a collection, or those of all collections; `has_digest`: of the collection."""
    query = "" if collection is None else f"&collection={collection.id}"
    feeds = [
        _feed(
            collection,
            "OPDS 2.0",
            "reading apps and discovery layers",
            "/opds/v2" if collection is None else f"/opds/v2/collections/{collection.id}",
            FeedKind.OPDS,
        ),
        _feed(
            collection,
            "OAI-PMH 2.0",
            "harvesters, such as those of VuFind and Aspen Discovery",
            "/oai",
            FeedKind.OAI,
            "Metadata prefix: marc21 or oai_dc."
            + ("" if collection is None else f" Set: collection:{collection.id}."),
        ),
        *(
            _feed(
                collection,
                FORMATS[name].label,
                FORMATS[name].readers,
                f"/exports/download?format={name}{query}",
                FeedKind.EXPORTS,
            )
            for name in ("kbart", "marc21")
        ),
    ]
    if collection is not None and has_digest:
        path = f"/digests/{collection.id}.atom"
        feeds.append(_feed(collection, "Atom digest", "feed readers of librarians", path, FeedKind.DIGESTS))
    return feeds


def _feed(
    collection: Collection | None, name: str, readers: str, path: str, kind: FeedKind, note: str = ""
) -> FeedAddress:
    limit = "" if collection is None else f" --collection {shlex.quote(collection.name)}"
    return FeedAddress(name, readers, path, kind, f"accession tokens add NAME --feed {kind}{limit}", note)
