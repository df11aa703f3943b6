"""OAI-PMH 2.0: from the arguments of a request to the document that answers it.

`respond` is the way in; each verb is one function of `_VERBS`. A record is a collection's title; its item
lasts as long as the catalogue, so what a collection has no more is told as deleted for ever.

A list goes through the titles in the order of their pools' ids, which never change, up to the greatest id of
its beginning. So it ends; and whatever is changed, added or removed while somebody harvests, each title is
told at most once, in its place, as it is when its page is asked for. What changes in its back is told by the
next harvest.

Every answer is dated with the moment up to which the catalogue was complete (`catalog.feed.complete_until`),
every page of a list with that of the first: a transaction may commit a title after the answer under a moment
before it, and a title may change behind the list's back. A harvester that begins the next time at any
`responseDate` of this time misses neither; it gets some titles twice, in two harvests.
"""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, time
from urllib.parse import quote, unquote

from itsdangerous import BadData, URLSafeSerializer
from lxml.etree import Element, QName, SubElement, _Element, fromstring, tostring
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.accounts.keys import derived_key
from accession.catalog.change_feed import (
    FeedFilter,
    FeedTitle,
    complete_until,
    count_feed,
    earliest_modification,
    feed,
    greatest_pool_id,
    installation_id,
)
from accession.core.clock import moment_of
from accession.core.vocabulary import Format
from accession.db.models import Collection
from accession.exports import dublin_core
from accession.exports.iso2709 import MARC_NAMESPACE
from accession.exports.marc import Profile, loadable_parts
from accession.exports.xml import SCHEMA_LOCATION, XSI, clean

NAMESPACE = "http://www.openarchives.org/OAI/2.0/"
_SCHEMA = "http://www.openarchives.org/OAI/2.0/OAI-PMH.xsd"
_MARC_SCHEMA = "http://www.loc.gov/standards/marcxml/schema/MARC21slim.xsd"
_PAGE = 100
# To count every change since a moment takes longer than to tell a page of them.
_MOST_COUNTED = 5_000

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_PREFIX = re.compile(r"[A-Za-z0-9\-_.!~*'()]+")
_SET = re.compile(r"[A-Za-z0-9\-_.!~*'()]+(:[A-Za-z0-9\-_.!~*'()]+)*")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SECOND = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
# What a row's id can be.
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


class OaiError(Exception):
    """What the protocol calls an error, by its code and in words."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Repository:
    """Where it is asked, by which name harvesters know it, whom they may write to, and, where it is shown of
    one collection alone, of which."""

    base_url: str
    admin_email: str
    collection_id: int | None = None

    def shows(self, collection_id: int) -> bool:
        """Whether the collection is shown."""
        return self.collection_id in (None, collection_id)


@dataclass(frozen=True)
class _Asked:
    """A request whose arguments are among those of its verb. `moment` is up to when (UTC) the catalogue was
    complete as it came; the identifier of every record begins with `namespace`."""

    session: Session
    repository: Repository
    moment: datetime
    namespace: str
    verb: str
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class _Told:
    """What answers a request: the content of its document, and the moment (UTC) of which it is dated."""

    moment: datetime
    content: tuple[_Element, ...]


@dataclass(frozen=True)
class _Verb:
    """What a verb does, and with which arguments; `paged`: or else with a resumption token alone."""

    tell: Callable[[_Asked], _Told]
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    paged: bool = False


@dataclass(frozen=True)
class _MetadataFormat:
    schema: str
    namespace: str
    record: Callable[[FeedTitle], _Element]
    needs_marc: bool = False


@dataclass(frozen=True)
class _List:
    """A list that is being harvested, as its resumption token carries it: what was asked for, when (`begun`,
    ISO 8601), up to which pool's id it goes and how many titles it has, None where nobody has counted; and
    after which pool's id its next page begins, `told` titles in."""

    verb: str
    metadata_format: str
    set: str | None
    since: str | None
    until: str | None
    begun: str
    last_pool_id: int
    size: int | None = None
    after: int = 0
    told: int = 0


def respond(session: Session, repository: Repository, arguments: Sequence[tuple[str, str]]) -> bytes:
    """The document that answers a request with these arguments, whatever they are: for those that the
    protocol does not allow one that says so."""
    moment = complete_until(session)
    shown: Mapping[str, str] = {}
    try:
        asked = _understood(session, repository, moment, arguments)
        shown = dict(arguments)
        told = _VERBS[asked.verb].tell(asked)
    except OaiError as error:
        if error.code == "badArgument":
            shown = {}
        told = _Told(moment, (_error(error),))
    return _document(told, _element("request", repository.base_url, **shown))


def _understood(
    session: Session, repository: Repository, moment: datetime, arguments: Sequence[tuple[str, str]]
) -> _Asked:
    """Raises `OaiError`."""
    given = dict(arguments)
    verb = _VERBS.get(given.get("verb", ""))
    if verb is None or sum(name == "verb" for name, _ in arguments) > 1:
        raise OaiError("badVerb", f"The argument verb has to be one of {', '.join(_VERBS)}, once.")
    if len(given) < len(arguments):
        raise OaiError("badArgument", "An argument is given twice.")
    name = given.pop("verb")
    _check_arguments(name, verb, given.keys())
    # Nothing of the address: behind a proxy, or at another one, the records are the same.
    namespace = f"oai:accession-{installation_id(session)}:"
    return _Asked(session, repository, moment, namespace, name, given)


def _check_arguments(name: str, verb: _Verb, given: Set[str]) -> None:
    if verb.paged and "resumptionToken" in given:
        if len(given) > 1:
            raise OaiError("badArgument", "A resumptionToken has no other argument beside it.")
        return
    if missing := sorted(verb.required - given):
        raise OaiError("badArgument", f"{name} needs the argument {missing[0]}.")
    if more := sorted(given - verb.required - verb.optional):
        raise OaiError("badArgument", f'{name} has no argument "{more[0]}".')


def _document(told: _Told, request: _Element) -> bytes:
    root = Element(QName(NAMESPACE, "OAI-PMH"), nsmap={None: NAMESPACE, "xsi": XSI})
    root.set(SCHEMA_LOCATION, f"{NAMESPACE} {_SCHEMA}")
    _add(root, "responseDate", _stamp(told.moment))
    root.append(request)
    root.extend(told.content)
    return tostring(root, xml_declaration=True, encoding="UTF-8")


def _identify(asked: _Asked) -> _Told:
    identity = _element("Identify")
    for name, text in (
        ("repositoryName", "Accession"),
        ("baseURL", asked.repository.base_url),
        ("protocolVersion", "2.0"),
        ("adminEmail", asked.repository.admin_email),
        ("earliestDatestamp", _stamp(earliest_modification(asked.session) or asked.moment)),
        ("deletedRecord", "persistent"),
        ("granularity", "YYYY-MM-DDThh:mm:ssZ"),
        ("compression", "gzip"),
    ):
        _add(identity, name, text)
    return _Told(asked.moment, (identity,))


def _list_metadata_formats(asked: _Asked) -> _Told:
    if "identifier" in asked.arguments:
        _title_of(asked)
    listed = _element("ListMetadataFormats")
    for prefix, kind in _FORMATS.items():
        described = _add(listed, "metadataFormat")
        _add(described, "metadataPrefix", prefix)
        _add(described, "schema", kind.schema)
        _add(described, "metadataNamespace", kind.namespace)
    return _Told(asked.moment, (listed,))


def _list_sets(asked: _Asked) -> _Told:
    if "resumptionToken" in asked.arguments:
        raise OaiError("badResumptionToken", "The list of sets has one page and no resumptionToken.")
    # With those that are leaving: their titles are still told, as deleted.
    collections = asked.session.execute(select(Collection.id, Collection.name).order_by(Collection.id))
    sets = {
        "collection": "Every collection",
        **{
            f"collection:{collection_id}": name
            for collection_id, name in collections
            if asked.repository.shows(collection_id)
        },
        "format": "Every format",
        **{f"format:{each}": each.upper() for each in Format},
    }
    listed = _element("ListSets")
    for spec, name in sets.items():
        described = _add(listed, "set")
        _add(described, "setSpec", spec)
        _add(described, "setName", name)
    return _Told(asked.moment, (listed,))


def _get_record(asked: _Asked) -> _Told:
    prefix = _prefix_of(asked)
    record = _record(asked, prefix, _title_of(asked, with_marc=_FORMATS[prefix].needs_marc))
    told = _element("GetRecord")
    told.append(record)
    return _Told(asked.moment, (told,))


def _list_identifiers(asked: _Asked) -> _Told:
    return _listed(asked, lambda _, found: _header(asked, found))


def _list_records(asked: _Asked) -> _Told:
    return _listed(asked, lambda prefix, found: _record(asked, prefix, found))


def _listed(asked: _Asked, tell: Callable[[str, FeedTitle], _Element]) -> _Told:
    harvest = _list_of(asked)
    wanted = _wanted(harvest, asked.repository)
    needs_marc = asked.verb == "ListRecords" and _FORMATS[harvest.metadata_format].needs_marc
    found = list(feed(asked.session, wanted, after=harvest.after, limit=_PAGE + 1, with_marc=needs_marc))
    begun = moment_of(harvest.begun)
    if not found:
        # Also what is left of a list may have moved on, out of its time or its set.
        return _Told(begun, (_error(OaiError("noRecordsMatch", "No record is of this set and this time.")),))
    page, has_more = found[:_PAGE], len(found) > _PAGE
    if has_more and harvest.told == 0:
        harvest = replace(harvest, size=_size(asked.session, wanted))
    listed = _element(asked.verb)
    listed.extend(tell(harvest.metadata_format, each) for each in page)
    if has_more or harvest.told:
        listed.append(_resumption(harvest, page if has_more else ()))
    return _Told(begun, (listed,))


def _list_of(asked: _Asked) -> _List:
    """The list that the request begins, or goes on with."""
    if "resumptionToken" in asked.arguments:
        return _resumed(asked)
    since, until = asked.arguments.get("from"), asked.arguments.get("until")
    _check_times(since, until)
    wanted_set = asked.arguments.get("set")
    if wanted_set is not None and not _SET.fullmatch(wanted_set):
        raise OaiError("badArgument", "The argument set is none that a set could have.")
    return _List(
        verb=asked.verb,
        metadata_format=_prefix_of(asked),
        set=wanted_set,
        since=since,
        until=until,
        begun=asked.moment.isoformat(),
        last_pool_id=greatest_pool_id(asked.session),
    )


def _resumed(asked: _Asked) -> _List:
    try:
        harvest = _List(**_signer().loads(asked.arguments["resumptionToken"]))
    except BadData:
        raise _bad_token() from None
    if harvest.verb != asked.verb:
        raise _bad_token()
    return harvest


def _bad_token() -> OaiError:
    return OaiError(
        "badResumptionToken", "This resumptionToken is none of this verb's: begin the list again."
    )


def _resumption(harvest: _List, page: Sequence[FeedTitle]) -> _Element:
    """The page's resumptionToken, which is empty after the last one."""
    element = _element("resumptionToken", cursor=str(harvest.told))
    if harvest.size is not None:
        element.set("completeListSize", str(harvest.size))
    if page:
        coming = replace(harvest, after=page[-1].pool_id, told=harvest.told + len(page))
        element.text = _signer().dumps(asdict(coming))
    return element


def _signer() -> URLSafeSerializer:
    # What is signed needs no check when it comes back. Another form of it is another version.
    return URLSafeSerializer(derived_key("resumption tokens of OAI-PMH"), salt="1")


def _size(session: Session, wanted: FeedFilter) -> int | None:
    """How many titles a list has; None where it would take too long to tell."""
    if wanted.since is None and wanted.until is None and wanted.formats is None:
        return count_feed(session, wanted)
    counted = count_feed(session, wanted, at_most=_MOST_COUNTED)
    return counted if counted < _MOST_COUNTED else None


def _wanted(harvest: _List, repository: Repository) -> FeedFilter:
    """Raises `OaiError` when there is no such set."""
    wanted = FeedFilter(
        collections=None if repository.collection_id is None else (repository.collection_id,),
        last_pool_id=harvest.last_pool_id,
        since=None if harvest.since is None else _begin(harvest.since),
        until=None if harvest.until is None else _end(harvest.until),
        with_removed=True,
    )
    kind, _, name = (harvest.set or "collection").partition(":")
    if kind == "collection" and not name:
        return wanted
    if kind == "collection" and _NUMBER.fullmatch(name) and repository.shows(int(name)):
        return replace(wanted, collections=(int(name),))
    formats = tuple(each.value for each in Format if name in ("", each))
    if kind == "format" and formats:
        return replace(wanted, formats=formats)
    raise OaiError("noRecordsMatch", "There is no such set: ListSets tells which there are.")


def _check_times(since: str | None, until: str | None) -> None:
    given = [text for text in (since, until) if text is not None]
    try:
        moments = [_begin(text) for text in given]
    except ValueError:
        raise OaiError(
            "badArgument", "The arguments from and until are written YYYY-MM-DDThh:mm:ssZ or YYYY-MM-DD."
        ) from None
    if len({len(text) for text in given}) > 1:
        raise OaiError("badArgument", "The arguments from and until have different granularities.")
    if moments != sorted(moments):
        raise OaiError("badArgument", "The argument from is later than until.")


def _begin(text: str) -> datetime:
    """The first moment of what the text names; raises `ValueError`."""
    if not (_DAY.fullmatch(text) or _SECOND.fullmatch(text)):
        raise ValueError(text)
    return moment_of(text.removesuffix("Z"))


def _end(text: str) -> datetime:
    """The last moment of what the text names."""
    begin = _begin(text)
    if _DAY.fullmatch(text):
        return datetime.combine(begin, time.max, UTC)
    return begin.replace(microsecond=999_999)


def _prefix_of(asked: _Asked) -> str:
    prefix = asked.arguments["metadataPrefix"]
    if not _PREFIX.fullmatch(prefix):
        raise OaiError("badArgument", "The argument metadataPrefix is none that a format could have.")
    if prefix not in _FORMATS:
        raise OaiError("cannotDisseminateFormat", f"The formats are {' and '.join(_FORMATS)}.")
    return prefix


def _title_of(asked: _Asked, *, with_marc: bool = False) -> FeedTitle:
    identifier = asked.arguments["identifier"]
    if not _URI.fullmatch(identifier):
        raise OaiError("badArgument", "The argument identifier is not a URI.")
    unknown = OaiError("idDoesNotExist", "There is no record with this identifier.")
    collection_id, _, name = identifier.removeprefix(asked.namespace).partition("/")
    name = unquote(name)
    if not _NUMBER.fullmatch(collection_id) or "\0" in name:
        raise unknown
    if not asked.repository.shows(int(collection_id)):
        raise unknown
    wanted = FeedFilter(collections=(int(collection_id),), identifiers=(name,), with_removed=True)
    for found in feed(asked.session, wanted, limit=1, with_marc=with_marc):
        # It has one way to be written.
        if _identifier(asked, found) == identifier:
            return found
    raise unknown


def _identifier(asked: _Asked, found: FeedTitle) -> str:
    return f"{asked.namespace}{found.collection_id}/{quote(found.title.identifier, safe='')}"


def _record(asked: _Asked, prefix: str, found: FeedTitle) -> _Element:
    record = _element("record")
    record.append(_header(asked, found))
    if not found.is_removed:
        _add(record, "metadata").append(_FORMATS[prefix].record(found))
    return record


def _header(asked: _Asked, found: FeedTitle) -> _Element:
    header = _element("header")
    if found.is_removed:
        header.set("status", "deleted")
    _add(header, "identifier", _identifier(asked, found))
    _add(header, "datestamp", _stamp(found.modified_at))
    _add(header, "setSpec", f"collection:{found.collection_id}")
    if found.title.format:
        _add(header, "setSpec", f"format:{found.title.format}")
    return header


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _error(error: OaiError) -> _Element:
    return _element("error", str(error), code=error.code)


def _element(name: str, text: str | None = None, **attributes: str) -> _Element:
    element = Element(QName(NAMESPACE, name), nsmap={None: NAMESPACE})
    element.text = None if text is None else clean(text)
    for attribute, value in attributes.items():
        element.set(attribute, clean(value))
    return element


def _add(parent: _Element, name: str, text: str | None = None) -> _Element:
    element = SubElement(parent, QName(NAMESPACE, name))
    element.text = None if text is None else clean(text)
    return element


def _marc21(found: FeedTitle) -> _Element:
    return fromstring(loadable_parts(found, Profile()).as_marcxml())


_OF_A_LIST = frozenset({"from", "until", "set"})
_VERBS = {
    "GetRecord": _Verb(_get_record, required=frozenset({"identifier", "metadataPrefix"})),
    "Identify": _Verb(_identify),
    "ListIdentifiers": _Verb(_list_identifiers, frozenset({"metadataPrefix"}), _OF_A_LIST, paged=True),
    "ListMetadataFormats": _Verb(_list_metadata_formats, optional=frozenset({"identifier"})),
    "ListRecords": _Verb(_list_records, frozenset({"metadataPrefix"}), _OF_A_LIST, paged=True),
    "ListSets": _Verb(_list_sets, paged=True),
}
_FORMATS = {
    "oai_dc": _MetadataFormat(dublin_core.SCHEMA, dublin_core.NAMESPACE, dublin_core.dublin_core),
    "marc21": _MetadataFormat(_MARC_SCHEMA, MARC_NAMESPACE, _marc21, needs_marc=True),
}
