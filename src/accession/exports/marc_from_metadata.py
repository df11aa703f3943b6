"""MARC 21 records built from metadata, for titles without a purchase record of the vendor.

The records follow RDA as far as the metadata allows.
"""

from collections.abc import Iterator, Mapping

from accession.catalog.change_feed import FeedTitle, Headings
from accession.catalog.titles import TitleView
from accession.core.marc21 import Field, Marc21Record, control_field, data_field
from accession.core.vocabulary import ContributorRole, Format, Medium, SubjectScheme

_UNTITLED = "[Title not known]"
_SECOND_MS, _MINUTE, _HOUR = 1000, 60, 3600
_MAX_306_SECONDS = 99 * _HOUR  # field 306 has two digits for hours

# Initial articles by language; 245 indicator 2 is their length, which sorting skips.
_ARTICLES = {
    "eng": ("The ", "A ", "An "),
    "fre": ("Les ", "Le ", "La ", "L'", "L’", "Une ", "Un "),
    "ger": ("Der ", "Die ", "Das ", "Eine ", "Ein "),
    "ita": ("Gli ", "Il ", "Lo ", "La ", "I ", "Le ", "L'", "L’", "Una ", "Uno ", "Un "),
    "por": ("Os ", "As ", "Uma ", "Um ", "O ", "A "),
    "spa": ("Los ", "Las ", "El ", "La ", "Una ", "Un "),
}
_ENCODINGS: Mapping[str, str] = {
    Format.EPUB: "EPUB",
    Format.EPUB3: "EPUB 3",
    Format.PDF: "PDF",
    Format.MP3: "MP3",
}

_BOOK_006, _AUDIO_006 = "m     o  d        ", "m     o  h        "
_BOOK_007, _AUDIO_007 = ("cr |||||||||||",), ("sr zunnnnnzned", "cr nna||||||||")
_BOOK_008, _AUDIO_008 = "|||||o|||||||| ||", "nnnn|o|||||||| n "


def build_record(entry: FeedTitle, organization: str) -> Marc21Record:
    """Return the record of an e-book or audiobook; `organization` is the MARC organisation code for 040."""
    title = entry.title
    headings = entry.headings or _headings_of(title)
    audio = title.medium == Medium.AUDIOBOOK
    fields = [
        control_field("001", title.identifier),
        *_coded_fields(entry, audio=audio),
        *(data_field("020", "  ", ("a", isbn)) for isbn in title.isbns),
        data_field("037", "  ", ("a", title.identifier), ("b", "cloudLibrary")),
        data_field("040", "  ", ("a", organization), ("b", "eng"), ("e", "rda"), ("c", organization)),
        *([data_field("041", "0 ", ("a", title.language))] if title.language else []),
        *_title_fields(title, headings),
        *_physical_fields(title, audio=audio),
        *_notes(title),
        *_access_points(headings, audio=audio),
        *([data_field("856", "42", ("3", "Cover image"), ("u", title.cover_url))] if title.cover_url else []),
    ]
    return Marc21Record(f"00000n{'i' if audio else 'a'}m a2200000 i 4500", fields)


def _headings_of(title: TitleView) -> Headings:
    people = [(ContributorRole.AUTHOR.value, name) for name in title.authors]
    people += [(ContributorRole.NARRATOR.value, name) for name in title.narrators]
    return Headings(tuple(people), tuple((SubjectScheme.LABEL.value, name) for name in title.subjects))


def _coded_fields(entry: FeedTitle, *, audio: bool) -> Iterator[Field]:
    title = entry.title
    year = (title.published or "")[:4]
    date = f"s{year}    " if year else "nuuuuuuuu"
    yield control_field("006", _AUDIO_006 if audio else _BOOK_006)
    for value in _AUDIO_007 if audio else _BOOK_007:
        yield control_field("007", value)
    material = _AUDIO_008 if audio else _BOOK_008
    yield control_field("008", f"{entry.created_at:%y%m%d}{date}xx {material}{title.language or 'und'} d")


def _title_fields(title: TitleView, headings: Headings) -> Iterator[Field]:
    authors = [name for role, name in headings.people if role == ContributorRole.AUTHOR]
    if authors:
        yield _person("100", authors[0], "author")
    statements = [f"by {', '.join(title.authors)}"] if title.authors else []
    statements += [f"narrated by {', '.join(title.narrators)}"] if title.narrators else []
    proper, other = title.title or _UNTITLED, title.subtitle
    responsibility = " ; ".join(statements)
    yield data_field(
        "245",
        f"{1 if authors else 0}{_article_length(title)}",
        ("a", f"{proper} :" if other else f"{proper} /" if responsibility else _with_full_stop(proper)),
        ("b", other and (f"{other} /" if responsibility else _with_full_stop(other))),
        ("c", responsibility and _with_full_stop(responsibility)),
    )
    yield data_field(
        "264",
        " 1",
        ("a", "[Place of publication not identified] :"),
        ("b", f"{title.publisher or '[publisher not identified]'},"),
        ("c", f"{(title.published or '')[:4] or '[date of publication not identified]'}."),
    )


def _physical_fields(title: TitleView, *, audio: bool) -> Iterator[Field]:
    if audio:
        seconds = (title.duration_ms or 0) // _SECOND_MS
        extent = f"audio file{_duration_note(seconds)}"
        yield data_field("300", "  ", ("a", f"1 online resource (1 {extent})"))
        if 0 < seconds <= _MAX_306_SECONDS:
            clock = f"{seconds // _HOUR:02d}{seconds % _HOUR // _MINUTE:02d}{seconds % _MINUTE:02d}"
            yield data_field("306", "  ", ("a", clock))
    else:
        pages = f" ({title.page_count} pages)" if title.page_count else ""
        yield data_field("300", "  ", ("a", f"1 online resource{pages}"))
    content = ("spoken word", "spw") if audio else ("text", "txt")
    for tag, (term, code), scheme in (
        ("336", content, "rdacontent"),
        ("337", ("computer", "c"), "rdamedia"),
        ("338", ("online resource", "cr"), "rdacarrier"),
    ):
        yield data_field(tag, "  ", ("a", term), ("b", code), ("2", scheme))
    encoding = _ENCODINGS.get(title.format or "")
    kind = "audio file" if audio else "text file"
    yield data_field("347", "  ", ("a", kind), ("b", encoding), ("2", "rdaft"))


def _notes(title: TitleView) -> Iterator[Field]:
    if title.narrators:
        narrators = ", ".join(title.narrators)
        yield data_field("511", "0 ", ("a", _with_full_stop(f"Read by {narrators}")))
    if title.description:
        yield data_field("520", "  ", ("a", title.description))


def _access_points(headings: Headings, *, audio: bool) -> Iterator[Field]:
    for scheme, name in headings.subjects:
        if scheme == SubjectScheme.BISAC:
            yield data_field("650", " 7", ("a", _with_full_stop(name)), ("2", "bisacsh"))
        else:
            yield data_field("653", "  ", ("a", name))
    yield data_field("655", " 0", ("a", "Audiobooks." if audio else "Electronic books."))
    authors = 0
    for role, name in headings.people:
        authors += role == ContributorRole.AUTHOR
        if role != ContributorRole.AUTHOR or authors > 1:
            yield _person("700", name, role)
    yield data_field("710", "2 ", ("a", "cloudLibrary."))


def _person(tag: str, name: str, relator: str) -> Field:
    return data_field(tag, f"{1 if ',' in name else 0} ", ("a", f"{name.rstrip(',')},"), ("e", f"{relator}."))


def _article_length(title: TitleView) -> int:
    for article in _ARTICLES.get(title.language or "", ()):
        if title.title and title.title.startswith(article):
            return len(article)
    return 0


def _with_full_stop(text: str) -> str:
    return text if text.rstrip().endswith((".", "!", "?", "…")) else f"{text}."


def _duration_note(seconds: int) -> str:
    """Format a duration, such as " (11 hr., 5 min.)"."""
    hours, minutes = seconds // _HOUR, seconds % _HOUR // _MINUTE
    parts = [f"{number} {unit}" for number, unit in ((hours, "hr."), (minutes, "min.")) if number]
    return f" ({', '.join(parts)})" if parts else ""
