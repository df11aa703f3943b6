"""Documents of an issue: subject, HTML and plain text, from Jinja templates.

The HTML is for mail clients: tables and inline styles, no script, no image but covers, and nothing that tells
who has opened it. A style sheet, which not every client applies, adds the dark mode.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from accession.core.labels import value_label
from accession.core.public_url import public_url
from accession.core.sanitize import sanitize
from accession.core.settings import get_settings
from accession.digests.content import DigestContent, DigestTitle, Numbers, Section, SectionKind
from accession.exports.templates import fill_vendor_url

_LINE_LENGTH = 72
HEADINGS = {
    SectionKind.PURCHASED: "Purchased",
    SectionKind.REMOVED: "Removed",
    SectionKind.EXPIRED: "Expired",
}
"""Headings of the sections."""
_EXPLANATIONS = {
    SectionKind.PURCHASED: "",
    SectionKind.REMOVED: "Titles of which no copy is left.",
    SectionKind.EXPIRED: "Titles of which some copies expired or were removed, and others are left.",
}

_environment = Environment(
    loader=PackageLoader("accession.digests"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Rendered:
    """An issue as documents: `html` is a complete page, `body` what is in it, for a feed."""

    subject: str
    html: str
    body: str
    text: str


@dataclass(frozen=True)
class _Number:
    """A number with its label; `before` is that of the period before, None for one of the present."""

    label: str
    value: int
    before: int | None = None


def render_issue(
    content: DigestContent, *, cover_url: Callable[[DigestTitle], str | None] | None = None
) -> Rendered:
    """Return the documents of an issue; `cover_url` replaces the vendor's URLs of the covers."""
    cover_url = cover_url or _vendor_cover_url
    context = {
        "content": content,
        "collection": sanitize(content.collection),
        "sections": [_section(content, section, cover_url) for section in content.sections],
        "numbers": list(_numbers(content.numbers)),
        "period": str(content.period),
        "period_before": str(content.period.before),
        "note": _import_note(content),
        "settings_url": settings_url(content.collection_id),
        "collection_url": public_url(f"/collections/{content.collection_id}"),
    }
    return Rendered(
        subject=_subject(content),
        html=_render("digest.html", context),
        body=_render("body.html", context),
        text=_render("digest.txt", context),
    )


def _render(template: str, context: Mapping[str, Any]) -> str:
    return _environment.get_template(template).render(context)


def settings_url(collection_id: int) -> str | None:
    """Return the URL of the page of the digest, None if the URL of the dashboard is not known."""
    return public_url(f"/collections/{collection_id}/digest")


def section_path(collection_id: int, section: Section) -> str | None:
    """Return the path and query of the page with all titles of a section; None without a period."""
    if section.period is None:
        return None
    days = {"first": section.period.first, "last": section.period.last}
    return f"/collections/{collection_id}/digest/titles?{urlencode({'section': section.kind.value, **days})}"


def _subject(content: DigestContent) -> str:
    counts = [f"{section.total:,} {section.kind}" for section in content.sections if section.total]
    summary = ", ".join(counts) or "no changes"
    return f"{sanitize(content.collection)}: {summary} ({content.period})"


def _import_note(content: DigestContent) -> str:
    if not content.is_behind:
        return ""
    if content.imported_until is None or content.imported_until < content.period.first:
        return "Purchases of these days have not been imported yet. They follow in a later digest."
    until = content.imported_until
    return (
        f"Purchases after {until.day} {until:%B} have not been imported yet. They follow in a later digest."
    )


def _section(
    content: DigestContent, section: Section, cover_url: Callable[[DigestTitle], str | None]
) -> Mapping[str, Any]:
    path = section_path(content.collection_id, section)
    return {
        "heading": HEADINGS[section.kind],
        "explanation": _EXPLANATIONS[section.kind],
        "total": section.total,
        "not_listed": section.not_listed,
        "more_url": None if path is None else public_url(path),
        "titles": [
            {
                "title": sanitize(title.title),
                "authors": sanitize("; ".join(title.authors)),
                "format": value_label("format", title.format or ""),
                "note": title.note,
                "url": _title_url(content, section, title),
                "cover_url": cover_url(title),
            }
            for title in section.titles
        ],
    }


def _title_url(content: DigestContent, section: Section, title: DigestTitle) -> str | None:
    """Return the vendor's page of a title; that of the dashboard if the vendor has none any more."""
    if section.kind is SectionKind.REMOVED:
        return public_url(f"/titles/{quote(title.identifier, safe='')}/collections/{content.collection_id}")
    template = get_settings().title_url_template
    return fill_vendor_url(template, content.library_id, title.identifier)


def _vendor_cover_url(title: DigestTitle) -> str | None:
    url = title.cover_url or ""
    return url if url.startswith(("https://", "http://")) else None


def _numbers(numbers: Numbers) -> Iterable[_Number]:
    yield _Number("Loans", numbers.loans, numbers.loans_before)
    yield _Number("Holds placed", numbers.holds_placed, numbers.holds_placed_before)
    yield _Number("Patrons waiting", numbers.holds)
    yield _Number("Titles held", numbers.titles)
    yield _Number("Copies", numbers.copies)
    yield _Number("Titles with all copies exhausted", numbers.exhausted)


def _number(value: int) -> str:
    return f"{value:,}"


def _wrap(text: str, indent: int = 0) -> str:
    """Return plain text with lines of at most 72 characters; URLs stay whole."""
    lines = wrap(text, _LINE_LENGTH - indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(" " * indent + line for line in lines)


_environment.filters |= {"number": _number, "wrap": _wrap}
