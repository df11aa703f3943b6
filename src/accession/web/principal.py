"""The authenticated caller of a request, and the route dependencies that require one."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends
from starlette.requests import Request

from accession.auth.audit import Actor, ActorKind
from accession.auth.roles import UserRole
from accession.web.errors import HTTPProblem


@dataclass(frozen=True)
class Principal:
    """The caller of a request: a user, a token, or anyone on this machine ("local").

    `address` is the client's IP address. `collection_id` is the only collection that the caller may see; None
    means all collections.
    """

    name: str
    role: UserRole
    authentication: Literal["local", "session", "token"]
    address: str
    collection_id: int | None = None

    @property
    def actor(self) -> Actor:
        """Return the caller as the audit log names it."""
        return Actor(_ACTOR_KINDS[self.authentication], self.name, self.address)


_ACTOR_KINDS = {"local": ActorKind.LOCAL, "session": ActorKind.USER, "token": ActorKind.TOKEN}

BEARER_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def require_reader(request: Request) -> Principal:
    """Return the caller, who may be limited to one collection.

    Use it only for routes that filter what they show by `Principal.collection_id`.
    """
    principal: Principal | None = request.state.principal
    if principal is None:
        raise HTTPProblem(401, "Authentication required: log in, or send a token.", BEARER_CHALLENGE)
    return principal


Reader = Annotated[Principal, Depends(require_reader)]


def require_viewer(principal: Reader) -> Principal:
    """Return the caller, who may see all collections."""
    if principal.collection_id is not None:
        raise HTTPProblem(
            403, f'The token "{principal.name}" only allows reading the feeds of one collection.'
        )
    return principal


Viewer = Annotated[Principal, Depends(require_viewer)]


def require_operator(principal: Viewer) -> Principal:
    """Return the caller, who may change things."""
    if not principal.role.can_operate:
        raise HTTPProblem(
            403, f'"{principal.name}" is a viewer and cannot change anything: ask an operator to do it.'
        )
    return principal


Operator = Annotated[Principal, Depends(require_operator)]


def require_administrator(principal: Viewer) -> Principal:
    """Return the caller, who may manage users and tokens, and see settings and audit log."""
    if not principal.role.can_administer:
        raise HTTPProblem(
            403,
            f'"{principal.name}" is no administrator: ask one to do it, or to give you that role with '
            "`accession users set-role`.",
        )
    return principal


Administrator = Annotated[Principal, Depends(require_administrator)]
