"""Strict reading of the vendor's XML, with one repair for what the vendor is known to get wrong."""

import re
from contextlib import suppress
from dataclasses import dataclass
from html.entities import html5

from lxml import etree

from accession.bibliotheca.errors import (
    UNKNOWN_CONTEXT,
    BadResponseException,
    RemoteInitiatedServerError,
    ResponseContext,
    excerpt_of,
)

_XML_ENTITIES = frozenset({"amp", "lt", "gt", "quot", "apos"})
_REFERENCE = re.compile(
    rb"&(?:#(?P<decimal>\d{1,9});|#[xX](?P<hex>[0-9A-Fa-f]{1,8});|(?P<name>[A-Za-z]\w*);)?"
)
_CONTROLS = bytes({*range(0x20)} - {*b"\t\n\r"})
_NO_CHARACTERS = ("\ufffe".encode(), "\uffff".encode())
# Ten times what a full page has; a hundred megabytes hold it.
_MOST_MARKS = 150_000
# In UTF-7 markup can be written without them.
_UTF_7 = re.compile(rb"(?:\xef\xbb\xbf)?\s*<\?xml\s[^<>]*utf-?7", re.IGNORECASE)
_BEFORE_THE_DOCUMENT = b"\xef\xbb\xbf \t\r\n"


@dataclass(frozen=True)
class Document:
    """A well-formed document; `repaired` when it was so only after the repair."""

    root: etree._Element
    repaired: bool


def is_blank(body: bytes) -> bool:
    """Whether `body` holds nothing but white space and a byte order mark."""
    return not body.strip(_BEFORE_THE_DOCUMENT)


def local_name(element: etree._Element) -> str:
    """The element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def read(body: bytes, root_name: str, context: ResponseContext = UNKNOWN_CONTEXT) -> Document:
    """The document of `body`, whose root has the local name `root_name`.

    Raises `RemoteInitiatedServerError` for an `<Error>` document, and `BadResponseException` for HTML,
    another root, a document type declaration, and XML that is malformed or truncated even after the
    repair.
    """
    document = parse(body, context)
    complaint = _complaint(document.root)
    if complaint is not None:
        raise context.error(RemoteInitiatedServerError, error_problem(complaint, context), body)
    name = local_name(document.root)
    if name != root_name:
        other = context.quote(f"a document named {excerpt_of(name)!r}", "another document")
        found = "an HTML page" if name.lower() == "html" else other
        raise context.error(
            BadResponseException, f"the vendor sent {found} where {root_name!r} was due", body
        )
    return document


def parse(body: bytes, context: ResponseContext = UNKNOWN_CONTEXT) -> Document:
    """The document of `body`, whatever its root, repaired when it is not well-formed as it stands.

    Raises `BadResponseException`, also for more elements, attributes and references than any page has.
    """
    if len(body) - len(body.translate(None, b"<=&")) > _MOST_MARKS:
        raise context.error(BadResponseException, "the vendor sent more markup than an answer can have", body)
    try:
        return Document(_strict(body), repaired=False)
    except etree.XMLSyntaxError as error:
        fault = error
    with suppress(etree.XMLSyntaxError):
        return Document(_strict(repair(body)), repaired=True)
    what = "an HTML page" if b"<html" in body[:2000].lower() else "malformed or truncated XML"
    reason = context.quote(f": {excerpt_of(str(fault))}")
    raise context.error(BadResponseException, f"the vendor sent {what}{reason}", body) from context.cause(
        fault
    )


def reported_error(body: bytes) -> str | None:
    """The message of the `<Error>` document that `body` is; "" when it says nothing, None when it is none."""
    try:
        return _complaint(parse(body).root)
    except BadResponseException:
        return None


def error_problem(complaint: str, context: ResponseContext = UNKNOWN_CONTEXT) -> str:
    """What to say of an `<Error>` document with this message."""
    said = context.quote(
        complaint or "it did not say which", "what it said is not repeated, because it can name patrons"
    )
    return f"the vendor reported an error of its own: {said}"


def repair(body: bytes) -> bytes:
    """`body` without the known faults that no XML parser accepts; other faults stay.

    HTML's named entities become numeric references, names nobody defines (the vendor has sent
    `&supl;`) and bare ampersands become text, control characters and references to them go, and so does
    what stands before the document. It works on bytes: all it touches is ASCII.
    """
    body = body.lstrip(_BEFORE_THE_DOCUMENT).translate(None, _CONTROLS)
    for illegal in _NO_CHARACTERS:
        body = body.replace(illegal, b"")
    return _REFERENCE.sub(_repaired_reference, body)


def _repaired_reference(match: re.Match[bytes]) -> bytes:
    as_is = match[0]
    if name := match["name"]:
        text = name.decode("utf-8", "replace")
        if text in _XML_ENTITIES:
            return as_is
        if characters := html5.get(f"{text};"):
            return "".join(f"&#{ord(char)};" for char in characters).encode()
        return b"&amp;" + as_is[1:]
    if match["decimal"] or match["hex"]:
        code = int(match["decimal"]) if match["decimal"] else int(match["hex"], 16)
        return as_is if _is_xml_character(code) else b""
    return b"&amp;"


def _is_xml_character(code: int) -> bool:
    return (
        code in (9, 10, 13)
        or 0x20 <= code <= 0xD7FF
        or 0xE000 <= code <= 0xFFFD
        or 0x10000 <= code <= 0x10FFFF
    )


def _strict(body: bytes) -> etree._Element:
    if _UTF_7.match(body):
        raise etree.XMLSyntaxError("UTF-7 is not accepted", 0, 0, 0)
    # Never `recover`: it reads a truncated page as a shorter one.
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        recover=False,
        remove_comments=True,
        remove_pis=True,
    )
    root = etree.fromstring(body, parser)
    if root.getroottree().docinfo.internalDTD is not None:
        raise etree.XMLSyntaxError("a document type declaration is not accepted", 0, 0, 0)
    # What libxml2 calls an error, as a prefix that nobody declared, lxml forgets over a warning after it.
    for error in parser.error_log.filter_from_errors():
        raise etree.XMLSyntaxError(error.message, error.type, error.line, error.column)
    return root


def _complaint(root: etree._Element) -> str | None:
    """The message of an `<Error>` that is the root or, as some calls answer, a child of another root."""
    for element in (root, *root):
        if local_name(element) == "Error":
            return excerpt_of(str(element.xpath("string(*[local-name() = 'Message'])")))
    return None
