"""Changes of users and tokens that pages and API offer, with their entries in the audit log.

Nobody can lock out themselves: whoever is logged in keeps the own account and role, so that an administrator
remains.
"""

from collections.abc import Sequence

from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.auth.audit import AuditAction, record
from accession.auth.roles import FeedKind, UserRole
from accession.auth.tokens import add_feed_token, add_token, revoke_token, token_view
from accession.auth.users import (
    activate_user,
    add_user,
    deactivate_user,
    remove_user,
    set_password,
    set_role,
    user_view,
)
from accession.core.errors import InvalidInput, UserError
from accession.web.principal import Principal
from accession.web.throttle import unlock, unlock_if_possible


def create_user(
    session: Session, principal: Principal, name: str, password: SecretStr, role: UserRole
) -> None:
    """Add a user.

    Raises:
        InvalidInput: the first user would be no administrator.
        UserError: the name is in use, or the name or the password is invalid.
    """
    if principal.authentication == "local" and not role.can_administer:
        raise InvalidInput(
            "The first user must be an administrator, because everybody has to log in from then on: choose "
            "that role, and add other users afterwards."
        )
    add_user(session, name, password, role)
    record(session, principal.actor, AuditAction.USER_ADD, name, {"role": role})


def change_password(session: Session, principal: Principal, user_id: int, password: SecretStr) -> str:
    """Set a user's password, end the user's sessions, allow logins again, and return the user's name.

    Raises:
        NotFound: there is no such user.
        UserError: the password is too short, or the user has none.
    """
    name = user_view(session, user_id).name
    set_password(session, name, password)
    record(session, principal.actor, AuditAction.USER_SET_PASSWORD, name)
    unlock_if_possible(name)
    return name


def unlock_user(session: Session, principal: Principal, user_id: int) -> str:
    """Allow logins of a user again after too many failed ones, and return the user's name.

    Raises:
        NotFound: there is no such user.
    """
    name = user_view(session, user_id).name
    record(session, principal.actor, AuditAction.USER_UNLOCK, name)
    unlock(name)
    return name


def change_role(session: Session, principal: Principal, user_id: int, role: UserRole) -> str:
    """Set another user's role, end the user's sessions, and return the user's name.

    Raises:
        NotFound: there is no such user.
        UserError: it is the caller, or a user whose role the provider decides.
    """
    name = user_view(session, user_id).name
    _require_other(principal, name)
    old_role = set_role(session, name, role)
    record(session, principal.actor, AuditAction.USER_SET_ROLE, name, {"role": f"{old_role} → {role}"})
    return name


def change_activation(session: Session, principal: Principal, user_id: int, *, active: bool) -> str:
    """Activate or deactivate another user, whose sessions then end, and return the user's name.

    Raises:
        NotFound: there is no such user.
        UserError: it is the caller.
    """
    name = user_view(session, user_id).name
    _require_other(principal, name)
    if active:
        activate_user(session, name)
    else:
        deactivate_user(session, name)
    action = AuditAction.USER_ACTIVATE if active else AuditAction.USER_DEACTIVATE
    record(session, principal.actor, action, name)
    return name


def delete_user(session: Session, principal: Principal, user_id: int) -> str:
    """Remove another user, and return the user's name.

    Raises:
        NotFound: there is no such user.
        UserError: it is the caller.
    """
    name = user_view(session, user_id).name
    _require_other(principal, name)
    remove_user(session, name)
    record(session, principal.actor, AuditAction.USER_REMOVE, name)
    return name


def create_token(
    session: Session,
    principal: Principal,
    name: str,
    role: UserRole | None,
    feeds: Sequence[FeedKind],
    collection: str | None,
) -> SecretStr:
    """Create a token with a role, or for feeds of one collection or of all, and return it.

    Raises:
        InvalidInput: not exactly one of role and feeds is given.
        UserError: the name is in use or invalid.
    """
    if (role is None) == (not feeds) or (collection is not None and not feeds):
        raise InvalidInput("Choose either a role, or feeds with or without a collection.")
    if role is not None:
        token = add_token(session, name, role)
        record(session, principal.actor, AuditAction.TOKEN_ADD, name, {"role": role})
    else:
        token = add_feed_token(session, name, feeds, collection)
        details = {"feeds": list(feeds), "collection": collection}
        record(session, principal.actor, AuditAction.TOKEN_ADD, name, details)
    return token


def delete_token(session: Session, principal: Principal, token_id: int) -> str:
    """Revoke a token and return its name.

    Raises:
        NotFound: no active token has this id.
    """
    name = token_view(session, token_id).name
    revoke_token(session, name)
    record(session, principal.actor, AuditAction.TOKEN_REVOKE, name)
    return name


def _require_other(principal: Principal, name: str) -> None:
    if principal.authentication == "session" and principal.name == name:
        raise UserError(
            "You cannot remove or deactivate yourself or change your own role: ask another administrator to "
            "do it."
        )
