"""Exports page: downloads and scheduled exports in every format, and the URLs of the feeds."""

import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import StringConstraints

from accession.accounts.collections import get_collection, list_collections
from accession.auth.audit import AuditAction, record
from accession.catalog.change_feed import count_feed
from accession.catalog.feed_filter import FeedFilter
from accession.core.clock import utc_now
from accession.core.csv_files import Delimiter
from accession.core.errors import NotFound
from accession.db.engine import snapshot, transaction
from accession.db.models import Collection
from accession.digests.views import find_digest_view
from accession.exports.formats import FORMATS, find_format
from accession.exports.selection import parse_since
from accession.exports.tables import COLUMNS
from accession.runs.scheduled_exports import ScheduledExportView, scheduled_exports
from accession.web.addresses import absolute_url
from accession.web.feeds import feed_addresses
from accession.web.pages.rendering import render
from accession.web.parameters import NO_NUL, FormCollection, collection_name, parse_collection_id
from accession.web.principal import Reader, Viewer
from accession.web.streaming import stream_output

router = APIRouter(prefix="/exports", include_in_schema=False)

ColumnName = Annotated[str, StringConstraints(max_length=40, pattern=NO_NUL)]

# Counting more would take longer than the rest of the page.
_MAX_COUNTED_TITLES = 10_000
# Each running download holds a database connection; further ones wait.
_MAX_CONCURRENT_DOWNLOADS = 3
_download_slots = threading.BoundedSemaphore(_MAX_CONCURRENT_DOWNLOADS)


@router.get("")
def show_exports(request: Request, _: Viewer, collection: FormCollection = "") -> Response:
    """Show the formats with their scheduled exports, and the feeds, of one collection or of all."""
    collection_id = parse_collection_id(collection)
    with transaction() as session:
        selected = None if collection_id is None else get_collection(session, collection_id)
        has_digest = selected is not None and find_digest_view(session, selected) is not None
        scheduled = scheduled_exports(session)
        return render(
            request,
            "exports.html",
            formats=list(FORMATS.values()),
            columns=COLUMNS,
            delimiters=list(Delimiter),
            scheduled={
                name: [each for each in scheduled if each.format == name and _includes(each, selected)]
                for name in FORMATS
            },
            collections=list_collections(session),
            selected=selected,
            titles=count_feed(session, _filter(collection_id), at_most=_MAX_COUNTED_TITLES),
            max_titles=_MAX_COUNTED_TITLES,
            feeds=[
                (feed, absolute_url(request, feed.path))
                for feed in feed_addresses(selected, has_digest=has_digest)
            ],
            has_digest=has_digest,
        )


def _includes(export: ScheduledExportView, collection: Collection | None) -> bool:
    return collection is None or not export.collections or collection.name in export.collections


def _filter(collection_id: int | None) -> FeedFilter:
    return FeedFilter(collections=None if collection_id is None else (collection_id,))


def _options(
    columns: Annotated[list[ColumnName], Query(max_length=len(COLUMNS))] = [],  # noqa: B006
    delimiter: Annotated[Delimiter | Literal[""], Query()] = "",
    bom: bool = False,
    availability: bool = False,
    url_template: Annotated[str, Query(max_length=500, pattern=NO_NUL)] = "",
) -> Mapping[str, Any]:
    """Return the options of the format that the address has; a form sends empty ones, too."""
    options = {
        "columns": columns,
        "delimiter": delimiter,
        "bom": bom,
        "availability": availability,
        "url_template": url_template.strip(),
    }
    return {name: value for name, value in options.items() if value}


@router.get("/download")
def download(
    reader: Reader,
    options: Annotated[Mapping[str, Any], Depends(_options)],
    format: Annotated[str, Query(max_length=40, pattern=NO_NUL)],  # noqa: A002 - the catalogue's term
    collection: FormCollection = "",
    since: Annotated[str, Query(max_length=40, pattern=NO_NUL)] = "",
) -> Response:
    """Download the titles of a collection, or of all that the caller may read, in the format."""
    export_format = find_format(format)
    collection_id = parse_collection_id(collection) or reader.collection_id
    if reader.collection_id not in (None, collection_id):
        raise NotFound(f"No collection has the id {collection_id}.")
    title_filter = _filter(collection_id)
    if since.strip():
        title_filter = replace(title_filter, since=parse_since(since), with_removed=True)
    export_format.check_options(options, title_filter)
    with transaction() as session:
        name = collection_name(session, collection_id)
        details = {"collections": "all" if name is None else [name], "since": since.strip() or None}
        record(session, reader.actor, AuditAction.EXPORT_CREATE, export_format.name, details)

    def write(out: BinaryIO) -> None:
        with _download_slots, snapshot() as session:
            export_format.write(session, title_filter, out, options, lambda _: None)

    file_name = f"{_slug(name or 'catalogue')}-{utc_now():%Y-%m-%d}{export_format.suffix}"
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file_name)}",
        "Cache-Control": "no-store",
    }
    return StreamingResponse(stream_output(write), media_type=export_format.media_type, headers=headers)


def _slug(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name).strip("-").lower() or "collection"
