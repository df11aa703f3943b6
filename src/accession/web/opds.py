"""`/opds/v2`: the catalogue as OPDS 2.0, for reading apps and discovery layers."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from accession.accounts.collections import collections_in_use, get_collection
from accession.catalog.change_feed import is_past, last_change
from accession.catalog.search import TitleFilter, cursor_before, find_titles, newest_titles, title_facets
from accession.catalog.titles import TitleView, bisac_among, title_views
from accession.core.errors import NotFound
from accession.core.settings import get_settings
from accession.core.vocabulary import Format
from accession.db.engine import transaction
from accession.db.models import Collection, PoolStatus
from accession.exports.opds import (
    FEED,
    PUBLICATION,
    Feed,
    Part,
    Places,
    Publication,
    Sample,
    Shelf,
    catalog,
    collection_feed,
    publication,
    publications_feed,
    written,
)
from accession.web import covers
from accession.web.access import Principal, Reader
from accession.web.api.answers import NO_NUL, Id
from accession.web.api.titles import Identifier
from accession.web.problems import Refused

# The standard is its documentation, and that of the API has no part of it.
router = APIRouter(prefix="/opds/v2", include_in_schema=False)

_PAGE = 50
_SAMPLE = 12

Page = Annotated[str | None, Query(pattern=r"^[1-9][0-9]{0,8}\.[A-Za-z0-9_=-]{1,100}$")]
Chosen = Annotated[str | None, Query(max_length=50, pattern=NO_NUL)]
Availability = Annotated[str | None, Query(pattern="^(available|waiting)?$")]


@router.get("")
def show_catalog(request: Request, reader: Reader) -> Response:
    """The way to each collection that the reader may see."""
    with transaction() as session:
        collections = [
            (found.id, found.name)
            for found in collections_in_use(session)
            if reader.collection_id in (None, found.id)
        ]
        modified = last_change(session)
    return _answer(request, catalog(_places(request), collections), modified)


@router.get("/collections/{collection_id}")
def show_collection(request: Request, reader: Reader, collection_id: Id) -> Response:
    """What a collection has to offer."""
    with transaction() as session:
        collection = _collection(session, reader, collection_id)
        samples = _samples(session, collection)
        facets = title_facets(session, collection.name)
        shelf = _shelf(request, session, collection, [title for each in samples for title in each.titles])
        modified = last_change(session)
    return _answer(request, collection_feed(shelf, samples, facets), modified)


def _samples(session: Session, collection: Collection) -> list[Sample]:
    newest = newest_titles(session, collection.id, limit=_SAMPLE)
    samples = [Sample("Bought lately", newest.titles, {"purchased_from": newest.since})]
    held = TitleFilter(collection=collection.name, held=True)
    for name, wanted in (
        ("Available now", replace(held, availability="available")),
        ("Audiobooks", replace(held, format=Format.MP3.value)),
    ):
        found = find_titles(session, wanted, limit=_SAMPLE)
        total = found.total if found.total_is_exact else None
        samples.append(Sample(name, found.titles, _chosen(wanted), total))
    return samples


def _chosen(wanted: TitleFilter) -> dict[str, object]:
    return {
        "query": wanted.text,
        "format": wanted.format,
        "language": wanted.language,
        "availability": wanted.availability,
        "purchased_from": wanted.purchased_from,
    }


@router.get("/collections/{collection_id}/publications")
def list_publications(
    request: Request,
    reader: Reader,
    collection_id: Id,
    format: Chosen = None,  # noqa: A002 - the word of the catalogue
    language: Chosen = None,
    availability: Availability = None,
    purchased_from: date | None = None,
    page: Page = None,
) -> Response:
    """The collection's titles of which there are copies, in the order of their import, page by page."""
    wanted = TitleFilter(
        format=format, language=language, availability=availability, purchased_from=purchased_from
    )
    return _page(request, reader, collection_id, wanted, page)


@router.get("/collections/{collection_id}/search")
def search(
    request: Request,
    reader: Reader,
    collection_id: Id,
    query: Annotated[str, Query(min_length=1, max_length=200, pattern=NO_NUL)],
    format: Chosen = None,  # noqa: A002 - the word of the catalogue
    language: Chosen = None,
    availability: Availability = None,
    page: Page = None,
) -> Response:
    """Titles by their words, an ISBN or the vendor's id, best match first, page by page."""
    wanted = TitleFilter(text=query, format=format, language=language, availability=availability)
    return _page(request, reader, collection_id, wanted, page)


def _page(
    request: Request, reader: Principal, collection_id: int, wanted: TitleFilter, page: str | None
) -> Response:
    number, _, cursor = (page or "1.").partition(".")
    with transaction() as session:
        collection = _collection(session, reader, collection_id)
        in_it = replace(wanted, collection=collection.name, held=True)
        found = find_titles(session, in_it, cursor=cursor or None, limit=_PAGE)
        part = Part(
            found=found,
            size=_PAGE,
            number=int(number),
            page=page,
            previous=cursor_before(session, in_it, cursor, limit=_PAGE) if cursor else None,
            step="search" if wanted.text else "publications",
            chosen=_chosen(wanted),
        )
        facets = title_facets(session, collection.name)
        shelf = _shelf(request, session, collection, found.titles)
        modified = last_change(session)
    return _answer(request, publications_feed(shelf, part, facets), modified)


@router.get("/collections/{collection_id}/publications/{identifier}")
def show_publication(request: Request, reader: Reader, collection_id: Id, identifier: Identifier) -> Response:
    """One title of the collection."""
    with transaction() as session:
        collection = _collection(session, reader, collection_id)
        title = _title(session, collection, identifier)
        shelf = _shelf(request, session, collection, [title])
        modified = title.updated_at if is_past(session, title.updated_at) else None
    return _answer(request, publication(shelf, title), modified)


@router.get("/collections/{collection_id}/publications/{identifier}/cover")
def show_cover(reader: Reader, collection_id: Id, identifier: Identifier) -> Response:
    """The cover of a title of the collection: as at `/covers`, but where tokens for the feed lead to."""
    with transaction() as session:
        _title(session, _collection(session, reader, collection_id), identifier)
    return covers.cover(reader, identifier)


def _collection(session: Session, reader: Principal, collection_id: int) -> Collection:
    if reader.collection_id not in (None, collection_id):
        raise Refused(403, f'The token "{reader.name}" opens the feeds of one collection, and not of this.')
    return get_collection(session, collection_id)


def _title(session: Session, collection: Collection, identifier: str) -> TitleView:
    for title in title_views(session, collection=collection.name, identifiers=[identifier]):
        if title.status != PoolStatus.EXHAUSTED:
            return title
    raise NotFound(f'"{collection.name}" has no copy of a title with the id "{identifier}".')


def _shelf(request: Request, session: Session, collection: Collection, titles: Iterable[TitleView]) -> Shelf:
    return Shelf(
        places=_places(request),
        collection_id=collection.id,
        name=collection.name,
        library_id=collection.library_id,
        title_url_template=get_settings().title_url_template,
        bisac=bisac_among(session, (subject for title in titles for subject in title.subjects)),
    )


def _places(request: Request) -> Places:
    return Places(f"{request.base_url}opds/v2", request.query_params.get("token"))


# An answer, or that there is no other than the one that is known


def _answer(request: Request, document: Feed | Publication, modified: datetime | None) -> Response:
    body = written(document)
    headers = {
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        # It may be kept, and is to be asked for again before it is shown.
        "Cache-Control": "private, no-cache",
    }
    if modified is not None:
        headers["Last-Modified"] = format_datetime(modified.astimezone(UTC), usegmt=True)
    if _is_known(request, headers["ETag"], modified):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=FEED if isinstance(document, Feed) else PUBLICATION)


def _is_known(request: Request, etag: str, modified: datetime | None) -> bool:
    """Whether who asks has the document of this tag, or where no tag is said, one not older than it."""
    known = request.headers.get("if-none-match")
    if known is not None:
        return known.strip() == "*" or etag in re.findall(r'"[^"]*"', known)
    try:
        since = parsedate_to_datetime(request.headers.get("if-modified-since", ""))
        return modified is not None and modified.replace(microsecond=0) <= since
    except (TypeError, ValueError, OverflowError):
        return False
