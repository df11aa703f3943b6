"""Who may use what is served: users, who log in with a password, and tokens, by which programs are known.

Of a password the database has an argon2 hash, of a token its SHA-256: neither leads back.
"""

import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from pydantic import SecretStr
from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.db.models import ApiToken, Base, Collection, User, table_of

SHORTEST_PASSWORD = 12
LONGEST_NAME = 100
TOKEN_PREFIX = "acc_"  # noqa: S105
# A token's use is written down so often, and not with each of its requests.
TOKEN_USE_NOTED = timedelta(minutes=1)

_TIME, _MEMORY_KIB, _LANES = 3, 64 * 1024, 4
_hasher = PasswordHasher(_TIME, _MEMORY_KIB, _LANES)
# The hash of no password. A name that nobody has is looked at for as long as one that somebody has.
_NOBODYS_HASH = f"$argon2id$v=19$m={_MEMORY_KIB},t={_TIME},p={_LANES}${'A' * 22}${'A' * 43}"


class Role(StrEnum):
    """What someone may do."""

    VIEWER = "viewer"
    """See everything."""
    OPERATOR = "operator"
    """See everything, and change things."""

    @property
    def may_operate(self) -> bool:
        """Whether things may be changed."""
        return self is Role.OPERATOR


class Feed(StrEnum):
    """What leads out of the catalogue, each by paths of its own."""

    OAI = "oai"
    OPDS = "opds"
    EXPORTS = "exports"

    def has(self, path: str) -> bool:
        """Whether the path of a request is one of the feed's."""
        return f"{path}/".startswith(f"/{self}/")

    def reads_by(self, method: str) -> bool:
        """Whether a request with this method reads the feed: harvesters of OAI-PMH may ask by POST, too."""
        return method in ("GET", "HEAD") or (self is Feed.OAI and method == "POST")


@dataclass(frozen=True)
class UserView:
    """A user, as listed."""

    name: str
    role: str
    created_at: datetime


@dataclass(frozen=True)
class TokenView:
    """A token in use, as listed: it is of a role, or opens `feeds`, of every collection or of one;
    `last_used_at` to the minute."""

    name: str
    role: str | None
    feeds: tuple[str, ...]
    collection: str | None
    created_at: datetime
    last_used_at: datetime | None


def any_user(session: Session) -> bool:
    """Whether there is a user: without one, nobody can log in."""
    return bool(session.scalar(select(exists().where(User.id.is_not(None)))))


def user_views(session: Session) -> list[UserView]:
    """Every user, by name."""
    users = session.scalars(select(User).order_by(User.name))
    return [UserView(user.name, user.role, user.created_at) for user in users]


def find_user(session: Session, name: str) -> User:
    """The user of this name; raises `UserError` when there is none."""
    user = session.scalars(select(User).where(User.name == name)).one_or_none()
    if user is None:
        raise UserError(f'No user found named "{name}": see `accession users list`.')
    return user


def require_password(password: SecretStr) -> None:
    """Raises `UserError` for a password that is too short to be one."""
    if len(_normal(password)) < SHORTEST_PASSWORD:
        raise UserError(
            f"The password is too short: take at least {SHORTEST_PASSWORD} characters, such as four words."
        )


def require_name(what: str, name: str) -> None:
    """Raises `UserError` for what cannot be a name of a user or a token."""
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= LONGEST_NAME:
        raise UserError(
            f"A {what} cannot be named {name!r}: take 1 to {LONGEST_NAME} characters, "
            "without blanks around them and without line breaks."
        )


def add_user(session: Session, name: str, password: SecretStr, role: Role) -> None:
    """Afterwards the user may log in. Raises `UserError` for a name in use, and for a name or a password
    that cannot be one."""
    require_name("user", name)
    row = {"name": name, "role": role.value, "created_at": utc_now(), **_new_secrets(password)}
    if not _inserted(session, User, row):
        raise UserError(
            f'There is a user named "{name}" already: choose another name, '
            f'or give a new password with `accession users set-password "{name}"`.'
        )


def set_password(session: Session, name: str, password: SecretStr) -> None:
    """Afterwards the user has this password, and every session of the user has ended."""
    session.execute(update(User).where(User.id == find_user(session, name).id), _new_secrets(password))


def set_role(session: Session, name: str, role: Role) -> None:
    """Afterwards the user has this role, and every session of the user has ended."""
    user = find_user(session, name)
    user.role, user.session_key = role.value, _new_session_key()


def remove_user(session: Session, name: str) -> None:
    """Afterwards there is no such user, and every session of the user has ended."""
    session.execute(delete(User).where(User.id == find_user(session, name).id))


def user_with_password(session: Session, name: str, password: SecretStr) -> User | None:
    """The user of this name and password; None where either is wrong, which takes as long either way.

    A hash that was made with other parameters than today's is renewed.
    """
    query = select(User).where(User.name == name)
    # No database can hold a NUL, which a name may have that comes from elsewhere.
    user = session.scalars(query).one_or_none() if name.isprintable() else None
    try:
        _hasher.verify(user.password_hash if user else _NOBODYS_HASH, _normal(password))
    except VerifyMismatchError:
        return None
    if user is not None and _hasher.check_needs_rehash(user.password_hash):
        user.password_hash = _hasher.hash(_normal(password))
    return user


def user_of_session(session: Session, user_id: int, session_key: str) -> User | None:
    """The user, while the session that was begun with this key lasts."""
    user = session.get(User, user_id)
    if user is None or not hmac.compare_digest(user.session_key.encode(), session_key.encode()):
        return None
    return user


def _new_secrets(password: SecretStr) -> dict[str, str]:
    require_password(password)
    return {"password_hash": _hasher.hash(_normal(password)), "session_key": _new_session_key()}


def _new_session_key() -> str:
    return secrets.token_urlsafe(32)


def _normal(password: SecretStr) -> str:
    # Keyboards differ in how they write the same letter.
    return unicodedata.normalize("NFKC", password.get_secret_value())


def token_views(session: Session) -> list[TokenView]:
    """Every token in use, by name."""
    query = select(ApiToken, Collection.name).outerjoin(Collection, ApiToken.collection_id == Collection.id)
    rows = session.execute(query.where(ApiToken.revoked_at.is_(None)).order_by(ApiToken.name))
    return [
        TokenView(
            token.name, token.role, tuple(token.feeds or ()), collection, token.created_at, token.last_used_at
        )
        for token, collection in rows
    ]


def add_token(session: Session, name: str, role: Role) -> SecretStr:
    """Afterwards a program may do what the role may, with the token that is returned, which is kept nowhere.

    Raises `UserError` for a name that is in use or cannot be one.
    """
    return _added(session, name, {"role": role.value})


def add_feed_token(
    session: Session, name: str, feeds: Sequence[Feed], collection: str | None = None
) -> SecretStr:
    """Afterwards a program may read the feeds, of every collection or of this one, and nothing else, with the
    token that is returned, which is kept nowhere.

    Raises `UserError` for a name that is in use or cannot be one, and `UnknownCollection`.
    """
    collection_id = None if collection is None else find_collection(session, collection).id
    return _added(
        session, name, {"feeds": sorted({feed.value for feed in feeds}), "collection_id": collection_id}
    )


def _added(session: Session, name: str, opens: dict[str, Any]) -> SecretStr:
    require_name("token", name)
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    row = {"name": name, "created_at": utc_now(), "token_hash": _hash_of(token), **opens}
    if not _inserted(session, ApiToken, row):
        raise UserError(
            f'There is a token named "{name}" already: choose another name, '
            f'or revoke it with `accession tokens revoke "{name}"`.'
        )
    return SecretStr(token)


def revoke_token(session: Session, name: str) -> None:
    """Afterwards the token opens nothing, and its name is free. Raises `UserError` for one that is not in
    use."""
    in_use = update(ApiToken).where(ApiToken.name == name, ApiToken.revoked_at.is_(None))
    revoked = session.execute(in_use.values(revoked_at=utc_now()).returning(ApiToken.id)).all()
    if not revoked:
        raise UserError(f'No token in use is named "{name}": see `accession tokens list`.')


def use_token(session: Session, token: SecretStr) -> ApiToken | None:
    """What the token is, and that it was used now; None for one that is unknown or revoked."""
    hashed = _hash_of(token.get_secret_value())
    query = select(ApiToken).where(ApiToken.token_hash == hashed, ApiToken.revoked_at.is_(None))
    found = session.scalars(query).one_or_none()
    if found is not None:
        now = utc_now()
        noted_before = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at <= now - TOKEN_USE_NOTED)
        note = update(ApiToken).where(ApiToken.id == found.id, noted_before).values(last_used_at=now)
        session.execute(note.execution_options(synchronize_session=False))
    return found


def _hash_of(token: str) -> str:
    # Of what is random and so long, nobody guesses one in a lifetime, however fast the hash.
    return hashlib.sha256(token.encode()).hexdigest()


def _inserted(session: Session, model: type[Base], row: dict[str, Any]) -> bool:
    statement = insert(model).values(row).on_conflict_do_nothing()
    return bool(session.execute(statement.returning(table_of(model).c.id)).all())
