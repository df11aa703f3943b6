"""Item documents of the simulated vendor, with the known quirks of the real ones."""

import html
from collections.abc import Iterable
from xml.sax.saxutils import escape
from zlib import crc32

from accession.sandbox.catalogue import Format, Purchase
from accession.sandbox.documents import (
    ROOT_NAMESPACES,
    cover_url,
    describe,
    format_size,
    subject_label,
    title_page_url,
    xml_element,
)


def item_documents(purchases: Iterable[Purchase], library_id: str, *, double_escaped: bool = False) -> str:
    """Return the purchases as one `ArrayOfItem`; with `double_escaped`, texts are escaped twice."""
    items = "".join(_item(purchase, library_id, double_escaped=double_escaped) for purchase in purchases)
    return f"<ArrayOfItem {ROOT_NAMESPACES}>{items}</ArrayOfItem>"


def _has_quirk(share: int, purchase: Purchase, quirk: str) -> bool:
    return crc32(f"{quirk} {purchase.item_id}".encode()) % share == 0


def _escape_twice(text: str) -> str:
    return escape(html.escape(text))


def _item(purchase: Purchase, library_id: str, *, double_escaped: bool) -> str:
    text = _escape_twice if double_escaped else escape
    work = purchase.work
    audio = purchase.format is Format.AUDIO
    pages = "" if audio or _has_quirk(15, purchase, "no pages") else str(work.pages)
    elements = [
        ("ItemId", purchase.item_id),
        ("Title", text(_title(purchase))),
        ("SubTitle", text(work.subtitle)),
        ("Authors", text(_authors(purchase))),
        ("Description", _item_description(purchase)),
        ("Publisher", text(work.publisher)),
        ("PubDate", _publication_date(purchase)),
        ("PubYear", str(purchase.published.year)),
        ("Size", format_size(purchase)),
        ("Language", work.language),
        ("PhysicalISBN", purchase.physical_isbn),
        ("ISBN13", f"{purchase.isbn} (ebook)" if _has_quirk(40, purchase, "remark") else purchase.isbn),
        ("BookFormat", purchase.format),
        ("NumberOfPages", pages),
        *_circulation(purchase),
        ("BookLinkURL", title_page_url(purchase, library_id)),
        ("CoverLinkURL", _item_cover(purchase)),
        ("LibraryUrlName", library_id),
    ]
    if audio:
        elements += [("Narrator", text(work.narrators)), ("Duration", f"{purchase.duration_ms:010}")]
    if not _has_quirk(20, purchase, "no genre"):
        elements.append(("Genre", _genre(purchase, double_escaped=double_escaped)))
    if audio or purchase.on_sale is not None:
        elements.append(("OnSaleDate", (purchase.on_sale or purchase.published).isoformat()))
    return f"<Item>{''.join(xml_element(name, escaped) for name, escaped in elements)}</Item>"


def _title(purchase: Purchase) -> str:
    title = purchase.work.title
    if _has_quirk(60, purchase, "markup in title"):
        return f"<i>{title}</i>"
    return f"{title}\N{ZERO WIDTH SPACE}" if _has_quirk(60, purchase, "invisible character") else title


def _authors(purchase: Purchase) -> str:
    work = purchase.work
    is_edited_by_publisher = _has_quirk(50, purchase, "publisher as editor")
    return f"{work.authors}; {work.publisher}, Inc. (Editor)" if is_edited_by_publisher else work.authors


def _item_description(purchase: Purchase) -> str:
    if _has_quirk(40, purchase, "no description"):
        return ""
    first, *rest = (escape(paragraph) for paragraph in describe(purchase))
    # Escaped twice: once as HTML, once as content of an XML element.
    markup = escape("<br></br><br></br>".join([f"<b>{first}</b>", *rest]))
    if _has_quirk(4, purchase, "numeric references"):
        return markup.encode("ascii", "xmlcharrefreplace").decode()
    return markup


def _publication_date(purchase: Purchase) -> str:
    if _has_quirk(60, purchase, "no date"):
        return ""
    if _has_quirk(30, purchase, "year for date"):
        return str(purchase.published.year)
    return purchase.published.isoformat()


def _circulation(purchase: Purchase) -> list[tuple[str, str]]:
    lendable = purchase.available > 0
    available = [("AvailableCopies", str(purchase.available))]
    if not lendable and _has_quirk(10, purchase, "no available copies"):
        available = []
    return [
        ("CanCheckout", str(lendable).upper()),
        ("CanHold", str(not lendable).upper()),
        ("OnHold", str(purchase.holds > 0).upper()),
        ("TotalCopies", str(purchase.copies)),
        *available,
        ("OnHoldCount", str(purchase.holds)),
    ]


def _item_cover(purchase: Purchase) -> str:
    if _has_quirk(3, purchase, "old cover link"):
        return _escape_twice(cover_url("http://ebook.3m.com", purchase))
    return escape(cover_url("https://images.yourcloudlibrary.com", purchase))


def _genre(purchase: Purchase, *, double_escaped: bool) -> str:
    if _has_quirk(5, purchase, "plain genre"):
        # Older records: plain labels, escaped twice, with a trailing comma.
        return _escape_twice(", ".join(subject_label(subject) for subject in purchase.work.subjects) + ",")
    return (_escape_twice if double_escaped else escape)(",".join(purchase.work.subjects))
