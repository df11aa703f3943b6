"""Roles of users and tokens, and the feeds that a token can be limited to."""

from collections.abc import Mapping
from enum import StrEnum


class UserRole(StrEnum):
    """Role of a user or token."""

    VIEWER = "viewer"
    """Can see collections, titles and runs."""
    OPERATOR = "operator"
    """Can also manage collections and start runs."""
    ADMINISTRATOR = "administrator"
    """Can also manage users and tokens, and see settings and audit log."""

    @property
    def can_operate(self) -> bool:
        """Return whether this role can manage collections and start runs."""
        return self in (UserRole.OPERATOR, UserRole.ADMINISTRATOR)

    @property
    def can_administer(self) -> bool:
        """Return whether this role can manage users and tokens, and see settings and audit log."""
        return self is UserRole.ADMINISTRATOR


class FeedKind(StrEnum):
    """Kind of feed that a token can read."""

    OAI = "oai"
    OPDS = "opds"
    EXPORTS = "exports"
    DIGESTS = "digests"

    @property
    def label(self) -> str:
        """Return the name of the feed for people."""
        return _FEED_LABELS[self]


_FEED_LABELS: Mapping[FeedKind, str] = {
    FeedKind.OAI: "OAI-PMH",
    FeedKind.OPDS: "OPDS",
    FeedKind.EXPORTS: "Downloads of exports",
    FeedKind.DIGESTS: "Digests (Atom)",
}
