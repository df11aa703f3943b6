"""OAI-PMH requests: validation of verbs and arguments."""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, time

from sqlalchemy.orm import Session

from accession.catalog.oai_namespace import repository_namespace
from accession.core.clock import parse_datetime

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SECOND = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class OaiError(Exception):
    """An error condition of the protocol: its code and a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Repository:
    """The repository as a harvester sees it.

    Attributes:
        base_url: Address of the endpoint.
        admin_email: Address of the administrator.
        collection_id: The only collection that is visible, None for all.
    """

    base_url: str
    admin_email: str
    collection_id: int | None = None

    def is_visible(self, collection_id: int) -> bool:
        """Return whether the harvester may see a collection."""
        return self.collection_id in (None, collection_id)


@dataclass(frozen=True)
class OaiRequest:
    """A request whose arguments are valid for its verb.

    Attributes:
        complete_until: Time (UTC) through which the catalogue was complete when the request arrived.
        namespace: Domain name in all record identifiers.
    """

    session: Session
    repository: Repository
    complete_until: datetime
    namespace: str
    verb: str
    arguments: Mapping[str, str]


@dataclass(frozen=True)
class _VerbArguments:
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    accepts_token: bool = False


_SELECTIVE = frozenset({"from", "until", "set"})
_ARGUMENTS = {
    "GetRecord": _VerbArguments(required=frozenset({"identifier", "metadataPrefix"})),
    "Identify": _VerbArguments(),
    "ListIdentifiers": _VerbArguments(frozenset({"metadataPrefix"}), _SELECTIVE, accepts_token=True),
    "ListMetadataFormats": _VerbArguments(optional=frozenset({"identifier"})),
    "ListRecords": _VerbArguments(frozenset({"metadataPrefix"}), _SELECTIVE, accepts_token=True),
    "ListSets": _VerbArguments(accepts_token=True),
}


def parse_request(
    session: Session,
    repository: Repository,
    complete_until: datetime,
    arguments: Sequence[tuple[str, str]],
) -> OaiRequest:
    """Validate the arguments of a request.

    Raises:
        OaiError: the verb is unknown, or an argument is repeated, missing or unknown.
    """
    values = dict(arguments)
    verb = values.get("verb", "")
    if verb not in _ARGUMENTS or sum(name == "verb" for name, _ in arguments) > 1:
        raise OaiError("badVerb", f"The argument verb must occur once and be one of {', '.join(_ARGUMENTS)}.")
    if len(values) < len(arguments):
        raise OaiError("badArgument", "An argument is repeated.")
    del values["verb"]
    _check_arguments(verb, values.keys())
    return OaiRequest(session, repository, complete_until, repository_namespace(session), verb, values)


def _check_arguments(verb: str, names: Set[str]) -> None:
    allowed = _ARGUMENTS[verb]
    if allowed.accepts_token and "resumptionToken" in names:
        if len(names) > 1:
            raise OaiError("badArgument", "The argument resumptionToken is exclusive.")
        return
    if missing := sorted(allowed.required - names):
        raise OaiError("badArgument", f"{verb} requires the argument {missing[0]}.")
    if unknown := sorted(names - allowed.required - allowed.optional):
        raise OaiError("badArgument", f'{verb} has no argument "{unknown[0]}".')


def check_time_range(since: str | None, until: str | None) -> None:
    """Check the arguments `from` and `until`.

    Raises:
        OaiError: one is malformed, their granularities differ, or `from` is later than `until`.
    """
    texts = [text for text in (since, until) if text is not None]
    try:
        times = [start_of(text) for text in texts]
    except ValueError:
        raise OaiError(
            "badArgument",
            "The arguments from and until must have the form YYYY-MM-DDThh:mm:ssZ or YYYY-MM-DD.",
        ) from None
    if len({len(text) for text in texts}) > 1:
        raise OaiError("badArgument", "The arguments from and until have different granularities.")
    if times != sorted(times):
        raise OaiError("badArgument", "The argument from is later than until.")


def start_of(text: str) -> datetime:
    """Return the first moment (UTC) of a day or second.

    Raises:
        ValueError: the text is neither.
    """
    if not (_DAY.fullmatch(text) or _SECOND.fullmatch(text)):
        raise ValueError(text)
    return parse_datetime(text.removesuffix("Z"))


def end_of(text: str) -> datetime:
    """Return the last moment (UTC) of a day or second, to the microsecond.

    Raises:
        ValueError: the text is neither.
    """
    start = start_of(text)
    if _DAY.fullmatch(text):
        return datetime.combine(start, time.max, UTC)
    return start.replace(microsecond=999_999)
