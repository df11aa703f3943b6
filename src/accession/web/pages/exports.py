"""Exports page: downloads in every format, and the URLs of the feeds."""

import re
import threading
from typing import Annotated, BinaryIO
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from accession.accounts.collections import list_collections
from accession.auth.audit import AuditAction, record
from accession.catalog.feed_filter import FeedFilter
from accession.core.clock import utc_now
from accession.core.errors import NotFound
from accession.db.engine import snapshot, transaction
from accession.exports.formats import FORMATS, find_format
from accession.web.pages.rendering import render
from accession.web.parameters import NO_NUL, FormCollection, collection_name, parse_collection_id
from accession.web.principal import Reader, Viewer
from accession.web.streaming import stream_output

router = APIRouter(prefix="/exports", include_in_schema=False)

# Each running download holds a database connection; further ones wait.
_MAX_CONCURRENT_DOWNLOADS = 3
_download_slots = threading.BoundedSemaphore(_MAX_CONCURRENT_DOWNLOADS)


@router.get("")
def show_exports(request: Request, _: Viewer) -> Response:
    """Show the download form and the URLs of the feeds."""
    with transaction() as session:
        base = str(request.base_url).rstrip("/")
        return render(
            request,
            "exports.html",
            formats=list(FORMATS.values()),
            collections=list_collections(session),
            feeds=[("OAI-PMH 2.0", f"{base}/oai"), ("OPDS 2.0", f"{base}/opds/v2")],
        )


@router.get("/download")
def download(
    reader: Reader,
    format: Annotated[str, Query(max_length=40, pattern=NO_NUL)],  # noqa: A002 - the catalogue's term
    collection: FormCollection = "",
) -> Response:
    """Download the titles of a collection, or of all that the caller may read, in the format."""
    export_format = find_format(format)
    collection_id = parse_collection_id(collection) or reader.collection_id
    if reader.collection_id not in (None, collection_id):
        raise NotFound(f"No collection has the id {collection_id}.")
    with transaction() as session:
        name = collection_name(session, collection_id)
        details = {"collections": "all" if name is None else [name]}
        record(session, reader.actor, AuditAction.EXPORT_CREATE, export_format.name, details)
    title_filter = FeedFilter(collections=None if collection_id is None else (collection_id,))

    def write(out: BinaryIO) -> None:
        with _download_slots, snapshot() as session:
            export_format.write(session, title_filter, out, {}, lambda _: None)

    file_name = f"{_slug(name or 'catalogue')}-{utc_now():%Y-%m-%d}{export_format.suffix}"
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file_name)}",
        "Cache-Control": "no-store",
    }
    return StreamingResponse(stream_output(write), media_type=export_format.media_type, headers=headers)


def _slug(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name).strip("-").lower() or "collection"
