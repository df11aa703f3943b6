"""Titles and records to be exported."""

from typing import Any

from pymarc import Field, Indicators, Record, Subfield

from accession.catalog.feed import FeedTitle, Headings
from accession.catalog.queries import TitleView
from tests.making import NOON


def found_title(
    identifier: str, *, marc: bytes | None = None, headings: Headings | None = None, **changes: Any
) -> FeedTitle:
    """A title as the feed tells it, without a database."""
    described: dict[str, Any] = {
        "collection": "Alder Library",
        "identifier": identifier,
        "title": "Solaris",
        "subtitle": None,
        "authors": ("Stanisław Lem",),
        "narrators": ("Rita Reader",),
        "medium": "book",
        "format": "epub",
        "language": "pol",
        "publisher": "Wydawnictwo",
        "published": "1961-06",
        "isbns": ("9788308068298",),
        "subjects": ("FICTION / Science Fiction",),
        "page_count": None,
        "duration_ms": None,
        "description": None,
        "cover_url": "https://images.example/1",
        "licenses_owned": 2,
        "licenses_available": 1,
        "licenses_reserved": 0,
        "patrons_in_hold_queue": 0,
        "status": "active",
        "purchased_on": "2024-05-01",
        "updated_at": NOON,
    }
    view = TitleView(**described | changes)
    return FeedTitle(1, 1, view, NOON, NOON, False, marc, headings)


def bought_record(identifier: str, title: str = "Solaris") -> bytes:
    """A purchase record in the manner of the vendor's, which says when it was sent in 005."""
    fields = []
    for tag, text in (
        ("001", identifier),
        ("003", "MnSpTMCL"),
        ("005", "20210402235548.0"),
        ("008", "210402s1961||||||||||||o|||||||||||pol|d"),
    ):
        fields.append(Field(tag, data=text))
    for tag, indicators, *subfields in (
        ("020", "  ", ("a", "9788308068298")),
        ("100", "1 ", ("a", "Lem, Stanisław."), ("4", "aut")),
        ("245", "10", ("a", title), ("h", "[electronic resource] :"), ("c", "Lem, Stanisław.")),
        ("856", "40", ("3", "cloudLibrary"), ("u", f"https://vendor.example/{identifier}"), ("x", "libry")),
        ("856", "42", ("3", "Cover Image"), ("u", "https://images.example/1")),
        ("856", "40", ("u", "https://vendor.example/another")),
    ):
        both = Indicators(str(indicators)[0], str(indicators)[1])
        fields.append(Field(str(tag), both, [Subfield(*each) for each in subfields]))
    return Record(fields=fields, leader="01034nam a22002413a 4500", force_utf8=True).as_marc21()
