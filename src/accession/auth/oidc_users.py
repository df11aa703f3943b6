"""Users who log in at the OpenID Connect provider, which adds them and decides their roles.

A user is known by issuer and subject, which the provider never gives to another person. A name or an email
address identifies nobody: whoever can choose theirs could take over the user of somebody else.
"""

from collections.abc import Iterator
from itertools import count

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.auth.audit import Actor, ActorKind, AuditAction, record
from accession.auth.names import MAX_NAME_LENGTH
from accession.auth.oidc import ProviderIdentity
from accession.auth.roles import UserRole
from accession.auth.users import LoginRefusal, find_refusal, new_session_key
from accession.core.clock import utc_now
from accession.core.sanitize import sanitize
from accession.core.settings import get_settings
from accession.db.models import User

_MAX_SUFFIX_LENGTH = 10


def log_in_identity(session: Session, identity: ProviderIdentity, address: str) -> User | LoginRefusal:
    """Return the user of a person whom the provider has identified, or why the person cannot log in.

    The user is added or gets the role of the groups, which ends the sessions of a user without one. The audit
    log tells what was done; `address` is the client's.
    """
    role = _find_role(identity.groups)
    user = _find_user(session, identity)
    if role is None:
        if user is not None:
            user.session_key = new_session_key()
        return _refuse(session, identity, address, _no_role(identity))
    if user is None:
        user = _add_user(session, identity, role, address)
    refusal = find_refusal(user)
    if refusal is not None:
        return _refuse(session, identity, address, refusal)
    actor = Actor(ActorKind.USER, user.name, address)
    if user.role != role:
        details = _details(identity, f"{user.role} → {role}")
        record(session, actor, AuditAction.USER_SET_ROLE, user.name, details)
        user.role = role.value
    user.last_login_at = utc_now()
    record(session, actor, AuditAction.USER_LOGIN, user.name, {"provider": identity.issuer})
    return user


def _find_role(groups: tuple[str, ...]) -> UserRole | None:
    """Return the highest role that one of the groups has."""
    group_roles = get_settings().oidc_group_roles
    roles = [UserRole(group_roles[group]) for group in groups if group in group_roles]
    return max(roles, key=list(UserRole).index, default=None)


def _find_user(session: Session, identity: ProviderIdentity) -> User | None:
    query = select(User).where(User.oidc_issuer == identity.issuer, User.oidc_subject == identity.subject)
    return session.scalars(query.with_for_update()).one_or_none()


def _add_user(session: Session, identity: ProviderIdentity, role: UserRole, address: str) -> User:
    """Return the user, added under a name that no other user has."""
    values = {
        "oidc_issuer": identity.issuer,
        "oidc_subject": identity.subject,
        "role": role.value,
        "created_at": utc_now(),
        "session_key": new_session_key(),
    }
    names = _possible_names(identity)
    # The person may log in a second time meanwhile.
    while (user := _find_user(session, identity)) is None:
        name = next(names)
        statement = insert(User).values(name=name, **values).on_conflict_do_nothing().returning(User.id)
        if session.scalars(statement).one_or_none() is not None:
            actor = Actor(ActorKind.USER, name, address)
            record(session, actor, AuditAction.USER_ADD, name, _details(identity, role))
    return user


def _possible_names(identity: ProviderIdentity) -> Iterator[str]:
    """Yield the name of the person, and then the same with numbers from 2."""
    name = _clean_name(identity.name) or _clean_name(identity.subject)
    yield name
    for number in count(2):
        yield f"{name} ({number})"


def _clean_name(name: str) -> str:
    return " ".join(sanitize(name).split())[: MAX_NAME_LENGTH - _MAX_SUFFIX_LENGTH].strip()


def _no_role(identity: ProviderIdentity) -> LoginRefusal:
    return LoginRefusal(
        f'"{_clean_name(identity.name)}" is in no group that may use Accession: ask an administrator of the '
        "provider to add you to one, and log in again.",
        "no group with a role",
    )


def _refuse(
    session: Session, identity: ProviderIdentity, address: str, refusal: LoginRefusal
) -> LoginRefusal:
    """Record the refusal, and return it."""
    anonymous = Actor(ActorKind.ANONYMOUS, "", address)
    details = {"provider": identity.issuer, "reason": refusal.reason}
    record(session, anonymous, AuditAction.USER_LOGIN_FAILED, _clean_name(identity.name), details)
    return refusal


def _details(identity: ProviderIdentity, role: str) -> dict[str, str]:
    return {"role": role, "provider": identity.issuer}
