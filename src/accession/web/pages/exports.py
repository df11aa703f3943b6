"""The catalogue to take along: each format as a download, and the addresses of the feeds."""

import re
import threading
from typing import Annotated, BinaryIO
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from accession.accounts.collections import collections_in_use
from accession.catalog.change_feed import FeedFilter
from accession.core.clock import utc_now
from accession.core.errors import NotFound
from accession.db.engine import snapshot, transaction
from accession.exports.formats import FORMATS, find_format
from accession.web.access import Reader, Viewer
from accession.web.api.answers import NO_NUL
from accession.web.lists import Chosen, chosen, name_of
from accession.web.pages.rendering import render
from accession.web.streaming import streamed

router = APIRouter(prefix="/exports", include_in_schema=False)

# Each keeps a connection to the database; the others wait for their turn.
_AT_ONCE = 3
_turn = threading.BoundedSemaphore(_AT_ONCE)


@router.get("")
def offer(request: Request, _: Viewer) -> Response:
    """What can be downloaded, and from where feeds can be read."""
    with transaction() as session:
        base = str(request.base_url).rstrip("/")
        return render(
            request,
            "exports.html",
            formats=list(FORMATS.values()),
            collections=collections_in_use(session),
            feeds=[("OAI-PMH 2.0", f"{base}/oai"), ("OPDS 2.0", f"{base}/opds/v2")],
        )


@router.get("/download")
def download(
    reader: Reader,
    format: Annotated[str, Query(max_length=40, pattern=NO_NUL)],  # noqa: A002 - the word of the catalogue
    collection: Chosen = "",
) -> Response:
    """The titles of a collection, or of all that the reader may see, in the format."""
    made, collection_id = find_format(format), chosen(collection) or reader.collection_id
    if reader.collection_id not in (None, collection_id):
        raise NotFound(f"There is no collection with the id {collection_id}.")
    with transaction() as session:
        name = name_of(session, collection_id)
    wanted = FeedFilter(collections=None if collection_id is None else (collection_id,))

    def write(out: BinaryIO) -> None:
        with _turn, snapshot() as session:
            made.write(session, wanted, out, {}, lambda _: None)

    file = f"{_file_name(name or 'catalogue')}-{utc_now():%Y-%m-%d}{made.suffix}"
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file)}",
        "Cache-Control": "no-store",
    }
    return StreamingResponse(streamed(write), media_type=made.media_type, headers=headers)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name).strip("-").lower() or "collection"
