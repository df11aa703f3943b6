"""MARC 21 made from the metadata, for titles whose purchase the vendor has never sent as MARC: RDA as far as
the metadata goes."""

from collections.abc import Iterator, Mapping

from accession.catalog.change_feed import FeedTitle, Headings
from accession.catalog.titles import TitleView
from accession.core.vocabulary import Format, Medium, Role, SubjectScheme
from accession.exports.iso2709 import Field, MarcParts, control_field, data_field

_UNTITLED = "[Title not known]"
_SECOND_MS, _MINUTE, _HOUR = 1000, 60, 3600
_LONGEST_306 = 99 * _HOUR

# How many characters a title's first article takes, by language: it is passed over in sorting.
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


def from_metadata(found: FeedTitle, organization: str) -> MarcParts:
    """The title's record, an online resource: a book or an audiobook."""
    title = found.title
    headings = found.headings or _as_shown(title)
    audio = title.medium == Medium.AUDIOBOOK
    fields = [
        control_field("001", title.identifier),
        *_coded(found, audio=audio),
        *(data_field("020", "  ", ("a", isbn)) for isbn in title.isbns),
        data_field("037", "  ", ("a", title.identifier), ("b", "cloudLibrary")),
        data_field("040", "  ", ("a", organization), ("b", "eng"), ("e", "rda"), ("c", organization)),
        *([data_field("041", "0 ", ("a", title.language))] if title.language else []),
        *_described(title, headings, audio=audio),
        *_carried(title, audio=audio),
        *_noted(title),
        *_found_by(headings, audio=audio),
        *([data_field("856", "42", ("3", "Cover image"), ("u", title.cover_url))] if title.cover_url else []),
    ]
    return MarcParts(f"00000n{'i' if audio else 'a'}m a2200000 i 4500", fields)


def _as_shown(title: TitleView) -> Headings:
    people = [(Role.AUTHOR.value, name) for name in title.authors]
    people += [(Role.NARRATOR.value, name) for name in title.narrators]
    return Headings(tuple(people), tuple((SubjectScheme.LABEL.value, name) for name in title.subjects))


def _coded(found: FeedTitle, *, audio: bool) -> Iterator[Field]:
    title = found.title
    year = (title.published or "")[:4]
    date = f"s{year}    " if year else "nuuuuuuuu"
    yield control_field("006", _AUDIO_006 if audio else _BOOK_006)
    for form in _AUDIO_007 if audio else _BOOK_007:
        yield control_field("007", form)
    special = _AUDIO_008 if audio else _BOOK_008
    yield control_field("008", f"{found.created_at:%y%m%d}{date}xx {special}{title.language or 'und'} d")


def _described(title: TitleView, headings: Headings, *, audio: bool) -> Iterator[Field]:
    authors = [name for role, name in headings.people if role == Role.AUTHOR]
    if authors:
        yield _person("100", authors[0], "author")
    said_by = [f"by {_listed(title.authors)}"] if title.authors else []
    said_by += [f"narrated by {_listed(title.narrators)}"] if title.narrators else []
    proper, other, by = title.title or _UNTITLED, title.subtitle, " ; ".join(said_by)
    yield data_field(
        "245",
        f"{1 if authors else 0}{_skipped(title)}",
        ("a", f"{proper} :" if other else f"{proper} /" if by else _stopped(proper)),
        ("b", other and (f"{other} /" if by else _stopped(other))),
        ("c", by and _stopped(by)),
    )
    yield data_field(
        "264",
        " 1",
        ("a", "[Place of publication not identified] :"),
        ("b", f"{title.publisher or '[publisher not identified]'},"),
        ("c", f"{(title.published or '')[:4] or '[date of publication not identified]'}."),
    )


def _carried(title: TitleView, *, audio: bool) -> Iterator[Field]:
    if audio:
        seconds = (title.duration_ms or 0) // _SECOND_MS
        extent = f"audio file{_span(seconds)}"
        yield data_field("300", "  ", ("a", f"1 online resource (1 {extent})"))
        if 0 < seconds <= _LONGEST_306:
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


def _noted(title: TitleView) -> Iterator[Field]:
    if title.narrators:
        yield data_field("511", "0 ", ("a", _stopped(f"Read by {_listed(title.narrators)}")))
    if title.description:
        yield data_field("520", "  ", ("a", title.description))


def _found_by(headings: Headings, *, audio: bool) -> Iterator[Field]:
    for scheme, name in headings.subjects:
        if scheme == SubjectScheme.BISAC:
            yield data_field("650", " 7", ("a", _stopped(name)), ("2", "bisacsh"))
        else:
            yield data_field("653", "  ", ("a", name))
    yield data_field("655", " 0", ("a", "Audiobooks." if audio else "Electronic books."))
    authors = 0
    for role, name in headings.people:
        authors += role == Role.AUTHOR
        if role != Role.AUTHOR or authors > 1:
            yield _person("700", name, role)
    yield data_field("710", "2 ", ("a", "cloudLibrary."))


def _person(tag: str, name: str, does: str) -> Field:
    return data_field(tag, f"{1 if ',' in name else 0} ", ("a", f"{name.rstrip(',')},"), ("e", f"{does}."))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _skipped(title: TitleView) -> int:
    for article in _ARTICLES.get(title.language or "", ()):
        if title.title and title.title.startswith(article):
            return len(article)
    return 0


def _stopped(text: str) -> str:
    return text if text.rstrip().endswith((".", "!", "?", "…")) else f"{text}."


def _span(seconds: int) -> str:
    """As " (11 hr., 5 min.)"."""
    hours, minutes = seconds // _HOUR, seconds % _HOUR // _MINUTE
    parts = [f"{number} {unit}" for number, unit in ((hours, "hr."), (minutes, "min.")) if number]
    return f" ({', '.join(parts)})" if parts else ""
