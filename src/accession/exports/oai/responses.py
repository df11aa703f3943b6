"""OAI-PMH responses: one function per verb."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from urllib.parse import unquote

from lxml.etree import _Element
from sqlalchemy.orm import Session

from accession.accounts.views import collection_names
from accession.catalog.change_feed import FeedTitle, latest_pool_id, read_feed
from accession.catalog.feed_filter import FeedFilter
from accession.catalog.modification_times import complete_until, earliest_modification
from accession.core.clock import parse_datetime
from accession.core.vocabulary import Format
from accession.exports.oai.documents import (
    METADATA_FORMATS,
    OaiResponse,
    add_element,
    build_document,
    build_header,
    build_identifier_description,
    build_record,
    create_element,
    error_element,
    format_time,
    identifier_prefix,
    record_identifier,
)
from accession.exports.oai.lists import (
    ListState,
    build_resumption_token,
    count_titles,
    list_filter,
    parse_metadata_prefix,
    parse_row_id,
    start_or_resume_list,
)
from accession.exports.oai.requests import OaiError, OaiRequest, Repository, parse_request

_PAGE_SIZE = 100
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")


def respond(session: Session, repository: Repository, arguments: Sequence[tuple[str, str]]) -> bytes:
    """Return the document for a request; invalid arguments give a document with an error."""
    moment = complete_until(session)
    echoed: Mapping[str, str] = {}
    try:
        request = parse_request(session, repository, moment, arguments)
        echoed = dict(arguments)
        response = _VERBS[request.verb](request)
    except OaiError as error:
        if error.code == "badArgument":
            # The protocol forbids attributes in the request element then.
            echoed = {}
        response = OaiResponse(moment, (error_element(error),))
    return build_document(response, create_element("request", repository.base_url, **echoed))


def _identify(request: OaiRequest) -> OaiResponse:
    element = create_element("Identify")
    # Datestamps in lists are not after the response date.
    earliest = min(earliest_modification(request.session) or request.complete_until, request.complete_until)
    for name, text in (
        ("repositoryName", "Accession"),
        ("baseURL", request.repository.base_url),
        ("protocolVersion", "2.0"),
        ("adminEmail", request.repository.admin_email),
        ("earliestDatestamp", format_time(earliest)),
        ("deletedRecord", "persistent"),
        ("granularity", "YYYY-MM-DDThh:mm:ssZ"),
        ("compression", "gzip"),
    ):
        add_element(element, name, text)
    element.append(build_identifier_description(request.namespace))
    return OaiResponse(request.complete_until, (element,))


def _list_metadata_formats(request: OaiRequest) -> OaiResponse:
    if "identifier" in request.arguments:
        _find_title(request)
    element = create_element("ListMetadataFormats")
    for prefix, metadata_format in METADATA_FORMATS.items():
        entry = add_element(element, "metadataFormat")
        add_element(entry, "metadataPrefix", prefix)
        add_element(entry, "schema", metadata_format.schema)
        add_element(entry, "metadataNamespace", metadata_format.namespace)
    return OaiResponse(request.complete_until, (element,))


def _list_sets(request: OaiRequest) -> OaiResponse:
    if "resumptionToken" in request.arguments:
        raise OaiError("badResumptionToken", "The list of sets has one page and no resumptionToken.")
    # Collections marked for deletion are included: their titles are reported as deleted.
    names = collection_names(request.session)
    sets = {
        "collection": "Every collection",
        **{
            f"collection:{collection_id}": name
            for collection_id, name in names.items()
            if request.repository.is_visible(collection_id)
        },
        "format": "Every format",
        **{f"format:{each}": each.upper() for each in Format},
    }
    element = create_element("ListSets")
    for spec, name in sets.items():
        entry = add_element(element, "set")
        add_element(entry, "setSpec", spec)
        add_element(entry, "setName", name)
    return OaiResponse(request.complete_until, (element,))


def _get_record(request: OaiRequest) -> OaiResponse:
    metadata_format = METADATA_FORMATS[parse_metadata_prefix(request)]
    title = _find_title(request, with_marc=metadata_format.needs_marc)
    element = create_element("GetRecord")
    element.append(build_record(title, request.namespace, metadata_format))
    return OaiResponse(request.complete_until, (element,))


def _list_identifiers(request: OaiRequest) -> OaiResponse:
    return _list_page(request, lambda entry, _: build_header(entry, request.namespace))


def _list_records(request: OaiRequest) -> OaiResponse:
    return _list_page(
        request, lambda entry, prefix: build_record(entry, request.namespace, METADATA_FORMATS[prefix])
    )


def _list_page(request: OaiRequest, build: Callable[[FeedTitle, str], _Element]) -> OaiResponse:
    state = start_or_resume_list(request)
    filters = list_filter(state, request.repository)
    response_date = parse_datetime(state.response_date)
    state, titles = _read_page(request, state, filters)
    if not titles:
        return OaiResponse(response_date, (error_element(_empty_page_error(state)),))
    page, has_more = titles[:_PAGE_SIZE], len(titles) > _PAGE_SIZE
    if has_more and state.offset == 0:
        state = replace(state, size=count_titles(request.session, filters))
    element = create_element(request.verb)
    element.extend(
        build(_limit_datestamp(entry, response_date, filters.since), state.metadata_format) for entry in page
    )
    if has_more or state.offset:
        element.append(build_resumption_token(state, page if has_more else ()))
    return OaiResponse(response_date, (element,))


def _read_page(
    request: OaiRequest, state: ListState, filters: FeedFilter
) -> tuple[ListState, Sequence[FeedTitle]]:
    """Return the titles of a page, and another if more pages follow; the latest title ends the list."""
    needs_marc = request.verb == "ListRecords" and METADATA_FORMATS[state.metadata_format].needs_marc
    session, limit = request.session, _PAGE_SIZE + 1
    titles = list(read_feed(session, filters, after=state.after, limit=limit + 1, with_marc=needs_marc))
    if state.offset == 0:
        if len(titles) < limit:
            return state, titles
        state = replace(state, final_pool_id=latest_pool_id(session, filters))
    titles = [title for title in titles if title.pool_id != state.final_pool_id]
    if len(titles) < limit and state.final_pool_id is not None:
        final = replace(filters, last_pool_id=state.final_pool_id)
        titles += read_feed(session, final, after=state.final_pool_id - 1, with_marc=needs_marc)
    return state, titles


def _empty_page_error(state: ListState) -> OaiError:
    if state.offset == 0:
        return OaiError("noRecordsMatch", "No record matches this set and time range.")
    # Harvesters keep the token after any other error, and would never finish the list.
    return OaiError(
        "badResumptionToken", "The remaining records left the set or time range: start the list again."
    )


def _limit_datestamp(entry: FeedTitle, response_date: datetime, since: datetime | None) -> FeedTitle:
    """Return a title with a datestamp that is not after the `responseDate` of the list.

    A harvester that starts its next harvest at a datestamp then misses no change of another title.
    """
    limited = min(entry.modified_at, response_date)
    return replace(entry, modified_at=limited if since is None else max(limited, since))


def _find_title(request: OaiRequest, *, with_marc: bool = False) -> FeedTitle:
    identifier = request.arguments["identifier"]
    if not _URI.fullmatch(identifier):
        raise OaiError("badArgument", "The argument identifier is not a URI.")
    unknown = OaiError("idDoesNotExist", "There is no record with this identifier.")
    collection, _, name = identifier.removeprefix(identifier_prefix(request.namespace)).partition("/")
    collection_id, name = parse_row_id(collection), unquote(name)
    if collection_id is None or "\0" in name or not request.repository.is_visible(collection_id):
        raise unknown
    filters = FeedFilter(collections=(collection_id,), identifiers=(name,), with_removed=True)
    for entry in read_feed(request.session, filters, limit=1, with_marc=with_marc):
        # Only the canonical spelling is valid.
        if record_identifier(entry, request.namespace) == identifier:
            return entry
    raise unknown


_VERBS = {
    "GetRecord": _get_record,
    "Identify": _identify,
    "ListIdentifiers": _list_identifiers,
    "ListMetadataFormats": _list_metadata_formats,
    "ListRecords": _list_records,
    "ListSets": _list_sets,
}
