"""Item documents: what the vendor says of its titles, into the catalogue's data classes."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from urllib.parse import urlsplit

from lxml import etree
from pydantic import ValidationError

from accession.bibliotheca.errors import (
    UNKNOWN_CONTEXT,
    RemoteInitiatedServerError,
    ResponseContext,
    excerpt_of,
)
from accession.bibliotheca.normalise import iso_date, language_code
from accession.bibliotheca.text import LONGEST_TEXT, plain, plain_paragraphs, unescaped
from accession.bibliotheca.xml import is_blank, local_name, read
from accession.catalog.data import (
    BibliographicData,
    CirculationData,
    ContributorData,
    LinkData,
    SubjectData,
    TitleData,
)
from accession.core.isbn import normalise_isbn
from accession.core.vocabulary import ContributorRole, Format, IdentifierType, LinkRel, Medium, SubjectScheme

DATA_SOURCE = "Bibliotheca"

_ITEM_ID = re.compile(r"[0-9A-Za-z._~-]{1,32}")
_REMARK = re.compile(r"\s+\([^()]*\)$")
_DELETED_COMMA = re.compile(r"(?<=\S) {2,}(?=\S)")
_FORMATS = {"epub": Format.EPUB, "epub3": Format.EPUB3, "pdf": Format.PDF, "mp3": Format.MP3}
_LARGEST_COUNT = 2_147_483_647
_MOST_NAMES = 200

_T = TypeVar("_T")


@dataclass(frozen=True)
class ItemFault:
    """An item that could not be used. `item_id` is None when not even that could be read."""

    item_id: str | None
    reason: str


@dataclass(frozen=True)
class ItemsAnswer:
    """What the vendor said of the titles asked for.

    A title that was asked for and is in neither `titles` nor `faults` is no longer the collection's,
    unless there is a fault without an item id: that may be any of them.
    `repaired` when the document was well-formed only after the repair.
    """

    titles: tuple[TitleData, ...]
    faults: tuple[ItemFault, ...]
    requests: int = 1
    repaired: bool = False


def is_item_id(text: str) -> bool:
    """Whether the vendor can be asked for `text`: a short code, without separators of a URL or a list."""
    return _ITEM_ID.fullmatch(text) is not None and bool(text.strip("."))


def parse_items(body: bytes, as_of: datetime, context: ResponseContext = UNKNOWN_CONTEXT) -> ItemsAnswer:
    """The titles in the item document `body`, each as the vendor had it at `as_of` (UTC).

    One malformed item is a fault and does not touch the others. Of an item that comes twice, the last
    counts. Raises `RemoteInitiatedServerError` for a blank body, which the vendor sends when it fails,
    and what `xml.read` raises.
    """
    if is_blank(body):
        raise context.error(
            RemoteInitiatedServerError, "the vendor sent a blank answer where items were due", body
        )
    document = read(body, "ArrayOfItem", context)
    titles: dict[str, TitleData] = {}
    faults: list[ItemFault] = []
    for element in document.root:
        if local_name(element) != "Item":
            continue
        texts = _texts(element)
        try:
            title = _title(texts, as_of)
        except _UnusableItemError as fault:
            faults.append(ItemFault(excerpt_of(plain(texts.get("ItemId", ""))) or None, str(fault)))
        else:
            titles[title.identifier] = title
    return ItemsAnswer(tuple(titles.values()), tuple(faults), repaired=document.repaired)


class _UnusableItemError(Exception):
    """The item lacks what makes it a title."""


def _texts(item: etree._Element) -> dict[str, str]:
    """The item's elements by local name, of several with one name the first that says something, each as
    far as it is read."""
    texts: dict[str, str] = {}
    for element in item:
        if not texts.get(name := local_name(element), "").strip():
            texts[name] = _text(element, keep_tags=name == "Description")[:LONGEST_TEXT]
    return texts


def _text(element: etree._Element, keep_tags: bool) -> str:
    if not len(element):
        return element.text or ""
    if keep_tags:
        # HTML that nobody escaped; `plain_paragraphs` reads it.
        return (element.text or "") + "".join(etree.tostring(child, encoding="unicode") for child in element)
    return "".join(element.itertext())


def _title(texts: Mapping[str, str], as_of: datetime) -> TitleData:
    for name in ("ItemId", "Title"):
        if not plain(texts.get(name, "")):
            raise _UnusableItemError(f"it has no {name}")
    try:
        return TitleData(bibliographic=_bibliographic(texts, as_of), circulation=_circulation(texts, as_of))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _UnusableItemError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def _bibliographic(texts: Mapping[str, str], as_of: datetime) -> BibliographicData:
    def line(name: str) -> str:
        return plain(texts.get(name, ""))

    book_format = _FORMATS.get(line("BookFormat").lower())
    return BibliographicData(
        data_source=DATA_SOURCE,
        identifier_type=IdentifierType.BIBLIOTHECA,
        identifier=line("ItemId"),
        as_of=as_of,
        title=line("Title"),
        subtitle=line("SubTitle") or None,
        contributors=_unique(
            (
                *_contributors(line("Authors"), ContributorRole.AUTHOR),
                *_contributors(line("Narrator"), ContributorRole.NARRATOR),
            )
        ),
        publisher=line("Publisher") or None,
        published=iso_date(line("PubDate")) or iso_date(line("PubYear")),
        on_sale=iso_date(line("OnSaleDate")),
        language=language_code(line("Language")) if line("Language") else None,
        isbns=_unique(isbn for name in ("ISBN13", "PhysicalISBN") if (isbn := normalise_isbn(line(name)))),
        subjects=_unique(_subjects(texts.get("Genre", ""))),
        description=plain_paragraphs(texts.get("Description", "")) or None,
        links=tuple(_links(unescaped(texts.get("CoverLinkURL", "")).strip())),
        page_count=_number(line("NumberOfPages")) or None,
        duration_ms=_number(line("Duration")) or None,
        medium=Medium.AUDIOBOOK if book_format is Format.MP3 else Medium.BOOK,
        format=book_format,
    )


def _circulation(texts: Mapping[str, str], as_of: datetime) -> CirculationData:
    return CirculationData(
        as_of=as_of,
        # Silence about what is owned must never read as "nothing is owned any more".
        licenses_owned=_count(texts, "TotalCopies", if_missing=None),
        licenses_available=_count(texts, "AvailableCopies", if_missing=0),
        patrons_in_hold_queue=_count(texts, "OnHoldCount", if_missing=0),
    )


def _count(texts: Mapping[str, str], name: str, if_missing: int | None) -> int:
    text = plain(texts.get(name, ""))
    if not text and if_missing is not None:
        return if_missing
    number = _number(text)
    if number is None:
        raise _UnusableItemError(f"{name} is not a count: {excerpt_of(text)!r}")
    return number


def _number(text: str) -> int | None:
    """`text` as a whole number that a database can hold; None when it is not one."""
    if not re.fullmatch(r"\d{1,20}", text, re.ASCII) or int(text) > _LARGEST_COUNT:
        return None
    return int(text)


def _contributors(names: str, role: ContributorRole) -> Iterator[ContributorData]:
    """One contributor for each name of "Last, First (remark); Last, First"."""
    for name in names.split(";"):
        sort_name = _REMARK.sub("", name.strip()).strip(" ,")
        if sort_name:
            yield ContributorData(sort_name=sort_name, display_name=_display_name(sort_name), role=role)


def _display_name(sort_name: str) -> str:
    """ "King, Martin Luther, Jr." as "Martin Luther King, Jr."; a group's name has no comma and stays."""
    last, *rest = (part.strip() for part in sort_name.split(","))
    if not rest:
        return last
    first, *suffixes = rest
    return ", ".join((f"{first} {last}".strip(), *suffixes))


def _subjects(genre: str) -> Iterator[SubjectData]:
    """Both generations of Genre: "TOP|Sub|,TOP|Sub|", and plain labels with a comma after each."""
    for group in re.split(r"(?<=\|)\s*,", unescaped(genre)):
        if "|" in group:
            levels = filter(None, (_label(level) for level in group.split("|")))
            names, scheme = [" / ".join(levels)], SubjectScheme.BISAC
        else:
            names, scheme = [_label(label) for label in group.split(",")], SubjectScheme.LABEL
        yield from (SubjectData(scheme=scheme, name=name) for name in names if name)


def _label(text: str) -> str:
    # The vendor takes the commas out of a label and leaves two spaces where one was.
    return plain(_DELETED_COMMA.sub(", ", text))


def _links(cover: str) -> Iterator[LinkData]:
    if not _is_web_address(cover):
        return
    yield LinkData(rel=LinkRel.COVER, href=cover)
    # Undocumented: the vendor's image service makes a small picture when asked like this.
    if "/delivery/img" in cover:
        separator = "&" if "?" in cover else "?"
        yield LinkData(rel=LinkRel.THUMBNAIL, href=f"{cover}{separator}size=NORMAL")


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"[\s\x00-\x1f]", text)
    )


def _unique(values: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(values))[:_MOST_NAMES]
