"""API endpoints under `/users` and `/tokens`: manage who may log in, and which programs may send requests."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, SecretStr

from accession.auth.names import MAX_NAME_LENGTH
from accession.auth.passwords import MIN_PASSWORD_LENGTH
from accession.auth.roles import FeedKind, UserRole
from accession.auth.tokens import TokenView, token_views
from accession.auth.users import UserView, find_user, user_view, user_views
from accession.db.engine import transaction
from accession.web import administration
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body, Choice, Items
from accession.web.parameters import NO_NUL, RowId
from accession.web.principal import Administrator

router = APIRouter(tags=["administration"])

Password = Annotated[
    SecretStr,
    Field(min_length=MIN_PASSWORD_LENGTH, max_length=500, description="Stored as a hash, never shown."),
]


class NewUser(Body):
    """A user to add."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    password: Password
    role: Choice[UserRole]


class UserChanges(Body):
    """Changes to a user, whose sessions end; fields that are left out stay the same.

    Users of an OpenID Connect provider have no password here, and their role comes from the provider.
    """

    password: Password | None = None
    role: Choice[UserRole] | None = None
    active: bool | None = Field(None, description="Whether the user can log in.")


class NewToken(Body):
    """A token to create: with a role, or with feeds of one collection or of all."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    role: Choice[UserRole] | None = None
    feeds: Items[Choice[FeedKind]] = ()
    collection: str | None = Field(
        None, max_length=200, pattern=NO_NUL, description="Name of the only collection."
    )


class CreatedToken(BaseModel):
    """A new token; it cannot be read again later."""

    token: str


@router.get("/users")
def list_users(_: Administrator) -> list[UserView]:
    """List the users by name."""
    with transaction() as session:
        return user_views(session)


@router.post("/users", status_code=HTTPStatus.CREATED, responses=problem_responses(409))
def create_user(administrator: Administrator, new: NewUser) -> UserView:
    """Add a user."""
    with transaction() as session:
        administration.create_user(session, administrator, new.name, new.password, new.role)
        return user_view(session, find_user(session, new.name).id)


@router.patch("/users/{user_id:int}", responses=problem_responses(404, 409))
def update_user(administrator: Administrator, user_id: RowId, changes: UserChanges) -> UserView:
    """Change a user's password or role, or deactivate or activate the user."""
    with transaction() as session:
        if changes.role is not None:
            administration.change_role(session, administrator, user_id, changes.role)
        if changes.password is not None:
            administration.change_password(session, administrator, user_id, changes.password)
        if changes.active is not None:
            administration.change_activation(session, administrator, user_id, active=changes.active)
        return user_view(session, user_id)


@router.post(
    "/users/{user_id:int}/unlock", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(404)
)
def unlock_user(administrator: Administrator, user_id: RowId) -> None:
    """Allow a user's logins again after too many failed ones."""
    with transaction() as session:
        administration.unlock_user(session, administrator, user_id)


@router.delete(
    "/users/{user_id:int}", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(404, 409)
)
def delete_user(administrator: Administrator, user_id: RowId) -> None:
    """Remove a user."""
    with transaction() as session:
        administration.delete_user(session, administrator, user_id)


@router.get("/tokens")
def list_tokens(_: Administrator) -> list[TokenView]:
    """List the active tokens by name."""
    with transaction() as session:
        return token_views(session)


@router.post("/tokens", status_code=HTTPStatus.CREATED, responses=problem_responses(404, 409))
def create_token(administrator: Administrator, new: NewToken) -> CreatedToken:
    """Create a token."""
    with transaction() as session:
        token = administration.create_token(
            session, administrator, new.name, new.role, new.feeds, new.collection
        )
    return CreatedToken(token=token.get_secret_value())


@router.delete("/tokens/{token_id:int}", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(404))
def revoke_token(administrator: Administrator, token_id: RowId) -> None:
    """Revoke a token."""
    with transaction() as session:
        administration.delete_token(session, administrator, token_id)
