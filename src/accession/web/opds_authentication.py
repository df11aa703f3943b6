"""Authentication for the OPDS feeds: the document at its own address, and with each refusal."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from accession.exports.opds.authentication import (
    AUTHENTICATION_REL,
    AUTHENTICATION_TYPE,
    build_authentication_document,
)
from accession.web.addresses import absolute_url
from accession.web.errors import HTTPProblem

AUTHENTICATION_PATH = "/opds/v2/authentication"

router = APIRouter(include_in_schema=False)


@router.get(AUTHENTICATION_PATH)
def show_authentication(request: Request) -> Response:
    """Return the document; it is public."""
    return Response(_document(request), media_type=AUTHENTICATION_TYPE)


def authentication_response(request: Request, problem: HTTPProblem, *, has_token: bool) -> Response:
    """Return the document as the response to a request without a valid token; it describes an invalid one."""
    link = f'<{_url(request)}>; rel="{AUTHENTICATION_REL}"; type="{AUTHENTICATION_TYPE}"'
    headers = {**problem.headers, "Link": link}
    document = _document(request, problem.detail if has_token else None)
    return Response(document, problem.status, headers, media_type=AUTHENTICATION_TYPE)


def _document(request: Request, description: str | None = None) -> bytes:
    start_url, logo_url = absolute_url(request, "/opds/v2"), absolute_url(request, "/static/icon.svg")
    return build_authentication_document(_url(request), start_url, logo_url, description)


def _url(request: Request) -> str:
    return absolute_url(request, AUTHENTICATION_PATH)
