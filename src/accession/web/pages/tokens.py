"""Pages of the API tokens, for administrators: list, add and revoke."""

from collections.abc import Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from accession.accounts.collections import list_collections
from accession.auth.roles import FeedKind, UserRole
from accession.auth.tokens import token_view, token_views
from accession.core.errors import UserError
from accession.db.engine import transaction
from accession.web.administration import create_token, delete_token
from accession.web.pages.rendering import redirect, render
from accession.web.parameters import FormField, RowId, collection_name, parse_collection_id
from accession.web.principal import Administrator

router = APIRouter(prefix="/tokens", include_in_schema=False)

FormCollectionId = Annotated[str, Form(max_length=10, pattern=r"^\d*$")]


@router.get("")
def list_tokens(request: Request, _: Administrator) -> Response:
    """List the active tokens."""
    with transaction() as session:
        return render(request, "tokens.html", tokens=token_views(session))


@router.get("/new")
def new_token(request: Request, _: Administrator) -> Response:
    """Show the form that creates a token."""
    return _form(request, {"role": UserRole.VIEWER})


@router.post("/new")
def add_token(
    request: Request,
    administrator: Administrator,
    name: FormField = "",
    role: Annotated[UserRole | Literal[""], Form()] = "",
    feeds: Annotated[tuple[FeedKind, ...], Form()] = (),
    collection: FormCollectionId = "",
) -> Response:
    """Create a token and show it once, or show the form again with the error."""
    try:
        with transaction() as session:
            limited_to = collection_name(session, parse_collection_id(collection))
            token = create_token(session, administrator, name.strip(), role or None, feeds, limited_to)
    except UserError as error:
        values = {"name": name, "role": role, "feeds": feeds, "collection": collection}
        return _form(request, values, str(error))
    # Not by a redirect: its message would be a cookie.
    return render(request, "token_created.html", name=name.strip(), token=token.get_secret_value())


def _form(request: Request, values: Mapping[str, object], error: str | None = None) -> Response:
    with transaction() as session:
        return render(
            request,
            "token_form.html",
            status=422 if error else 200,
            roles=list(UserRole),
            feeds=list(FeedKind),
            collections=list_collections(session),
            values=values,
            error=error,
        )


@router.get("/{token_id}/revoke")
def confirm_revocation(request: Request, _: Administrator, token_id: RowId) -> Response:
    """Ask for confirmation."""
    with transaction() as session:
        token = token_view(session, token_id)
    return render(
        request,
        "confirm.html",
        heading=f"Revoke {token.name}?",
        text="Programs that send this token are rejected from now on. It cannot be restored.",
        button="Revoke",
        back="/tokens",
    )


@router.post("/{token_id}/revoke")
def revoke_token(administrator: Administrator, token_id: RowId) -> Response:
    """Revoke the token."""
    with transaction() as session:
        name = delete_token(session, administrator, token_id)
    return redirect("/tokens", f'Token "{name}" revoked.')
