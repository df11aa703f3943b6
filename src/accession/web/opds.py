"""OPDS 2.0 feeds under `/opds/v2`, for reading apps and discovery layers (documents in `exports.opds`)."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection, list_collections
from accession.catalog.facets import title_facets
from accession.catalog.modification_times import is_complete_through, last_modification
from accession.catalog.pools import TitleNotHeld
from accession.catalog.recent_titles import recent_titles
from accession.catalog.search import find_titles, match_titles, previous_cursor
from accession.catalog.title_filter import TitleFilter
from accession.catalog.title_order import SortKey, TitleOrder
from accession.catalog.titles import TitleView, filter_bisac_subjects, find_title
from accession.core.settings import get_settings
from accession.core.vocabulary import Format
from accession.db.engine import transaction
from accession.db.models import Collection, PoolStatus
from accession.exports.opds.feeds import (
    PublicationsPage,
    TitleGroup,
    build_collection_feed,
    build_publications_feed,
    build_root_feed,
)
from accession.exports.opds.models import FEED_TYPE, PUBLICATION_TYPE, Feed, Publication, to_json
from accession.exports.opds.publications import build_publication
from accession.exports.opds.urls import FeedCollection, UrlBuilder
from accession.web import covers
from accession.web.addresses import absolute_url
from accession.web.conditional import conditional_response
from accession.web.errors import HTTPProblem
from accession.web.parameters import NO_NUL, FacetFilter, OpdsAvailability, OpdsPage, RowId, TitleId
from accession.web.principal import Principal, Reader

# OPDS is a standard of its own, so it is not in the API's OpenAPI document.
router = APIRouter(prefix="/opds/v2", include_in_schema=False)

_PAGE_SIZE = 50
_GROUP_SIZE = 12
# Clients that read a whole list miss no title, whatever changes meanwhile.
_ORDER = TitleOrder(SortKey.IMPORTED, is_descending=False)


@router.get("")
def show_catalog(request: Request, reader: Reader) -> Response:
    """Return the root feed, with a link to each collection that the caller may read."""
    with transaction() as session:
        collections = [
            (collection.id, collection.name)
            for collection in list_collections(session)
            if reader.collection_id in (None, collection.id)
        ]
        modified = last_modification(session)
    return _document_response(request, build_root_feed(_urls(request), collections), modified)


@router.get("/collections/{collection_id}")
def show_collection(request: Request, reader: Reader, collection_id: RowId) -> Response:
    """Return a collection's start feed: groups of sample titles, and facets."""
    with transaction() as session:
        collection = _readable_collection(session, reader, collection_id)
        groups = _title_groups(session, collection)
        facets = title_facets(session, collection.name)
        titles = [title for group in groups for title in group.titles]
        feed_collection = _feed_collection(request, session, collection, titles)
        modified = last_modification(session)
    return _document_response(request, build_collection_feed(feed_collection, groups, facets), modified)


def _title_groups(session: Session, collection: Collection) -> list[TitleGroup]:
    recent = recent_titles(session, collection.id, limit=_GROUP_SIZE)
    groups = [TitleGroup("Recently added", recent.titles, {"purchased_from": recent.since})]
    held = TitleFilter(collection=collection.name, held=True)
    for name, title_filter in (
        ("Available now", replace(held, availability="available")),
        ("Audiobooks", replace(held, format=Format.MP3.value)),
    ):
        page = find_titles(session, match_titles(session, title_filter), _ORDER, limit=_GROUP_SIZE)
        total = page.total if page.total_is_exact else None
        groups.append(TitleGroup(name, page.titles, _query_parameters(title_filter), total))
    return groups


def _query_parameters(title_filter: TitleFilter) -> dict[str, object]:
    return {
        "query": title_filter.text,
        "format": title_filter.format,
        "language": title_filter.language,
        "availability": title_filter.availability,
        "purchased_from": title_filter.purchased_from,
    }


@router.get("/collections/{collection_id}/publications")
def list_publications(
    request: Request,
    reader: Reader,
    collection_id: RowId,
    format: FacetFilter = None,  # noqa: A002 - the catalogue's term
    language: FacetFilter = None,
    availability: OpdsAvailability = None,
    purchased_from: date | None = None,
    page: OpdsPage = None,
) -> Response:
    """Return a page of the titles that the collection holds, in the order of their import."""
    title_filter = TitleFilter(
        format=format, language=language, availability=availability, purchased_from=purchased_from
    )
    return _publications_page(request, reader, collection_id, title_filter, page)


@router.get("/collections/{collection_id}/search")
def search(
    request: Request,
    reader: Reader,
    collection_id: RowId,
    query: Annotated[str, Query(min_length=1, max_length=200, pattern=NO_NUL)],
    format: FacetFilter = None,  # noqa: A002 - the catalogue's term
    language: FacetFilter = None,
    availability: OpdsAvailability = None,
    page: OpdsPage = None,
) -> Response:
    """Return a page of titles that match the words, ISBN or vendor's id, best match first."""
    title_filter = TitleFilter(text=query, format=format, language=language, availability=availability)
    return _publications_page(request, reader, collection_id, title_filter, page)


def _publications_page(
    request: Request, reader: Principal, collection_id: int, title_filter: TitleFilter, page: str | None
) -> Response:
    number, _, cursor = (page or "1.").partition(".")
    with transaction() as session:
        collection = _readable_collection(session, reader, collection_id)
        held = replace(title_filter, collection=collection.name, held=True)
        order = None if title_filter.text else _ORDER
        matches = match_titles(session, held)
        titles = find_titles(session, matches, order, cursor=cursor or None, limit=_PAGE_SIZE)
        previous = previous_cursor(session, matches, order, cursor, limit=_PAGE_SIZE) if cursor else None
        publications_page = PublicationsPage(
            titles=titles,
            size=_PAGE_SIZE,
            number=int(number),
            position=page,
            previous_cursor=previous,
            path="search" if title_filter.text else "publications",
            filters=_query_parameters(title_filter),
        )
        facets = title_facets(session, collection.name)
        feed_collection = _feed_collection(request, session, collection, titles.titles)
        modified = last_modification(session)
    return _document_response(
        request, build_publications_feed(feed_collection, publications_page, facets), modified
    )


@router.get("/collections/{collection_id}/publications/{identifier}")
def show_publication(request: Request, reader: Reader, collection_id: RowId, identifier: TitleId) -> Response:
    """Return one title of the collection."""
    with transaction() as session:
        collection = _readable_collection(session, reader, collection_id)
        title = _held_title(session, collection, identifier)
        feed_collection = _feed_collection(request, session, collection, [title])
        modified = title.updated_at if is_complete_through(session, title.updated_at) else None
    return _document_response(request, build_publication(feed_collection, title), modified)


@router.get("/collections/{collection_id}/publications/{identifier}/cover")
def show_cover(reader: Reader, collection_id: RowId, identifier: TitleId) -> Response:
    """Return a title's cover, or a plain one, at a URL that tokens for this feed may read."""
    with transaction() as session:
        _held_title(session, _readable_collection(session, reader, collection_id), identifier)
    return covers.bitmap_cover_response(identifier)


def _readable_collection(session: Session, reader: Principal, collection_id: int) -> Collection:
    if reader.collection_id not in (None, collection_id):
        raise HTTPProblem(
            403, f'The token "{reader.name}" only allows reading the feeds of another collection.'
        )
    return get_collection(session, collection_id)


def _held_title(session: Session, collection: Collection, identifier: str) -> TitleView:
    title = find_title(session, collection.name, identifier)
    if title.status == PoolStatus.EXHAUSTED:
        raise TitleNotHeld(collection.name, identifier)
    return title


def _feed_collection(
    request: Request, session: Session, collection: Collection, titles: Iterable[TitleView]
) -> FeedCollection:
    return FeedCollection(
        urls=_urls(request),
        collection_id=collection.id,
        name=collection.name,
        library_id=collection.library_id,
        title_url_template=get_settings().title_url_template,
        bisac_subjects=filter_bisac_subjects(
            session, (subject for title in titles for subject in title.subjects)
        ),
    )


def _urls(request: Request) -> UrlBuilder:
    return UrlBuilder(absolute_url(request, router.prefix), request.query_params.get("token"))


def _document_response(request: Request, document: Feed | Publication, modified: datetime | None) -> Response:
    """Return the document, or 304 if the client's copy is current."""
    media_type = FEED_TYPE if isinstance(document, Feed) else PUBLICATION_TYPE
    return conditional_response(request, to_json(document), media_type, modified)
