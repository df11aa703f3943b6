"""The vendor's text made clean: escaped once or twice, with HTML in it, with stray white space."""

import html
import re
from html.parser import HTMLParser

# Only with its semicolon: `html.unescape` alone would make "®ion" of the "&region" in a web address.
_REFERENCE = re.compile(r"&(?:#\d{1,9}|#[xX][0-9A-Fa-f]{1,8}|[A-Za-z]\w*);")
_TAG = re.compile(r"</?[A-Za-z]")
_ESCAPED_TAG = re.compile(r"&lt;/?[A-Za-z]")
# Python's parser gives up on an unknown one, as "<![if".
_DECLARATION = re.compile(r"<!(?!--)[^<>]*>?")
_SOFT_HYPHEN = "\N{SOFT HYPHEN}"
_BLOCKS = frozenset({"blockquote", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ol", "p", "tr", "ul"})
_HIDDEN = frozenset({"script", "style"})


def unescaped(text: str) -> str:
    """`text` with its character references resolved, also where they are escaped once more."""
    for _ in range(2):
        text = _REFERENCE.sub(lambda match: html.unescape(match[0]), text)
    return text


def plain(text: str) -> str:
    """`text` as one line: unescaped, without soft hyphens, words parted by one space."""
    return " ".join(unescaped(text).replace(_SOFT_HYPHEN, "").split())


def plain_paragraphs(text: str) -> str:
    """The HTML `text` as plain text: a break is a new line, a blank line parts paragraphs.

    Tags are left out, references resolved. HTML that is itself escaped is read as the HTML it was.
    """
    if _ESCAPED_TAG.search(text) and not _TAG.search(text):
        text = unescaped(text)
    reader = _TextOfHtml()
    reader.feed(_DECLARATION.sub(" ", text))
    reader.close()
    lines = (plain(line) for line in "".join(reader.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


class _TextOfHtml(HTMLParser):
    """Gathers the text in `parts`, with a "\\n" at each break."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        # The vendor writes one break as `<br></br>`, so the end tag of `br` is none.
        if tag == "br" or tag in _BLOCKS:
            self.parts.append("\n")
        self._hidden = tag in _HIDDEN

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n")
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            # A line end in HTML is white space like any other.
            self.parts.append(re.sub(r"[\r\n]+", " ", data))
