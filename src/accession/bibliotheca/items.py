"""Parser for titles: bibliographic metadata and copy counts."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from urllib.parse import urlsplit

from lxml import etree
from pydantic import ValidationError

from accession.bibliotheca.contributors import parse_contributors
from accession.bibliotheca.errors import (
    UNKNOWN_CONTEXT,
    RemoteInitiatedServerError,
    ResponseContext,
    excerpt_of,
)
from accession.bibliotheca.normalise import iso_date
from accession.bibliotheca.text import MAX_TEXT_LENGTH, to_plain_line, to_plain_paragraphs, unescape_twice
from accession.bibliotheca.xml import is_blank, local_name, parse_document
from accession.catalog.data import (
    BibliographicData,
    CirculationData,
    LinkData,
    SubjectData,
    TitleData,
)
from accession.core.isbn import normalise_isbn
from accession.core.languages import language_code
from accession.core.vocabulary import ContributorRole, Format, IdentifierType, LinkRel, Medium, SubjectScheme

DATA_SOURCE = "Bibliotheca"

_ITEM_ID = re.compile(r"[0-9A-Za-z._~-]{1,32}")
_DELETED_COMMA = re.compile(r"(?<=\S) {2,}(?=\S)")
_GROUP_SEPARATOR = re.compile(r"(?<=\|)\s*,")
_INTEGER = re.compile(r"\d{1,20}", re.ASCII)
# Most addresses need no closer look.
_PLAIN_WEB_URL = re.compile(r"https?://[0-9A-Za-z.-]+(?:/[!-~]*)?")
_NOT_IN_URL = re.compile(r"[\s\x00-\x1f]")
_FORMATS = {"epub": Format.EPUB, "epub3": Format.EPUB3, "pdf": Format.PDF, "mp3": Format.MP3}
_MAX_INTEGER = 2_147_483_647
_MAX_VALUES = 200
# The elements that are read; an item has about ten more.
_ELEMENTS = frozenset(
    {
        *(
            "ItemId",
            "Title",
            "SubTitle",
            "Authors",
            "Narrator",
            "Publisher",
            "PubDate",
            "PubYear",
            "OnSaleDate",
        ),
        *("Language", "ISBN13", "PhysicalISBN", "Genre", "Description", "CoverLinkURL", "NumberOfPages"),
        *("Duration", "BookFormat", "TotalCopies", "AvailableCopies", "OnHoldCount"),
    }
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class ItemFault:
    """An item that is invalid; `item_id` is None if it cannot be read."""

    item_id: str | None
    reason: str


@dataclass(frozen=True)
class ItemsResponse:
    """Titles that the vendor returned for the requested ids.

    A requested title that is in neither `titles` nor `faults` is no longer the collection's. If a fault has
    no item id this conclusion is not possible, because the fault may be any of the missing titles.

    Attributes:
        titles: the valid items.
        faults: the invalid items.
        repaired: whether the document was only well-formed after the repair.
    """

    titles: tuple[TitleData, ...]
    faults: tuple[ItemFault, ...]
    repaired: bool = False


def is_item_id(text: str) -> bool:
    """Return whether `text` is a valid item id: a short code without separators of URLs or lists."""
    return _ITEM_ID.fullmatch(text) is not None and bool(text.strip("."))


def parse_items(body: bytes, as_of: datetime, context: ResponseContext = UNKNOWN_CONTEXT) -> ItemsResponse:
    """Parse an item document.

    An invalid item becomes a fault and does not affect the others. If an item is repeated the last one
    counts.

    Args:
        body: the response's body.
        as_of: time of the request (UTC), which becomes the time of the data.
        context: the response, for errors.

    Raises:
        RemoteInitiatedServerError: the body is blank, which means that the vendor failed, or the vendor
            reports an error.
        BadResponseException: the document is invalid.
    """
    if is_blank(body):
        raise context.error(
            RemoteInitiatedServerError, "the vendor sent an empty response instead of items", body
        )
    document = parse_document(body, "ArrayOfItem", context)
    titles: dict[str, TitleData] = {}
    faults: list[ItemFault] = []
    for element in document.root:
        if local_name(element) != "Item":
            continue
        texts = _texts_by_name(element)
        try:
            title = _parse_title(texts, as_of)
        except _InvalidItemError as error:
            faults.append(ItemFault(excerpt_of(to_plain_line(texts.get("ItemId", ""))) or None, str(error)))
        else:
            titles[title.identifier] = title
    return ItemsResponse(tuple(titles.values()), tuple(faults), repaired=document.repaired)


class _InvalidItemError(Exception):
    """An item that lacks a required element or has an invalid one."""


def _texts_by_name(item: etree._Element) -> dict[str, str]:
    """Return each read element's text by local name; the first that is not blank if a name is repeated."""
    texts: dict[str, str] = {}
    # Slicing is twice as fast as iterating in lxml.
    for element in item[:]:
        name = local_name(element)
        if name in _ELEMENTS and (name not in texts or not texts[name].strip()):
            texts[name] = _text(element, keep_tags=name == "Description")[:MAX_TEXT_LENGTH]
    return texts


def _text(element: etree._Element, keep_tags: bool) -> str:
    if not len(element):
        return element.text or ""
    if keep_tags:
        # HTML that was not escaped: `to_plain_paragraphs` converts it.
        return (element.text or "") + "".join(etree.tostring(child, encoding="unicode") for child in element)
    return "".join(element.itertext())


def _parse_title(texts: Mapping[str, str], as_of: datetime) -> TitleData:
    for name in ("ItemId", "Title"):
        if not to_plain_line(texts.get(name, "")):
            raise _InvalidItemError(f"it has no {name}")
    try:
        return TitleData(bibliographic=_bibliographic(texts, as_of), circulation=_circulation(texts, as_of))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _InvalidItemError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def _bibliographic(texts: Mapping[str, str], as_of: datetime) -> BibliographicData:
    def line(name: str) -> str:
        return to_plain_line(texts.get(name, ""))

    book_format = _FORMATS.get(line("BookFormat").lower())
    language = language_code(line("Language")) if line("Language") else None
    return BibliographicData(
        data_source=DATA_SOURCE,
        identifier_type=IdentifierType.BIBLIOTHECA,
        identifier=line("ItemId"),
        as_of=as_of,
        title=line("Title"),
        subtitle=line("SubTitle") or None,
        contributors=_unique(
            (
                *parse_contributors(line("Authors"), ContributorRole.AUTHOR, language),
                *parse_contributors(line("Narrator"), ContributorRole.NARRATOR, language),
            )
        ),
        publisher=line("Publisher") or None,
        published=iso_date(line("PubDate")) or iso_date(line("PubYear")),
        on_sale=iso_date(line("OnSaleDate")),
        language=language,
        isbns=_unique(isbn for name in ("ISBN13", "PhysicalISBN") if (isbn := normalise_isbn(line(name)))),
        subjects=_unique(_parse_subjects(texts.get("Genre", ""))),
        description=to_plain_paragraphs(texts.get("Description", "")) or None,
        links=tuple(_cover_links(unescape_twice(texts.get("CoverLinkURL", "")).strip())),
        page_count=_parse_integer(line("NumberOfPages")) or None,
        duration_ms=_parse_integer(line("Duration")) or None,
        medium=Medium.AUDIOBOOK if book_format is Format.MP3 else Medium.BOOK,
        format=book_format,
    )


def _circulation(texts: Mapping[str, str], as_of: datetime) -> CirculationData:
    return CirculationData(
        as_of=as_of,
        # No default: a missing element must not be stored as zero owned copies.
        licenses_owned=_parse_count(texts, "TotalCopies", default=None),
        licenses_available=_parse_count(texts, "AvailableCopies", default=0),
        patrons_in_hold_queue=_parse_count(texts, "OnHoldCount", default=0),
    )


def _parse_count(texts: Mapping[str, str], name: str, default: int | None) -> int:
    text = to_plain_line(texts.get(name, ""))
    if not text and default is not None:
        return default
    number = _parse_integer(text)
    if number is None:
        raise _InvalidItemError(f"{name} is not a count: {excerpt_of(text)!r}")
    return number


def _parse_integer(text: str) -> int | None:
    """Return `text` as an integer from 0 to the database's maximum; None if it is not one."""
    if not _INTEGER.fullmatch(text) or int(text) > _MAX_INTEGER:
        return None
    return int(text)


def _parse_subjects(genre: str) -> Iterator[SubjectData]:
    """Yield the subjects of Genre in either format: "TOP|Sub|,TOP|Sub|" (BISAC) or "label,label,"."""
    # Drop repeated names first: building a subject takes far longer.
    for group in dict.fromkeys(_GROUP_SEPARATOR.split(unescape_twice(genre))):
        if "|" in group:
            levels = filter(None, (_clean_label(level) for level in group.split("|")))
            names, scheme = [" / ".join(levels)], SubjectScheme.BISAC
        else:
            labels = dict.fromkeys(group.split(","))
            names, scheme = [_clean_label(label) for label in labels], SubjectScheme.LABEL
        yield from (SubjectData(scheme=scheme, name=name) for name in names if name)


def _clean_label(text: str) -> str:
    # The vendor removes commas from labels, which leaves two spaces.
    return to_plain_line(_DELETED_COMMA.sub(", ", text))


def _cover_links(cover: str) -> Iterator[LinkData]:
    if not _is_web_url(cover):
        return
    yield LinkData(rel=LinkRel.COVER, href=cover)
    # Undocumented: the vendor's image service returns a small image for this parameter.
    if "/delivery/img" in cover:
        separator = "&" if "?" in cover else "?"
        yield LinkData(rel=LinkRel.THUMBNAIL, href=f"{cover}{separator}size=NORMAL")


def _is_web_url(text: str) -> bool:
    if _PLAIN_WEB_URL.fullmatch(text):
        return True
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not _NOT_IN_URL.search(text)


def _unique(values: Iterable[_T]) -> tuple[_T, ...]:
    """Return the first `_MAX_VALUES` different values; no further values are computed."""
    unique: dict[_T, None] = {}
    for value in values:
        unique[value] = None
        if len(unique) == _MAX_VALUES:
            break
    return tuple(unique)
