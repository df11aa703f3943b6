"""URL paths and methods that tokens for feeds may use."""

from accession.auth.roles import FeedKind

_PREFIXES = {
    FeedKind.OAI: "/oai",
    FeedKind.OPDS: "/opds",
    FeedKind.EXPORTS: "/exports",
    FeedKind.DIGESTS: "/digests",
}


def feed_prefix(feed: FeedKind) -> str:
    """Return the path below which the feed is served."""
    return _PREFIXES[feed]


def is_feed_path(path: str) -> bool:
    """Return whether the path belongs to any feed."""
    return any(is_path_of(feed, path) for feed in _PREFIXES)


def is_path_of(feed: FeedKind, path: str) -> bool:
    """Return whether the path belongs to this feed."""
    return f"{path}/".startswith(f"{_PREFIXES[feed]}/")


def is_feed_read(feed: FeedKind, method: str, path: str) -> bool:
    """Return whether the request reads the feed; OAI-PMH harvesters may also send POST."""
    is_read = method in ("GET", "HEAD") or (feed is FeedKind.OAI and method == "POST")
    return is_read and is_path_of(feed, path)
