"""MARC 21 records built from metadata, for titles without a purchase record, and names for those with one.

The records follow RDA as far as the metadata allows.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter

from accession.catalog.change_feed import FeedTitle, Headings
from accession.catalog.titles import TitleView
from accession.core.articles import article_length
from accession.core.marc21 import DELIMITER, Field, Marc21Record, control_field, data_field
from accession.core.marc21_format import language_codes
from accession.core.names import parse_name
from accession.core.vocabulary import ContributorRole, Format, Medium, SubjectScheme

_UNTITLED = "[Title not known]"
_SECOND_MS, _MINUTE, _HOUR = 1000, 60, 3600
_YEAR = re.compile(r"\d{4}", re.ASCII)
_MAX_306_SECONDS = 99 * _HOUR  # field 306 has two digits for hours

_ENCODINGS: Mapping[str, str] = {
    Format.EPUB: "EPUB",
    Format.EPUB3: "EPUB 3",
    Format.PDF: "PDF",
    Format.MP3: "MP3",
}

# What comes before the names in the statement of responsibility; for other roles it is the term.
_STATEMENTS: Mapping[str, str] = {
    ContributorRole.AUTHOR: "by",
    ContributorRole.EDITOR: "edited by",
    ContributorRole.TRANSLATOR: "translated by",
    ContributorRole.ILLUSTRATOR: "illustrated by",
    ContributorRole.NARRATOR: "narrated by",
    ContributorRole.ARTIST: "art by",
    ContributorRole.PHOTOGRAPHER: "photographs by",
    ContributorRole.FOREWORD: "foreword by",
    ContributorRole.PREFACE: "preface by",
    ContributorRole.INTRODUCTION: "introduction by",
    ContributorRole.AFTERWORD: "afterword by",
    ContributorRole.ADAPTER: "adapted by",
    ContributorRole.ABRIDGER: "abridged by",
    ContributorRole.ANNOTATOR: "annotated by",
    ContributorRole.COMPILER: "compiled by",
    ContributorRole.CONTRIBUTOR: "with contributions by",
}

_NAME_TAGS = frozenset({"100", "110", "700", "710"})
_NAME = re.compile(rb"\x1fa([^\x1f]+)")
_RELATORS = re.compile(rb"\x1f[4e]([^\x1f]+)")
_WORD = re.compile(r"\w+")

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
        *_language_fields(title),
        *_title_fields(title, headings),
        *_physical_fields(title, audio=audio),
        *_notes(title),
        *_access_points(headings, audio=audio),
        *([data_field("856", "42", ("3", "Cover image"), ("u", title.cover_url))] if title.cover_url else []),
    ]
    return Marc21Record(f"00000n{'i' if audio else 'a'}m a2200000 i 4500", fields)


def complete_names(fields: Sequence[Field], headings: Headings) -> list[Field]:
    """Return the fields of the vendor's record with all contributors: the vendor's has the first author only.

    Names that it lacks are added entries, with their roles. Roles are added to names that it has.
    """
    completed = list(fields)
    present = [(index, key) for index, field in enumerate(fields) if (key := _key_of_field(field))]
    added: list[Field] = []
    for name, roles in _roles_by_name(headings).items():
        # Dates and others may follow the name.
        start = _key_of_name(name)
        index = next((index for index, key in present if start and key.startswith(start)), None)
        if index is None:
            added.append(_name_field("7", name, roles))
        else:
            completed[index] = _with_roles(completed[index], roles)
    if added:
        place = next((n for n, (tag, _) in enumerate(completed) if tag > "700"), len(completed))
        completed[place:place] = sorted(added, key=itemgetter(0))
    return completed


def _key_of_field(field: Field) -> str | None:
    """Return the key of the name in a main or an added entry; None for another field."""
    tag, content = field
    if tag not in _NAME_TAGS or (name := _NAME.search(content)) is None:
        return None
    return _name_key(name[1].decode(errors="replace"))


@lru_cache(maxsize=4096)
def _key_of_name(sort_name: str) -> str:
    return _name_key(parse_name(sort_name).name)


def _name_key(name: str) -> str:
    """Return the words of a name, to compare, with a space after each; empty if it has no words."""
    return "".join(f"{word} " for word in _WORD.findall(name.casefold()))


def _with_roles(field: Field, roles: Sequence[ContributorRole]) -> Field:
    """Return a name field with the roles that it does not state yet."""
    tag, content = field
    stated = {text.decode(errors="replace").strip(" .,").lower() for text in _RELATORS.findall(content)}
    missing = [role for role in roles if not {role.code, role.value} & stated]
    if not missing or (not stated and missing == [ContributorRole.AUTHOR]):
        return field
    terms = [f"{DELIMITER}e{role}." for role in missing]
    codes = [f"{DELIMITER}4{role.code}" for role in missing]
    return tag, content + "".join((*terms, *codes)).encode()


def build_title_field(entry: FeedTitle) -> Field:
    """Return the field 245 of a title."""
    fields = _title_fields(entry.title, entry.headings or _headings_of(entry.title))
    return next(field for field in fields if field[0] == "245")


def build_008(entry: FeedTitle, *, audio: bool) -> bytes:
    """Return the field 008 of an e-book or audiobook."""
    year = (entry.title.published or "")[:4]
    dates = f"s{year}    " if _YEAR.fullmatch(year) else "nuuuuuuuu"
    material = _AUDIO_008 if audio else _BOOK_008
    return f"{entry.created_at:%y%m%d}{dates}xx {material}{marc_language(entry.title)} d".encode()


def marc_language(title: TitleView) -> str:
    """Return the MARC code of a title's language; `und` if it is unknown or MARC has no code for it."""
    return title.language if title.language in language_codes() else "und"


def _headings_of(title: TitleView) -> Headings:
    people = tuple((role.value, name) for role, name in title.contributors)
    return Headings(people, tuple((SubjectScheme.LABEL.value, name) for name in title.subjects))


def _coded_fields(entry: FeedTitle, *, audio: bool) -> Iterator[Field]:
    yield control_field("006", _AUDIO_006 if audio else _BOOK_006)
    for value in _AUDIO_007 if audio else _BOOK_007:
        yield control_field("007", value)
    yield "008", build_008(entry, audio=audio)


def _language_fields(title: TitleView) -> Iterator[Field]:
    if title.language in language_codes():
        yield data_field("041", "0 ", ("a", title.language))
    elif title.language:
        yield data_field("041", "07", ("a", title.language), ("2", "iso639-3"))


def _title_fields(title: TitleView, headings: Headings) -> Iterator[Field]:
    main_entry = _main_entry(headings)
    if main_entry is not None:
        yield _name_field("1", main_entry, _roles_by_name(headings)[main_entry])
    proper, other = title.title or _UNTITLED, title.subtitle
    responsibility = _statement_of_responsibility(title)
    yield data_field(
        "245",
        # Indicator 2 is the number of characters that sorting skips.
        f"{0 if main_entry is None else 1}{article_length(proper, title.language)}",
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
    main_entry = _main_entry(headings)
    for name, roles in _roles_by_name(headings).items():
        if name != main_entry:
            yield _name_field("7", name, roles)
    yield data_field("710", "2 ", ("a", "cloudLibrary."))


def _main_entry(headings: Headings) -> str | None:
    """Return the name of the first author."""
    return next((name for role, name in headings.people if role == ContributorRole.AUTHOR), None)


def _roles_by_name(headings: Headings) -> dict[str, list[ContributorRole]]:
    """Return the roles of each name: MARC 21 has one field for a person in several roles."""
    roles: dict[str, dict[ContributorRole, None]] = {}
    for role, name in headings.people:
        roles.setdefault(name, {})[ContributorRole(role)] = None
    return {name: list(each) for name, each in roles.items()}


def _name_field(block: str, sort_name: str, roles: Sequence[ContributorRole]) -> Field:
    """Return the main (block 1) or added entry (block 7) of a person or an organisation."""
    name = parse_name(sort_name)
    heading = [
        ("a", name.name),
        ("q", name.fuller_form and f"({name.fuller_form})"),
        ("c", ", ".join(name.titles)),
        # Organisations have no dates in their headings.
        ("d", "" if name.is_organisation else name.dates),
    ]
    present = [(code, text) for code, text in heading if text]
    return data_field(
        f"{block}{10 if name.is_organisation else '00'}",
        "2 " if name.is_organisation else f"{1 if ',' in name.name else 0} ",
        *((code, _before(following, text)) for (code, text), following in pairwise((*present, ("e", "")))),
        *(("e", f"{role}," if role != roles[-1] else f"{role}.") for role in roles),
        *(("4", role.code) for role in roles),
    )


def _before(following: tuple[str, str], text: str) -> str:
    """Return the text of a subfield with the comma that the following subfield requires."""
    needs_comma = following[0] != "q" and not text.endswith(("-", ","))
    return f"{text}," if needs_comma else text


def _statement_of_responsibility(title: TitleView) -> str:
    names: dict[ContributorRole, list[str]] = {}
    for role, name in title.contributors:
        names.setdefault(role, []).append(name)
    return " ; ".join(f"{_STATEMENTS.get(role, f'{role},')} {', '.join(names[role])}" for role in names)


def _with_full_stop(text: str) -> str:
    return text if text.rstrip().endswith((".", "!", "?", "…")) else f"{text}."


def _duration_note(seconds: int) -> str:
    """Format a duration, such as " (11 hr., 5 min.)"."""
    hours, minutes = seconds // _HOUR, seconds % _HOUR // _MINUTE
    parts = [f"{number} {unit}" for number, unit in ((hours, "hr."), (minutes, "min.")) if number]
    return f" ({', '.join(parts)})" if parts else ""
