"""Users, who log in to the dashboard with a password."""

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

from pydantic import SecretStr
from sqlalchemy import delete, exists, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.auth.names import validate_name
from accession.auth.passwords import hash_password, needs_rehash, validate_password, verify_password
from accession.auth.roles import UserRole
from accession.core.clock import utc_now
from accession.core.errors import NotFound, UserError
from accession.db.models import User


@dataclass(frozen=True)
class UserView:
    """A user, as listed."""

    id: int
    name: str
    role: str
    created_at: datetime
    last_login_at: datetime | None


def has_users(session: Session) -> bool:
    """Return whether any user exists."""
    return bool(session.scalar(select(exists().where(User.id.is_not(None)))))


def user_views(session: Session) -> list[UserView]:
    """Return every user, by name."""
    return [_view(user) for user in session.scalars(select(User).order_by(User.name))]


def user_view(session: Session, user_id: int) -> UserView:
    """Return the user with this id.

    Raises:
        NotFound: there is none.
    """
    user = session.get(User, user_id)
    if user is None:
        raise NotFound(f"There is no user with the id {user_id}.")
    return _view(user)


def _view(user: User) -> UserView:
    return UserView(user.id, user.name, user.role, user.created_at, user.last_login_at)


def find_user(session: Session, name: str) -> User:
    """Return the user with this name.

    Raises:
        UserError: there is none.
    """
    user = session.scalars(select(User).where(User.name == name)).one_or_none()
    if user is None:
        raise UserError(f'No user found named "{name}": see `accession users list`.')
    return user


def user_exists(session: Session, name: str) -> bool:
    """Return whether a user has this name, which may be any text."""
    return name.isprintable() and bool(session.scalar(select(exists().where(User.name == name))))


def add_user(session: Session, name: str, password: SecretStr, role: UserRole) -> None:
    """Add a user.

    Raises:
        UserError: the name is in use, or the name or the password is invalid.
    """
    validate_name("user", name)
    row = {"name": name, "role": role.value, "created_at": utc_now(), **_new_credentials(password)}
    statement = insert(User).values(row).on_conflict_do_nothing().returning(User.id)
    if session.scalars(statement).one_or_none() is None:
        raise UserError(
            f'A user named "{name}" already exists: choose another name, '
            f'or set a new password with `accession users set-password "{name}"`.'
        )


def set_password(session: Session, name: str, password: SecretStr) -> None:
    """Set the user's password and end the user's sessions.

    Raises:
        UserError: there is no such user, or the password is too short.
    """
    user = find_user(session, name)
    session.execute(update(User).where(User.id == user.id), _new_credentials(password))


def set_role(session: Session, name: str, role: UserRole) -> str:
    """Set the user's role, end the user's sessions, and return the role that the user had.

    Raises:
        UserError: there is no such user.
    """
    user = find_user(session, name)
    old_role = user.role
    user.role, user.session_key = role.value, _new_session_key()
    return old_role


def remove_user(session: Session, name: str) -> None:
    """Delete the user, which ends the user's sessions.

    Raises:
        UserError: there is no such user.
    """
    session.execute(delete(User).where(User.id == find_user(session, name).id))


def authenticate_user(session: Session, name: str, password: SecretStr) -> User | None:
    """Return the user with this name and password, or None.

    Takes as long for an unknown name as for a wrong password. It stores the time of the login, and replaces a
    hash with outdated parameters.
    """
    query = select(User).where(User.name == name)
    # PostgreSQL rejects text with NUL, which a name from a request may contain.
    user = session.scalars(query).one_or_none() if name.isprintable() else None
    if not verify_password(user.password_hash if user else None, password) or user is None:
        return None
    if needs_rehash(user.password_hash):
        user.password_hash = hash_password(password)
    user.last_login_at = utc_now()
    return user


def find_session_user(session: Session, user_id: int, session_key: str) -> User | None:
    """Return the user if a login session with this key is still valid, or None."""
    user = session.get(User, user_id)
    if user is None or not hmac.compare_digest(user.session_key.encode(), session_key.encode()):
        return None
    return user


def _new_credentials(password: SecretStr) -> dict[str, str]:
    validate_password(password)
    return {"password_hash": hash_password(password), "session_key": _new_session_key()}


def _new_session_key() -> str:
    return secrets.token_urlsafe(32)
