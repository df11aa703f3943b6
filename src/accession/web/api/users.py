"""API endpoints under `/users` and `/tokens`: manage who may log in, and which programs may send requests."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from accession.auth.roles import FeedKind, UserRole
from accession.auth.tokens import TokenView, token_views
from accession.auth.users import UserView, find_user, user_view, user_views
from accession.db.engine import transaction
from accession.web.administration import (
    change_activation,
    change_password,
    change_role,
    create_token,
    create_user,
    delete_token,
    delete_user,
    unlock_user,
)
from accession.web.api.schemas import problem_responses
from accession.web.parameters import NO_NUL, RowId
from accession.web.principal import Administrator

router = APIRouter(tags=["administration"])

Password = Annotated[SecretStr, Field(max_length=500, description="Stored as a hash, never shown.")]


class NewUser(BaseModel):
    """A user to add."""

    name: str = Field(max_length=200)
    password: Password
    role: UserRole


class UserChanges(BaseModel):
    """Changes to a user, whose sessions end; fields that are left out stay the same.

    Users of an OpenID Connect provider have no password here, and their role comes from the provider.
    """

    model_config = ConfigDict(extra="forbid")

    password: Password | None = None
    role: UserRole | None = None
    active: bool | None = Field(None, description="Whether the user can log in.")


class NewToken(BaseModel):
    """A token to create: with a role, or with feeds of one collection or of all."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    role: UserRole | None = None
    feeds: tuple[FeedKind, ...] = ()
    collection: str | None = Field(
        None, max_length=200, pattern=NO_NUL, description="Name of the only collection."
    )


class CreatedToken(BaseModel):
    """A new token; it cannot be read again later."""

    token: str


@router.get("/users", responses=problem_responses(403))
def list_users(_: Administrator) -> list[UserView]:
    """List the users by name."""
    with transaction() as session:
        return user_views(session)


@router.post("/users", status_code=HTTPStatus.CREATED, responses=problem_responses(403, 409))
def add_user(administrator: Administrator, new: NewUser) -> UserView:
    """Add a user."""
    with transaction() as session:
        create_user(session, administrator, new.name, new.password, new.role)
        return user_view(session, find_user(session, new.name).id)


@router.patch("/users/{user_id}", responses=problem_responses(403, 404, 409))
def change_user(administrator: Administrator, user_id: RowId, changes: UserChanges) -> UserView:
    """Change a user's password or role, or deactivate or activate the user."""
    with transaction() as session:
        if changes.role is not None:
            change_role(session, administrator, user_id, changes.role)
        if changes.password is not None:
            change_password(session, administrator, user_id, changes.password)
        if changes.active is not None:
            change_activation(session, administrator, user_id, active=changes.active)
        return user_view(session, user_id)


@router.post(
    "/users/{user_id}/unlock", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(403, 404)
)
def allow_logins(administrator: Administrator, user_id: RowId) -> None:
    """Allow a user's logins again after too many failed ones."""
    with transaction() as session:
        unlock_user(session, administrator, user_id)


@router.delete(
    "/users/{user_id}", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(403, 404, 409)
)
def remove_user(administrator: Administrator, user_id: RowId) -> None:
    """Remove a user."""
    with transaction() as session:
        delete_user(session, administrator, user_id)


@router.get("/tokens", responses=problem_responses(403))
def list_tokens(_: Administrator) -> list[TokenView]:
    """List the active tokens by name."""
    with transaction() as session:
        return token_views(session)


@router.post("/tokens", status_code=HTTPStatus.CREATED, responses=problem_responses(403, 404, 409))
def add_token(administrator: Administrator, new: NewToken) -> CreatedToken:
    """Create a token."""
    with transaction() as session:
        token = create_token(session, administrator, new.name, new.role, new.feeds, new.collection)
    return CreatedToken(token=token.get_secret_value())


@router.delete("/tokens/{token_id}", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(403, 404))
def revoke_token(administrator: Administrator, token_id: RowId) -> None:
    """Revoke a token."""
    with transaction() as session:
        delete_token(session, administrator, token_id)
