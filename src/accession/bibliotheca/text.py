"""Convert the vendor's text, which may be escaped twice or contain HTML, to plain text."""

import html
import re

# Far longer than any field of a real title; the rest is ignored.
MAX_TEXT_LENGTH = 50_000

# Requires the semicolon: `html.unescape` alone would turn "&region" in a URL into "®ion".
_REFERENCE = re.compile(r"&(?:#\d{1,9}|#[xX][0-9A-Fa-f]{1,8}|[A-Za-z]\w*);")
_TAG = re.compile(r"</?[A-Za-z]")
_ESCAPED_TAG = re.compile(r"&lt;/?[A-Za-z]")
# These patterns are linear even on malformed HTML; Python's HTML parser is quadratic in unclosed "<".
_INVISIBLE = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b[^<>]*+>.*?(?:</\1\b[^<>]*+>|\Z)", re.DOTALL | re.IGNORECASE
)
_MARKUP = re.compile(r"<(?P<end>/?)(?P<name>[A-Za-z][^\s/<>]*+)[^<>]*+>|<[!?][^<>]*+>?")
_LINE_END = re.compile(r"[\r\n]+")
_SOFT_HYPHEN = "\N{SOFT HYPHEN}"
_BLOCKS = frozenset({"blockquote", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ol", "p", "tr", "ul"})


def unescape_twice(text: str) -> str:
    """Return `text` with character references resolved, including references that are escaped once more."""
    return _unescape(_unescape(text))


def _unescape(text: str) -> str:
    return _REFERENCE.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def to_plain_line(text: str) -> str:
    """Return `text` unescaped, without soft hyphens, and with white space collapsed."""
    return " ".join(unescape_twice(text).replace(_SOFT_HYPHEN, "").split())


def to_plain_paragraphs(text: str) -> str:
    """Return HTML as plain text: line breaks become newlines, and a blank line separates paragraphs.

    HTML that is escaped as a whole is unescaped first.
    """
    if _ESCAPED_TAG.search(text) and not _TAG.search(text):
        text = unescape_twice(text)
    # In HTML a line end is white space like any other.
    visible = _INVISIBLE.sub("", _LINE_END.sub(" ", text))
    lines = (to_plain_line(_unescape(line)) for line in _MARKUP.sub(_newline_or_nothing, visible).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _newline_or_nothing(tag: re.Match[str]) -> str:
    name = (tag["name"] or "").lower()
    # The vendor writes a single break as `<br></br>`: ignore the end tag.
    return "\n" if name in _BLOCKS or (name == "br" and not tag["end"]) else ""
