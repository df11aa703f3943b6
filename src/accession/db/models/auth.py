"""Users and API tokens."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from accession.core.clock import utc_now
from accession.db.models.base import Base


class User(Base):
    """A person who can log in to the dashboard unless deactivated.

    People log in either with a password, or at the OpenID Connect provider `oidc_issuer`, which knows them as
    `oidc_subject`. A session is valid as long as the user has the `session_key` that it was started with.
    """

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("oidc_issuer", "oidc_subject"),
        CheckConstraint(
            "num_nonnulls(password_hash, oidc_subject) = 1 AND num_nonnulls(oidc_issuer, oidc_subject) <> 1",
            name="password_or_provider",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str | None]
    oidc_issuer: Mapped[str | None]
    oidc_subject: Mapped[str | None]
    role: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_login_at: Mapped[datetime | None]
    deactivated_at: Mapped[datetime | None]
    session_key: Mapped[str]


class ApiToken(Base):
    """An API token, stored as a hash, and kept after it was revoked.

    It has either a role, or feeds that it can read: those of one collection, or without `collection_id` of
    all.
    """

    __tablename__ = "api_tokens"
    __table_args__ = (
        Index(
            "uq_api_tokens_name_in_use",
            "name",
            unique=True,
            postgresql_where=text("revoked_at IS NULL"),
        ),
        CheckConstraint(
            "num_nonnulls(role, feeds) = 1 AND num_nonnulls(role, collection_id) < 2", name="role_or_feeds"
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    token_hash: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str | None]
    feeds: Mapped[list[str] | None]
    collection_id: Mapped[int | None] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
