"""Convert the vendor's text, which may be escaped twice or contain HTML, to plain text."""

import html
import re

from accession.core.invisible import remove_invisible

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
_BLANK_LINES = re.compile(r"\n{3,}")
_BLOCKS = frozenset({"blockquote", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ol", "p", "tr", "ul"})
_INLINES = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|em|font|i|img|ins|kbd|mark|q|s|samp|small|span|strike|strong|sub|sup"
    "|tt|u|var|wbr"
)
# A tag in a single line, where "<" may also be text: "I <3 You", "<Untitled>". Attributes must have a value,
# so that "a<b and c>d" has no tag.
_TAG_IN_LINE = re.compile(
    rf"</?(?:(?P<inline>{_INLINES})|br|hr|center|table|tbody|td|th|{'|'.join(sorted(_BLOCKS))})"
    r"(?:\s++[\w:-]++\s*+=\s*+(?:\"[^\"<>]*+\"|'[^'<>]*+'|[^\s\"'<>]++))*+\s*+/?>",
    re.IGNORECASE,
)


def unescape_twice(text: str) -> str:
    """Return `text` with character references resolved, including references that are escaped once more."""
    return _unescape(_unescape(text))


def _unescape(text: str) -> str:
    return _REFERENCE.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def to_line(text: str) -> str:
    """Return `text` unescaped and with white space collapsed: an id, a number or a time."""
    return " ".join(unescape_twice(text).split())


def to_plain_line(text: str) -> str:
    """Return `text` unescaped, without HTML tags and invisible characters, and with white space collapsed.

    Tags are those of common HTML elements.
    """
    # Most texts have nothing to convert. No printable ASCII character is invisible.
    if text.isascii() and text.isprintable() and "&" not in text and "<" not in text:
        return " ".join(text.split())
    line = unescape_twice(text)
    if "<" in line:
        lower_case = line.strip().lower()
        line = _TAG_IN_LINE.sub(lambda tag: _text_of_tag(tag, lower_case), line)
    return " ".join(remove_invisible(line).split())


def _text_of_tag(tag: re.Match[str], line: str) -> str:
    """Return what a tag in a line, which is given in lower case, becomes.

    `<I>` is a title, or part of one, if it has no end tag and is a capital letter or the whole line.
    """
    inline, start = tag["inline"], tag[0].lower()
    if not inline:
        return " "
    is_bare = start == f"<{inline}>".lower()
    is_initial = len(inline) == 1 and inline.isupper()
    is_title = is_bare and (is_initial or start == line) and f"</{start[1:]}" not in line
    return tag[0] if is_title else ""


def to_plain_paragraphs(text: str) -> str:
    """Return HTML as plain text: line breaks become newlines, and a blank line separates paragraphs.

    HTML that is escaped as a whole is unescaped first.
    """
    if _ESCAPED_TAG.search(text) and not _TAG.search(text):
        text = unescape_twice(text)
    # In HTML a line end is white space like any other.
    visible = _INVISIBLE.sub("", _LINE_END.sub(" ", text))
    lines = (to_plain_line(_unescape(line)) for line in _MARKUP.sub(_newline_or_nothing, visible).split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def _newline_or_nothing(tag: re.Match[str]) -> str:
    name = (tag["name"] or "").lower()
    # The vendor writes a single break as `<br></br>`: ignore the end tag.
    return "\n" if name in _BLOCKS or (name == "br" and not tag["end"]) else ""
