"""API tokens, with which programs authenticate. Only their SHA-256 hashes are stored."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Select, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.auth.names import validate_name
from accession.auth.roles import FeedKind, UserRole
from accession.core.clock import utc_now
from accession.core.errors import NotFound, UserError
from accession.db.models import ApiToken, Collection

TOKEN_PREFIX = "acc_"  # noqa: S105

# `last_used_at` is written at most this often, not with each request.
_LAST_USED_PRECISION = timedelta(minutes=1)


@dataclass(frozen=True)
class TokenView:
    """A token in use, as listed.

    It has a role, or `feeds` that it can read, of one collection or of all. `last_used_at` is precise to the
    minute.
    """

    id: int
    name: str
    role: str | None
    feeds: tuple[FeedKind, ...]
    collection: str | None
    created_at: datetime
    last_used_at: datetime | None


def token_views(session: Session) -> list[TokenView]:
    """Return every token that is not revoked, by name."""
    rows = session.execute(_select_active().order_by(ApiToken.name))
    return [_view(token, collection) for token, collection in rows]


def token_view(session: Session, token_id: int) -> TokenView:
    """Return the token with this id that is not revoked.

    Raises:
        NotFound: there is none.
    """
    row = session.execute(_select_active().where(ApiToken.id == token_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no active token with the id {token_id}.")
    return _view(*row)


def _select_active() -> Select[ApiToken, str]:
    query = select(ApiToken, Collection.name).outerjoin(Collection, ApiToken.collection_id == Collection.id)
    return query.where(ApiToken.revoked_at.is_(None))


def _view(token: ApiToken, collection: str | None) -> TokenView:
    return TokenView(
        token.id,
        token.name,
        token.role,
        tuple(map(FeedKind, token.feeds or ())),
        collection,
        token.created_at,
        token.last_used_at,
    )


def add_token(session: Session, name: str, role: UserRole) -> SecretStr:
    """Create a token with this role and return it. It cannot be read again later.

    Raises:
        UserError: the name is in use or invalid.
    """
    return _create_token(session, name, {"role": role.value})


def add_feed_token(
    session: Session, name: str, feeds: Sequence[FeedKind], collection: str | None = None
) -> SecretStr:
    """Create a token that can only read these feeds, of this collection or of all, and return it.

    It cannot be read again later.

    Raises:
        UserError: the name is in use or invalid.
        CollectionNotFound: no collection has this name.
    """
    collection_id = None if collection is None else find_collection(session, collection).id
    feed_names = sorted({feed.value for feed in feeds})
    return _create_token(session, name, {"feeds": feed_names, "collection_id": collection_id})


def _create_token(session: Session, name: str, permissions: dict[str, Any]) -> SecretStr:
    validate_name("token", name)
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    row = {"name": name, "created_at": utc_now(), "token_hash": _hash_token(token), **permissions}
    statement = insert(ApiToken).values(row).on_conflict_do_nothing().returning(ApiToken.id)
    if session.scalars(statement).one_or_none() is None:
        raise UserError(
            f'A token named "{name}" already exists: choose another name, '
            f'or revoke it with `accession tokens revoke "{name}"`.'
        )
    return SecretStr(token)


def revoke_token(session: Session, name: str) -> None:
    """Revoke a token and free its name.

    Raises:
        UserError: no active token has this name.
    """
    active = update(ApiToken).where(ApiToken.name == name, ApiToken.revoked_at.is_(None))
    revoked = session.execute(active.values(revoked_at=utc_now()).returning(ApiToken.id)).all()
    if not revoked:
        raise UserError(f'No active token is named "{name}": see `accession tokens list`.')


def use_token(session: Session, token: SecretStr) -> ApiToken | None:
    """Return the stored token and record its use, or None if it is unknown or revoked."""
    token_hash = _hash_token(token.get_secret_value())
    query = select(ApiToken).where(ApiToken.token_hash == token_hash, ApiToken.revoked_at.is_(None))
    stored = session.scalars(query).one_or_none()
    if stored is not None:
        now = utc_now()
        is_due = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at <= now - _LAST_USED_PRECISION)
        statement = update(ApiToken).where(ApiToken.id == stored.id, is_due).values(last_used_at=now)
        session.execute(statement.execution_options(synchronize_session=False))
    return stored


def _hash_token(token: str) -> str:
    # A fast hash suffices: 256 random bits cannot be guessed.
    return hashlib.sha256(token.encode()).hexdigest()
