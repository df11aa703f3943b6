"""OAI-PMH 2.0 endpoint `/oai` for harvesters (protocol in `exports.oai`)."""

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.exports.oai.requests import Repository
from accession.exports.oai.responses import respond
from accession.web.addresses import absolute_url
from accession.web.errors import HTTPProblem
from accession.web.principal import Reader

router = APIRouter(include_in_schema=False)

# Many times the length of the longest valid arguments.
_MAX_BODY_BYTES = 64 * 1024


async def _arguments(request: Request) -> list[tuple[str, str]]:
    """Return the protocol's arguments in their original order, including empty ones."""
    if request.method != "POST":
        return parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise HTTPProblem(413, "The OAI-PMH request is too long: send at most 64 KiB.")
    return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)


@router.api_route("/oai", methods=["GET", "POST"])
def oai(
    reader: Reader, request: Request, arguments: Annotated[list[tuple[str, str]], Depends(_arguments)]
) -> Response:
    """Answer an OAI-PMH request; errors of the protocol are documents with status 200."""
    repository = Repository(
        absolute_url(request, "/oai"), get_settings().oai_admin_email, reader.collection_id
    )
    with transaction() as session:
        return Response(respond(session, repository, arguments), media_type="text/xml")
