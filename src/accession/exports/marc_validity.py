"""Correction of the vendor's records to valid MARC 21, as they are exported; what is stored stays as sent.

Library systems reject or misread records with undefined values: FOLIO's editor, for instance, does not open
them. A valid value is kept, whether it fits the title or not.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from accession.catalog.change_feed import FeedTitle
from accession.core.marc21 import Field, Marc21Record
from accession.core.marc21_format import (
    DATES_PATTERN,
    ENTERED_PATTERN,
    FIELD_006,
    FIELD_007,
    FIELD_008_MATERIAL,
    FILL,
    FORM_OF_ITEM,
    LAST_VALUES,
    LEADER_VALUES,
    FieldDefinition,
    FixedField,
    country_codes,
    field_definitions,
    language_codes,
    material_of,
)
from accession.core.vocabulary import Medium
from accession.exports.marc_from_metadata import build_008, build_title_field, marc_language

# Fields that the export replaces, whatever they hold.
_REPLACED_TAGS = frozenset({"001", "003", "005"})
_CODED_TAGS = frozenset({"006", "007"})
_MAIN_ENTRIES = frozenset({"100", "110", "111", "130"})
# Values of leader/06 whose 008 has the positions of music.
_SOUND_RECORDINGS = "cdij"
_008_LENGTH = 40
_ENTERED_AND_DATES = re.compile(ENTERED_PATTERN.pattern + DATES_PATTERN.pattern)
_NO_LANGUAGES = frozenset({b"|||", b"   ", b"und"})
# Values of the form of item: online, direct electronic, electronic.
_ELECTRONIC_FORMS = b"oqs"
_CODES = re.compile(rb"\x1f(.?)", re.DOTALL).findall
# Before each data field when all of them are joined. One search then finds all indicators and codes; a code
# whose subfield is empty is followed by a delimiter.
_START = b"\x1f\x1e"
_HEADINGS = re.compile(rb"\x1f(\x1e..(?:\x1f.\x1f?)?|.\x1f?)", re.DOTALL).findall
_CONTROL_CHARACTERS = re.compile(rb"[\x00-\x1e\x7f]|\xc2[\x80-\x9f]")
# Without the characters of `_START`.
_ASCII_CONTROL_CHARACTERS = bytes([*range(0x1E), 0x7F])
_TAG = re.compile(r"(?!000)[0-9]{3}")
# Tags that contain a 9, and subfields with this code, are left to local use.
_LOCAL, _LOCAL_CONTROL_FIELD = "9", "009"
_LOCAL_CODES = "0123456789abcdefghijklmnopqrstuvwxyz"
_LOCAL_DEFINITION = FieldDefinition(
    True, (f" {_LOCAL_CODES}", f" {_LOCAL_CODES}"), frozenset(_LOCAL_CODES), frozenset()
)
_JOINED = "+"
_MAX_TITLES_LISTED = 5


@dataclass(frozen=True)
class Correction:
    """A kind of correction of an export: how many records had it, and the ids of the first of them."""

    description: str
    records: int
    first_titles: tuple[str, ...]


class CorrectionReport:
    """Corrections of the records of an export, counted by kind."""

    def __init__(self) -> None:
        self.corrected_records = 0
        self._counts: Counter[str] = Counter()
        self._titles: dict[str, list[str]] = {}

    def add(self, identifier: str, descriptions: Collection[str]) -> None:
        """Add the corrections of one record."""
        self.corrected_records += bool(descriptions)
        for description in dict.fromkeys(descriptions):
            self._counts[description] += 1
            titles = self._titles.setdefault(description, [])
            if len(titles) < _MAX_TITLES_LISTED:
                titles.append(identifier)

    def corrections(self) -> Sequence[Correction]:
        """Return the kinds of corrections, the most frequent first."""
        return [
            Correction(description, count, tuple(self._titles[description]))
            for description, count in self._counts.most_common()
        ]


def correct_record(record: Marc21Record, entry: FeedTitle) -> tuple[Marc21Record, Sequence[str]]:
    """Return a record as valid MARC 21, with a description of each correction.

    Undefined values become the default that suits an e-book or audiobook, or the fill character. Fields and
    subfields that MARC 21 does not define are left out, and so are further ones where only one is allowed.
    008 and 245 are built from the metadata if they are missing.
    """
    leader = f"00000{record.leader[5:9]}a2200000{record.leader[17:20]}4500"
    if _is_valid(leader, record.fields, entry):
        return Marc21Record(leader, record.fields), ()
    leader, leader_corrections = _correct_leader(leader, is_audio=entry.title.medium == Medium.AUDIOBOOK)
    corrections = list(leader_corrections)
    corrected: list[Field] = []
    for field in _clean_text(record.fields, corrections):
        if not _is_data_tag(field[0]):
            corrected += _correct_control_field(field, leader, entry, corrections)
        else:
            corrected += _correct_data_field(field, corrections)
    return Marc21Record(leader, _complete(corrected, leader, entry, corrections)), corrections


def _is_valid(leader: str, fields: Sequence[Field], entry: FeedTitle) -> bool:
    """Return whether a record is valid, from parts of it that many records have in common.

    This is several times as fast as looking at each field, and nearly all records are valid.
    """
    coded, data, entered = [], [], b""
    for field in fields:
        tag, content = field
        if _is_data_tag(tag):
            data.append(content)
        elif tag == "008":
            entered = content[:15]
            coded.append((tag, content[15:]))
        elif tag not in _REPLACED_TAGS:
            coded.append(field)
    body = b"".join((_START, _START.join(data), b"\x1f"))
    return (
        _ENTERED_AND_DATES.fullmatch(entered) is not None
        and _has_valid_codes(leader, tuple(coded), marc_language(entry.title))
        and _has_valid_headings(tuple([tag for tag, _ in fields]), b"".join(_HEADINGS(body)))
        and body.count(b"\x1e") == len(data)
        and len(body.translate(None, _ASCII_CONTROL_CHARACTERS)) == len(body)
        and (b"\xc2" not in body or _CONTROL_CHARACTERS.search(body.replace(_START, b"")) is None)
    )


@lru_cache(maxsize=8192)
def _has_valid_codes(leader: str, fields: Sequence[Field], language: str) -> bool:
    """Return whether leader and control fields are valid; 008 is given without its first 15 characters."""
    if _correct_leader(leader, is_audio=False)[1]:
        return False
    for tag, content in fields:
        if tag == "008":
            corrected: tuple[bytes | None, object] = (
                _correct_coded_positions(content, material_of(leader), language)
                if len(content) == _008_LENGTH - 15
                else (None, ())
            )
        else:
            corrected = _correct_coded_field(tag, content) if tag in _CODED_TAGS else (None, ())
        if corrected[0] != content and tag != _LOCAL_CONTROL_FIELD:
            return False
    return True


@lru_cache(maxsize=8192)
def _has_valid_headings(tags: tuple[str, ...], headings: bytes) -> bool:
    """Return whether the fields are complete, and all data fields have valid indicators and codes."""
    data_tags = [tag for tag in tags if _is_data_tag(tag)]
    each_heading = headings.split(b"\x1e")[1:]
    return (
        _is_complete(tags)
        and len(data_tags) == len(each_heading)
        and all(_plan(tag, heading) is None for tag, heading in zip(data_tags, each_heading, strict=True))
    )


@lru_cache(maxsize=1024)
def _correct_leader(leader: str, *, is_audio: bool) -> tuple[str, tuple[str, ...]]:
    defaults = {5: "n", 6: "i" if is_audio else "a", 7: "m", 8: " ", 17: "3", 18: "u", 19: " "}
    undefined = [position for position, values in LEADER_VALUES.items() if leader[position] not in values]
    characters = list(leader)
    for position in undefined:
        characters[position] = defaults[position]
    return "".join(characters), tuple(f"leader/{position:02d} replaced" for position in undefined)


def _clean_text(fields: Sequence[Field], corrections: list[str]) -> Iterator[Field]:
    for tag, content in fields:
        clean = _CONTROL_CHARACTERS.sub(b" ", content)
        if clean != content:
            corrections.append(f"control characters of {tag} replaced by spaces")
        heading, *parts = clean.split(b"\x1f")
        filled = [part for part in parts if part[1:].strip()]
        if len(filled) < len(parts):
            corrections.append(f"empty subfields of {tag} removed")
        yield tag, b"\x1f".join((heading, *filled))


@dataclass(frozen=True)
class _Plan:
    """Correction of all data fields with the same tag, indicators and codes.

    Attributes:
        codes: New code of each subfield; empty if the subfield is left out, and `+` if its value is joined to
            that of the first subfield with the same code.
    """

    indicators: str
    codes: tuple[str, ...]
    changes: tuple[str, ...]

    def apply(self, field: Field) -> Iterator[Field]:
        """Yield the corrected field, or none if nothing is left of it."""
        tag, content = field
        parts: list[bytes] = []
        for code, part in zip(self.codes, content.split(b"\x1f")[1:], strict=True):
            if code == _JOINED:
                first = next(n for n, each in enumerate(parts) if each[:1] == part[:1].lower())
                parts[first] += b" " + part[1:]
            elif code:
                parts.append(code.encode() + part[1:])
        if parts:
            yield tag, b"\x1f".join((self.indicators.encode(), *parts))


def _correct_data_field(field: Field, corrections: list[str]) -> Iterable[Field]:
    tag, content = field
    plan = _plan(tag, content[:3] + b"".join(_CODES(content)))
    if plan is None:
        return (field,)
    corrections += plan.changes
    return plan.apply(field)


@lru_cache(maxsize=4096)
def _plan(tag: str, heading: bytes) -> _Plan | None:
    """Return the correction of fields with this heading: indicators, delimiter and codes; None if valid."""
    definition = field_definitions().get(tag)
    if definition is None:
        if _LOCAL not in tag or not _TAG.fullmatch(tag):
            codes = ("",) * (len(heading) - 3)
            return _Plan("", codes, (f"field {tag} removed: MARC 21 does not define it",))
        definition = _LOCAL_DEFINITION
    text = heading.decode("latin-1")
    indicators, changes = _correct_indicators(tag, text, definition)
    codes, code_changes = _correct_codes(tag, text[3:], definition)
    changes += code_changes
    if text[2:3] != "\x1f":
        changes.append(f"text before the first subfield of {tag} removed")
    if not any(codes):
        changes.append(f"field {tag} removed: it has no subfields")
    return _Plan(indicators, codes, tuple(changes)) if changes else None


def _correct_indicators(tag: str, heading: str, definition: FieldDefinition) -> tuple[str, list[str]]:
    indicators, changes = "", []
    for number, (value, values) in enumerate(
        zip(heading[:2].ljust(2), definition.indicators, strict=True), 1
    ):
        if value in values:
            indicators += value
            continue
        # Indicator 7 says that subfield 2 names the source.
        indicators += "7" if "7" in values and "2" in heading[3:] else values[0]
        changes.append(f"indicator {number} of {tag} replaced")
    return indicators, changes


def _correct_codes(tag: str, codes: str, definition: FieldDefinition) -> tuple[tuple[str, ...], list[str]]:
    corrected: list[str] = []
    changes: list[str] = []
    for code in codes:
        known = code if code in definition.subfields or code == _LOCAL else code.lower()
        if known not in definition.subfields and known != _LOCAL:
            known = ""
            changes.append(f"subfield ${_printable(code)} of {tag} removed: MARC 21 does not define it")
        elif known in definition.unique_subfields and known in corrected:
            changes.append(f"second subfield ${known} of {tag} joined to the first")
            known = _JOINED
        elif known != code:
            changes.append(f"subfield ${code} of {tag} written as ${known}")
        corrected.append(known)
    return tuple(corrected), changes


def _printable(code: str) -> str:
    return code if code.isascii() and code.isprintable() else "?"


def _correct_control_field(
    field: Field, leader: str, entry: FeedTitle, corrections: list[str]
) -> Sequence[Field]:
    tag, content = field
    if tag in _REPLACED_TAGS or tag == _LOCAL_CONTROL_FIELD:
        return (field,)
    if tag == "008":
        return ((tag, _correct_008(content, leader, entry, corrections)),)
    if tag in _CODED_TAGS:
        corrected, changes = _correct_coded_field(tag, content)
        corrections += changes
        return () if corrected is None else ((tag, corrected),)
    corrections.append(f"field {tag} removed: MARC 21 does not define it")
    return ()


@lru_cache(maxsize=1024)
def _correct_coded_field(tag: str, content: bytes) -> tuple[bytes | None, tuple[str, ...]]:
    """Correct 006 or 007; None if its first character, which defines all others, is not known."""
    fixed = (FIELD_006 if tag == "006" else FIELD_007).get(content[:1].decode("latin-1"))
    if fixed is None:
        return None, (f"field {tag} removed: its kind of material is not known",)
    changes = []
    if len(content) != fixed.length:
        content = content[: fixed.length].ljust(fixed.length, FILL)
        changes.append(f"{tag} set to its length of {fixed.length} characters")
    content, names = _fill_undefined(content, fixed)
    return content, (*changes, *(f"{tag}/{name} replaced" for name in names))


def _correct_008(content: bytes, leader: str, entry: FeedTitle, corrections: list[str]) -> bytes:
    is_audio = leader[6] in _SOUND_RECORDINGS
    if len(content) != _008_LENGTH:
        content = build_008(entry, audio=is_audio)
        corrections.append(f"008 built from the metadata: it did not have {_008_LENGTH} characters")
    if not ENTERED_PATTERN.fullmatch(content, 0, 6):
        content = build_008(entry, audio=is_audio)[:6] + content[6:]
        corrections.append("008/00-05 replaced")
    if not DATES_PATTERN.fullmatch(content, 6, 15):
        content = content[:6] + build_008(entry, audio=is_audio)[6:15] + content[15:]
        corrections.append("008/06-14 replaced")
    coded, changes = _correct_coded_positions(content[15:], material_of(leader), marc_language(entry.title))
    corrections += changes
    return content[:15] + coded


@lru_cache(maxsize=4096)
def _correct_coded_positions(coded: bytes, material: str, language: str) -> tuple[bytes, tuple[str, ...]]:
    """Correct positions 15 to 39 of 008; `language` is that of the metadata, or `und`."""
    content, names = _fill_undefined(FILL * 15 + coded, FIELD_008_MATERIAL[material])
    place, form, spoken = content[15:18], FORM_OF_ITEM[material], content[35:38]
    replacements: dict[int, bytes] = {}
    if place != b"|||" and _code(place) not in country_codes():
        replacements[15] = b"xx "
    if content[form] not in _ELECTRONIC_FORMS:
        replacements[form] = b"o"
    if spoken in _NO_LANGUAGES:
        replacements |= {35: language.encode()} if language != "und" else {}
    elif spoken.decode("latin-1") not in language_codes():
        replacements[35] = language.encode()
    replacements |= {at: FILL for at, values in LAST_VALUES.items() if content[at] not in values}
    for start, value in replacements.items():
        content = content[:start] + value + content[start + len(value) :]
        names.append(f"{start:02d}" if len(value) == 1 else f"{start}-{start + len(value) - 1}")
    return content[15:], tuple(f"008/{name} replaced" for name in dict.fromkeys(names))


def _code(place: bytes) -> str:
    """Return a country code without the blank that follows one of two letters."""
    return place.decode("latin-1").removesuffix(" ")


def _fill_undefined(content: bytes, fixed: FixedField) -> tuple[bytes, list[str]]:
    names = []
    for position in fixed.find_undefined(content):
        fill = FILL * (position.end - position.start)
        content = content[: position.start] + fill + content[position.end :]
        names.append(position.name)
    return content, names


@lru_cache(maxsize=4096)
def _is_complete(tags: tuple[str, ...]) -> bool:
    """Return whether a record has all fields that it needs, none too often, and control fields first."""
    definitions = field_definitions()
    counts = Counter(tags)
    return (
        list(tags) == sorted(tags, key=_is_data_tag)
        and counts["008"] == counts["245"] == 1
        and sum(count for tag, count in counts.items() if tag in _MAIN_ENTRIES) <= 1
        and all(
            count == 1 or tag in _REPLACED_TAGS or tag not in definitions or definitions[tag].is_repeatable
            for tag, count in counts.items()
        )
    )


def _is_data_tag(tag: str) -> bool:
    return tag >= "010"


def _complete(fields: Sequence[Field], leader: str, entry: FeedTitle, corrections: list[str]) -> list[Field]:
    without_repeats = list(_without_repeats(fields, corrections))
    complete = sorted(without_repeats, key=lambda field: _is_data_tag(field[0]))
    if complete != without_repeats:
        corrections.append("control fields moved before data fields")
    tags = {tag for tag, _ in complete}
    missing = [("008", _correct_008(b"", leader, entry, []))] if "008" not in tags else []
    missing += [build_title_field(entry)] if "245" not in tags else []
    for field in missing:
        corrections.append(f"{field[0]} built from the metadata: it was missing")
        place = next((n for n, (tag, _) in enumerate(complete) if tag > field[0]), len(complete))
        complete.insert(place, field)
    return complete


def _without_repeats(fields: Sequence[Field], corrections: list[str]) -> Iterator[Field]:
    seen: set[str] = set()
    for tag, content in fields:
        definition = field_definitions().get(tag)
        if tag in _MAIN_ENTRIES and not seen.isdisjoint(_MAIN_ENTRIES):
            added_entry = f"7{tag[1:]}"
            corrections.append(f"second main entry {tag} written as {added_entry}")
            yield added_entry, content
        elif tag in seen and (tag == "008" or (definition is not None and not definition.is_repeatable)):
            corrections.append(f"second field {tag} removed")
        else:
            yield tag, content
        seen.add(tag)
