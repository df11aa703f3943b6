"""Templates that are filled in for each title: its address, and the texts of a library's own fields."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from accession.catalog.change_feed import FeedTitle

PLACEHOLDERS = ("identifier", "isbn", "format", "collection", "owned", "available")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


def usable_text(text: str) -> str:
    """The text, whose placeholders, as `{identifier}`, there all are; raises `ValueError`."""
    for name in _PLACEHOLDER.findall(text):
        if name not in PLACEHOLDERS:
            raise ValueError(f"there is no placeholder {{{name}}}; choose among {', '.join(PLACEHOLDERS)}")
    return text


def usable_address(template: str) -> str:
    """The template, which leads to every title; raises `ValueError` where it cannot."""
    if not re.match(r"https?://[^/\s]", template) or re.search(r"\s", template):
        raise ValueError("give it as https://host/path-{identifier}")
    if "{identifier}" not in template:
        raise ValueError("it has no {identifier}, and so leads to no title")
    return usable_text(template)


def filled_address(template: str, said: Mapping[str, str]) -> str:
    """The address of the title of which this is said."""
    return _PLACEHOLDER.sub(lambda found: quote(said[found[1]], safe=""), template)


def filled_text(text: str, said: Mapping[str, str]) -> str:
    """The text with what is said in the place of its placeholders."""
    return _PLACEHOLDER.sub(lambda found: said[found[1]], text)


def said_of(found: FeedTitle) -> Mapping[str, str]:
    """What the placeholders stand for."""
    title = found.title
    return {
        "identifier": title.identifier,
        "isbn": title.isbns[0] if title.isbns else "",
        "format": title.format or "",
        "collection": title.collection,
        "owned": str(title.licenses_owned),
        "available": str(title.licenses_available),
    }
