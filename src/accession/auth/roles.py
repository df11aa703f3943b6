"""Roles of users and tokens, and the feeds that a token can be limited to."""

from enum import StrEnum


class UserRole(StrEnum):
    """Role of a user or token."""

    VIEWER = "viewer"
    """Can see everything."""
    OPERATOR = "operator"
    """Can see and change everything."""

    @property
    def can_operate(self) -> bool:
        """Return whether this role can change things."""
        return self is UserRole.OPERATOR


class FeedKind(StrEnum):
    """Kind of feed that a token can read."""

    OAI = "oai"
    OPDS = "opds"
    EXPORTS = "exports"
