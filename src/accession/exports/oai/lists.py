"""OAI-PMH lists: their state between pages, resumption tokens, and the titles they select."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from itsdangerous import BadData, URLSafeSerializer
from lxml.etree import _Element
from sqlalchemy.orm import Session

from accession.accounts.keys import derive_key
from accession.catalog.change_feed import FeedTitle, count_feed, max_pool_id
from accession.catalog.feed_filter import FeedFilter
from accession.core.vocabulary import Format
from accession.exports.oai.documents import METADATA_FORMATS, create_element
from accession.exports.oai.requests import (
    OaiError,
    OaiRequest,
    Repository,
    check_time_range,
    end_of,
    start_of,
)

# Counting every change since a time takes longer than a page of them.
_MAX_COUNT = 5_000

_PREFIX = re.compile(r"[A-Za-z0-9\-_.!~*'()]+")
_SET = re.compile(r"[A-Za-z0-9\-_.!~*'()]+(:[A-Za-z0-9\-_.!~*'()]+)*")
_ROW_ID = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class ListState:
    """State of a list between two pages, stored in the resumption token.

    Attributes:
        verb: Verb of the list.
        metadata_format: Prefix of the metadata format.
        set: Requested set.
        since: Argument `from`.
        until: Argument `until`.
        response_date: `responseDate` of all pages (ISO 8601).
        last_pool_id: Greatest pool id at the start of the list.
        final_pool_id: Pool id of the title at the end of the list, None while that is not needed.
        size: Number of titles, None if it was not counted.
        after: Pool id after which the next page starts.
        offset: Number of titles before the next page.
    """

    verb: str
    metadata_format: str
    set: str | None
    since: str | None
    until: str | None
    response_date: str
    last_pool_id: int
    final_pool_id: int | None = None
    size: int | None = None
    after: int = 0
    offset: int = 0


def parse_row_id(text: str) -> int | None:
    """Return the id of a database row, or None if the text is not one."""
    return int(text) if _ROW_ID.fullmatch(text) else None


def parse_metadata_prefix(request: OaiRequest) -> str:
    """Return the requested metadata prefix.

    Raises:
        OaiError: the prefix is malformed or unknown.
    """
    prefix = request.arguments["metadataPrefix"]
    if not _PREFIX.fullmatch(prefix):
        raise OaiError("badArgument", "The argument metadataPrefix is malformed.")
    if prefix not in METADATA_FORMATS:
        raise OaiError("cannotDisseminateFormat", f"The formats are {' and '.join(METADATA_FORMATS)}.")
    return prefix


def start_or_resume_list(request: OaiRequest) -> ListState:
    """Return the state of the list that a request starts or continues.

    Raises:
        OaiError: an argument or the resumption token is invalid.
    """
    if "resumptionToken" in request.arguments:
        return _resume_list(request)
    since, until = request.arguments.get("from"), request.arguments.get("until")
    check_time_range(since, until)
    set_spec = request.arguments.get("set")
    if set_spec is not None and not _SET.fullmatch(set_spec):
        raise OaiError("badArgument", "The argument set is malformed.")
    return ListState(
        verb=request.verb,
        metadata_format=parse_metadata_prefix(request),
        set=set_spec,
        since=since,
        until=until,
        response_date=request.complete_until.isoformat(),
        last_pool_id=max_pool_id(request.session),
    )


def _resume_list(request: OaiRequest) -> ListState:
    invalid = OaiError(
        "badResumptionToken", "The resumptionToken is not valid for this verb: start the list again."
    )
    try:
        state = ListState(**_serializer().loads(request.arguments["resumptionToken"]))
    except BadData:
        raise invalid from None
    if state.verb != request.verb:
        raise invalid
    return state


def build_resumption_token(state: ListState, page: Sequence[FeedTitle]) -> _Element:
    """Return the `resumptionToken` element after a page; an empty page marks the end of the list."""
    element = create_element("resumptionToken", cursor=str(state.offset))
    if state.size is not None:
        element.set("completeListSize", str(state.size))
    if page:
        next_state = replace(state, after=page[-1].pool_id, offset=state.offset + len(page))
        element.text = _serializer().dumps(asdict(next_state))
    return element


def _serializer() -> URLSafeSerializer:
    # The signature makes further checks of a token unnecessary. Increase the salt when ListState changes.
    return URLSafeSerializer(derive_key("resumption tokens of OAI-PMH"), salt="3")


def count_titles(session: Session, filters: FeedFilter) -> int | None:
    """Return the number of titles of a list, None if counting would take too long."""
    if filters.since is None and filters.until is None and filters.formats is None:
        return count_feed(session, filters)
    counted = count_feed(session, filters, at_most=_MAX_COUNT)
    return counted if counted < _MAX_COUNT else None


def list_filter(state: ListState, repository: Repository) -> FeedFilter:
    """Return the filter for the titles of a list.

    Raises:
        OaiError: the set does not exist.
    """
    filters = FeedFilter(
        collections=None if repository.collection_id is None else (repository.collection_id,),
        last_pool_id=state.last_pool_id,
        since=None if state.since is None else start_of(state.since),
        until=None if state.until is None else end_of(state.until),
        with_removed=True,
    )
    kind, _, name = (state.set or "collection").partition(":")
    if kind == "collection" and not name:
        return filters
    if kind == "collection" and (row_id := parse_row_id(name)) and repository.is_visible(row_id):
        return replace(filters, collections=(row_id,))
    formats = tuple(each.value for each in Format if name in ("", each))
    if kind == "format" and formats:
        return replace(filters, formats=formats)
    raise OaiError("noRecordsMatch", "The set does not exist: ListSets returns all sets.")
