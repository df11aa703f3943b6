"""Pages of the users, for administrators: list, add, password, role, deactivation and removal."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import SecretStr
from redis import RedisError

from accession.auth.roles import UserRole
from accession.auth.users import user_view, user_views
from accession.core.errors import UserError
from accession.db.engine import transaction
from accession.web.administration import (
    change_activation,
    change_password,
    change_role,
    create_user,
    delete_user,
    unlock_user,
)
from accession.web.pages.rendering import redirect, render
from accession.web.parameters import FormField, RowId
from accession.web.principal import Administrator
from accession.web.throttle import is_locked

router = APIRouter(prefix="/users", include_in_schema=False)

Password = Annotated[SecretStr, Form(max_length=500)]


@router.get("")
def list_users(request: Request, _: Administrator) -> Response:
    """List the users."""
    with transaction() as session:
        return render(request, "users.html", users=user_views(session))


@router.get("/new")
def new_user(request: Request, _: Administrator) -> Response:
    """Show the form that adds a user."""
    return render(request, "user_form.html", roles=list(UserRole), values={"role": UserRole.VIEWER})


@router.post("/new")
def add_user(
    request: Request,
    administrator: Administrator,
    role: Annotated[UserRole, Form()],
    name: FormField = "",
    password: Password = SecretStr(""),  # noqa: B008
) -> Response:
    """Add a user, or show the form again with the error."""
    try:
        with transaction() as session:
            create_user(session, administrator, name.strip(), password, role)
    except UserError as error:
        values = {"name": name, "role": role}
        return render(
            request, "user_form.html", status=422, roles=list(UserRole), values=values, error=str(error)
        )
    return redirect("/users", f'User "{name.strip()}" added.')


@router.get("/{user_id}")
def show_user(request: Request, _: Administrator, user_id: RowId) -> Response:
    """Show a user with the forms that change role and password."""
    with transaction() as session:
        user = user_view(session, user_id)
    return render(request, "user.html", user=user, roles=list(UserRole), is_locked=_is_locked(user.name))


def _is_locked(name: str) -> bool:
    """Return whether the user's logins are refused; False if the broker cannot tell."""
    with suppress(RedisError):
        return is_locked(name)
    return False


@router.post("/{user_id}/role")
def set_role(administrator: Administrator, user_id: RowId, role: Annotated[UserRole, Form()]) -> Response:
    """Set the user's role."""
    with transaction() as session:
        name = change_role(session, administrator, user_id, role)
    return redirect("/users", f'"{name}" is {role} from now on, and has to log in again.')


@router.post("/{user_id}/password")
def set_password(
    administrator: Administrator,
    user_id: RowId,
    password: Password = SecretStr(""),  # noqa: B008
) -> Response:
    """Set the user's password."""
    try:
        with transaction() as session:
            name = change_password(session, administrator, user_id, password)
    except UserError as error:
        return redirect(f"/users/{user_id}", str(error))
    return redirect("/users", f'Password of "{name}" changed; all sessions of this user are ended.')


@router.post("/{user_id}/unlock")
def allow_logins(administrator: Administrator, user_id: RowId) -> Response:
    """Allow the user's logins again after too many failed ones."""
    with transaction() as session:
        name = unlock_user(session, administrator, user_id)
    return redirect(f"/users/{user_id}", f'"{name}" can log in again.')


@router.post("/{user_id}/deactivate")
def deactivate_user(administrator: Administrator, user_id: RowId) -> Response:
    """Deactivate the user."""
    with transaction() as session:
        name = change_activation(session, administrator, user_id, active=False)
    return redirect(f"/users/{user_id}", f'"{name}" is deactivated, and all sessions of this user are ended.')


@router.post("/{user_id}/activate")
def activate_user(administrator: Administrator, user_id: RowId) -> Response:
    """Activate the user."""
    with transaction() as session:
        name = change_activation(session, administrator, user_id, active=True)
    return redirect(f"/users/{user_id}", f'"{name}" is active and can log in again.')


@router.get("/{user_id}/remove")
def confirm_removal(request: Request, _: Administrator, user_id: RowId) -> Response:
    """Ask for confirmation."""
    with transaction() as session:
        user = user_view(session, user_id)
    return render(
        request,
        "confirm.html",
        heading=f"Remove {user.name}?",
        text="All sessions of this user end. The audit log keeps what the user has done.",
        button="Remove",
        back="/users",
    )


@router.post("/{user_id}/remove")
def remove_user(administrator: Administrator, user_id: RowId) -> Response:
    """Remove the user."""
    with transaction() as session:
        name = delete_user(session, administrator, user_id)
    return redirect("/users", f'User "{name}" removed.')
