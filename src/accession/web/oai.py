"""`/oai`: the catalogue for harvesters, by OAI-PMH 2.0 (`exports.oai`)."""

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.exports.oai import Repository, respond
from accession.web.access import Reader
from accession.web.problems import Refused

router = APIRouter(include_in_schema=False)

# Many times what the longest arguments take.
_LARGEST = 64 * 1024


async def _arguments(request: Request) -> list[tuple[str, str]]:
    """The arguments in the order in which they were sent, also those that were sent empty."""
    if request.method != "POST":
        return parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST:
            raise Refused(413, "A request of OAI-PMH has no more than 64 KiB.")
    return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)


@router.api_route("/oai", methods=["GET", "POST"])
def oai(
    reader: Reader, request: Request, arguments: Annotated[list[tuple[str, str]], Depends(_arguments)]
) -> Response:
    """The document that answers the request, which may be an error of the protocol's."""
    # As it was asked for: to take a strange host apart may fail.
    base_url = str(request.url).partition("?")[0]
    repository = Repository(base_url, get_settings().oai_admin_email, reader.collection_id)
    with transaction() as session:
        return Response(respond(session, repository, arguments), media_type="text/xml")
