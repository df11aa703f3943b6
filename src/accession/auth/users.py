"""Users, who log in to the dashboard with a password or at an OpenID Connect provider."""

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
from accession.core.settings import get_settings
from accession.db.models import User


@dataclass(frozen=True)
class UserView:
    """A user, as listed.

    `issuer` is the OpenID Connect provider at which the user logs in, None for a user with a password.
    """

    id: int
    name: str
    role: str
    issuer: str | None
    created_at: datetime
    last_login_at: datetime | None
    deactivated_at: datetime | None


@dataclass(frozen=True)
class LoginRefusal:
    """Why somebody who was identified cannot log in: one sentence for them, a few words for the audit log."""

    message: str
    reason: str


def has_users(session: Session) -> bool:
    """Return whether any user exists."""
    return bool(session.scalar(select(exists().where(User.id.is_not(None)))))


def is_login_required(session: Session) -> bool:
    """Return whether people have to log in: there is a user, or a provider whose people become users."""
    return get_settings().oidc_issuer is not None or has_users(session)


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
    return UserView(
        user.id,
        user.name,
        user.role,
        user.oidc_issuer,
        user.created_at,
        user.last_login_at,
        user.deactivated_at,
    )


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


def is_provider_user(session: Session, name: str) -> bool:
    """Return whether the user with this name logs in at the provider."""
    query = select(exists().where(User.name == name, User.oidc_issuer.is_not(None)))
    return bool(session.scalar(query))


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
        UserError: there is no such user, the user has no password, or the new one is too short.
    """
    user = find_user(session, name)
    require_password_user(user.name, user.oidc_issuer)
    session.execute(update(User).where(User.id == user.id), _new_credentials(password))


def set_role(session: Session, name: str, role: UserRole) -> str:
    """Set the user's role, end the user's sessions, and return the role that the user had.

    Raises:
        UserError: there is no such user, or the provider's groups decide the role.
    """
    user = find_user(session, name)
    if user.oidc_issuer is not None:
        raise UserError(
            f'The role of "{name}" comes from groups at {user.oidc_issuer}: change them there, or what they '
            "mean with ACCESSION_OIDC_GROUP_ROLES."
        )
    old_role = user.role
    user.role, user.session_key = role.value, new_session_key()
    return old_role


def require_password_user(name: str, issuer: str | None) -> None:
    """Check that a user logs in with a password.

    Raises:
        UserError: the user logs in at the provider `issuer`.
    """
    if issuer is not None:
        raise UserError(f'"{name}" logs in at {issuer} and has no password here: change it there.')


def deactivate_user(session: Session, name: str) -> None:
    """Refuse the user's logins from now on, and end the user's sessions.

    Raises:
        UserError: there is no such user.
    """
    user = find_user(session, name)
    user.deactivated_at, user.session_key = user.deactivated_at or utc_now(), new_session_key()


def activate_user(session: Session, name: str) -> None:
    """Allow the user to log in again.

    Raises:
        UserError: there is no such user.
    """
    find_user(session, name).deactivated_at = None


def remove_user(session: Session, name: str) -> None:
    """Delete the user, which ends the user's sessions.

    Raises:
        UserError: there is no such user.
    """
    session.execute(delete(User).where(User.id == find_user(session, name).id))


def authenticate_user(session: Session, name: str, password: SecretStr) -> User | LoginRefusal | None:
    """Return the user with this name and password, None without one, or why the user cannot log in.

    Takes as long for an unknown name as for a wrong password. It stores the time of the login, and replaces a
    hash with outdated parameters.
    """
    query = select(User).where(User.name == name)
    # PostgreSQL rejects text with NUL, which a name from a request may contain.
    user = session.scalars(query).one_or_none() if name.isprintable() else None
    password_hash = user.password_hash if user else None
    if not verify_password(password_hash, password) or user is None or password_hash is None:
        return None
    refusal = find_refusal(user)
    if refusal is not None:
        return refusal
    if needs_rehash(password_hash):
        user.password_hash = hash_password(password)
    user.last_login_at = utc_now()
    return user


def find_session_user(session: Session, user_id: int, session_key: str) -> User | None:
    """Return the user if a login session with this key is still valid, or None."""
    user = session.get(User, user_id)
    if user is None or not hmac.compare_digest(user.session_key.encode(), session_key.encode()):
        return None
    is_of_other_provider = user.oidc_issuer not in (None, get_settings().oidc_issuer)
    return None if is_of_other_provider or find_refusal(user) else user


def find_refusal(user: User) -> LoginRefusal | None:
    """Return why the user cannot log in, although identified; None if they can."""
    settings = get_settings()
    if user.deactivated_at is not None:
        return LoginRefusal(
            f'The user "{user.name}" is deactivated: ask an administrator to activate it.', "deactivated"
        )
    if user.oidc_issuer is None and settings.oidc_required and not UserRole(user.role).can_administer:
        return LoginRefusal(
            f"Only administrators may log in with a password: use “{settings.oidc_button_label}”.",
            "password not allowed",
        )
    return None


def _new_credentials(password: SecretStr) -> dict[str, str]:
    validate_password(password)
    return {"password_hash": hash_password(password), "session_key": new_session_key()}


def new_session_key() -> str:
    """Return a key for the sessions of a user; all sessions with another key are ended."""
    return secrets.token_urlsafe(32)
