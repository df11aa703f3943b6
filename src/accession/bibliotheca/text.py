"""The vendor's text made clean: escaped once or twice, with HTML in it, with stray white space."""

import html
import re

# Far beyond what a title has; what comes after is not read.
LONGEST_TEXT = 50_000

# Only with its semicolon: `html.unescape` alone would make "®ion" of the "&region" in a web address.
_REFERENCE = re.compile(r"&(?:#\d{1,9}|#[xX][0-9A-Fa-f]{1,8}|[A-Za-z]\w*);")
_ANY_TAG = re.compile(r"</?[A-Za-z]")
_ESCAPED_TAG = re.compile(r"&lt;/?[A-Za-z]")
# Each goes through the text once, however it is spoilt; Python's parser of HTML goes back for every "<".
_UNSEEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)\b[^<>]*+>.*?(?:</\1\b[^<>]*+>|\Z)", re.DOTALL | re.IGNORECASE
)
_MARKUP = re.compile(r"<(?P<end>/?)(?P<name>[A-Za-z][^\s/<>]*+)[^<>]*+>|<[!?][^<>]*+>?")
_LINE_END = re.compile(r"[\r\n]+")
_SOFT_HYPHEN = "\N{SOFT HYPHEN}"
_BLOCKS = frozenset({"blockquote", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ol", "p", "tr", "ul"})


def unescaped(text: str) -> str:
    """`text` with its character references resolved, also where they are escaped once more."""
    return _unescaped_once(_unescaped_once(text))


def _unescaped_once(text: str) -> str:
    return _REFERENCE.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def plain(text: str) -> str:
    """`text` as one line: unescaped, without soft hyphens, words parted by one space."""
    return " ".join(unescaped(text).replace(_SOFT_HYPHEN, "").split())


def plain_paragraphs(text: str) -> str:
    """The HTML `text` as plain text: a break is a new line, a blank line parts paragraphs.

    Tags are left out, references resolved. HTML that is itself escaped is read as the HTML it was.
    """
    if _ESCAPED_TAG.search(text) and not _ANY_TAG.search(text):
        text = unescaped(text)
    # A line end in HTML is white space like any other.
    shown = _UNSEEN.sub("", _LINE_END.sub(" ", text))
    lines = (plain(_unescaped_once(line)) for line in _MARKUP.sub(_break_or_nothing, shown).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _break_or_nothing(tag: re.Match[str]) -> str:
    name = (tag["name"] or "").lower()
    # The vendor writes one break as `<br></br>`, so the end tag of `br` is none.
    return "\n" if name in _BLOCKS or (name == "br" and not tag["end"]) else ""
