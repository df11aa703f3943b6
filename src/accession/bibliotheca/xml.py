"""Strict parser for the vendor's XML that repairs only the faults the vendor is known for."""

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
_NONCHARACTERS = ("\ufffe".encode(), "\uffff".encode())
# Elements, attributes and references: ten times those of a full page. Parsing so many takes about 100 MB.
_MAX_MARKUP = 150_000
# UTF-7 can encode markup without "<" and "&", so the limit would not apply.
_UTF_7 = re.compile(rb"(?:\xef\xbb\xbf)?\s*<\?xml\s[^<>]*utf-?7", re.IGNORECASE)
_BOM_AND_WHITE_SPACE = b"\xef\xbb\xbf \t\r\n"


@dataclass(frozen=True)
class Document:
    """A parsed document; `repaired` if it was only well-formed after the repair."""

    root: etree._Element
    repaired: bool


def is_blank(body: bytes) -> bool:
    """Return whether `body` contains only white space and byte order marks."""
    return not body.strip(_BOM_AND_WHITE_SPACE)


def local_name(element: etree._Element) -> str:
    """Return the element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def parse_document(body: bytes, root_name: str, context: ResponseContext = UNKNOWN_CONTEXT) -> Document:
    """Parse a response whose root element must have the local name `root_name`.

    Raises:
        RemoteInitiatedServerError: the response is, or contains, an `<Error>` document.
        BadResponseException: the response is HTML, has another root or a document type declaration, or is
            malformed or truncated even after the repair.
    """
    document = parse_xml(body, context)
    message = _error_message(document.root)
    if message is not None:
        raise context.error(RemoteInitiatedServerError, describe_vendor_error(message, context), body)
    name = local_name(document.root)
    if name != root_name:
        other = context.quote(f"a document named {excerpt_of(name)!r}", "another document")
        actual = "an HTML page" if name.lower() == "html" else other
        raise context.error(BadResponseException, f"the vendor sent {actual} instead of {root_name!r}", body)
    return document


def parse_xml(body: bytes, context: ResponseContext = UNKNOWN_CONTEXT) -> Document:
    """Parse a document with any root, and repair it if it is not well-formed.

    Raises:
        BadResponseException: the document cannot be parsed, or has too many elements, attributes and
            references.
    """
    if len(body) - len(body.translate(None, b"<=&")) > _MAX_MARKUP:
        problem = f"the vendor sent a response with more than {_MAX_MARKUP:,} XML elements and references"
        raise context.error(BadResponseException, problem, body)
    try:
        return Document(_parse_strictly(body), repaired=False)
    except etree.XMLSyntaxError as error:
        first_error = error
    repaired = repair(body)
    with suppress(etree.XMLSyntaxError):
        if repaired != body:
            return Document(_parse_strictly(repaired), repaired=True)
    kind = "an HTML page" if b"<html" in body[:2000].lower() else "malformed or truncated XML"
    reason = context.quote(f": {excerpt_of(str(first_error))}")
    raise context.error(BadResponseException, f"the vendor sent {kind}{reason}", body) from context.cause(
        first_error
    )


def vendor_error_message(body: bytes) -> str | None:
    """Return the message of an `<Error>` document, "" if it has none; None for any other body."""
    try:
        return _error_message(parse_xml(body).root)
    except BadResponseException:
        return None


def describe_vendor_error(message: str, context: ResponseContext = UNKNOWN_CONTEXT) -> str:
    """Return a description of an `<Error>` document with this message for use in an error."""
    detail = context.quote(
        message or "no message", "its message is omitted because it may contain patron data"
    )
    return f"the vendor reported an error: {detail}"


def repair(body: bytes) -> bytes:
    """Return `body` without the known faults that no XML parser accepts; other faults stay.

    HTML entities become numeric references. Undefined entities (the vendor has sent `&supl;`) and unescaped
    ampersands become text. Control characters, references to them, and everything before the document are
    removed. Only ASCII bytes are changed, whatever the encoding.
    """
    body = body.lstrip(_BOM_AND_WHITE_SPACE).translate(None, _CONTROLS)
    for noncharacter in _NONCHARACTERS:
        body = body.replace(noncharacter, b"")
    return _REFERENCE.sub(_repair_reference, body)


def _repair_reference(match: re.Match[bytes]) -> bytes:
    unchanged = match[0]
    if name := match["name"]:
        text = name.decode("utf-8", "replace")
        if text in _XML_ENTITIES:
            return unchanged
        if characters := html5.get(f"{text};"):
            return "".join(f"&#{ord(char)};" for char in characters).encode()
        return b"&amp;" + unchanged[1:]
    if match["decimal"] or match["hex"]:
        code = int(match["decimal"]) if match["decimal"] else int(match["hex"], 16)
        return unchanged if _is_xml_character(code) else b""
    return b"&amp;"


def _is_xml_character(code: int) -> bool:
    return (
        code in (9, 10, 13)
        or 0x20 <= code <= 0xD7FF
        or 0xE000 <= code <= 0xFFFD
        or 0x10000 <= code <= 0x10FFFF
    )


def _parse_strictly(body: bytes) -> etree._Element:
    if _UTF_7.match(body):
        raise etree.XMLSyntaxError("UTF-7 is not accepted", 0, 0, 0)
    # Never set `recover`: it parses a truncated page as a complete, shorter one.
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
    # lxml drops errors such as an undeclared prefix if libxml2 issues a warning after them.
    for error in parser.error_log.filter_from_errors():
        raise etree.XMLSyntaxError(error.message, error.type, error.line, error.column)
    return root


def _error_message(root: etree._Element) -> str | None:
    """Return the message of an `<Error>` that is the root or, as from some endpoints, a child of it."""
    for element in (root, *root):
        if local_name(element) == "Error":
            return excerpt_of(str(element.xpath("string(*[local-name() = 'Message'])")))
    return None
