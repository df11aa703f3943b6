"""Invisible characters are removed, except where a script needs them."""

import sys
from unicodedata import bidirectional, category

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accession.core.invisible import remove_all_invisible, remove_invisible

ZWSP, ZWNJ, ZWJ, BOM = "\u200b", "\u200c", "\u200d", "\ufeff"
LRM, RLM, ALM = "\u200e", "\u200f", "\u061c"
LRE, RLE, PDF, LRO, RLO = "\u202a", "\u202b", "\u202c", "\u202d", "\u202e"
LRI, RLI, FSI, PDI = "\u2066", "\u2067", "\u2068", "\u2069"
SELECTOR = "\ufe0f"

PERSIAN, HINDI, SINHALA = f"می{ZWNJ}خواهم", f"क्{ZWJ}ष", f"ශ්{ZWJ}රී"
HEBREW = "שלום"
# Format characters with a glyph: the number signs of Arabic and its relatives, and hieroglyph joiners.
VISIBLE_FORMATS = {*"\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd", *map(chr, range(0x600, 0x606))} | {
    *map(chr, range(0x13430, 0x13440))
}

invisible = st.sampled_from(
    [ZWSP, ZWNJ, ZWJ, BOM, LRM, RLM, ALM, LRE, RLE, PDF, LRO, RLO, LRI, RLI, FSI, PDI, SELECTOR, "\u00ad"]
)
letters = st.sampled_from([*"aZ é你", *PERSIAN, *HINDI, *HEBREW, "❤", "👩", "💻"])
texts = st.text() | st.lists(invisible | letters, max_size=20).map("".join)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (f"Zero{ZWSP}width", "Zerowidth"),
        (f"{BOM}Byte order mark", "Byte order mark"),
        ("Soft\u00adhyphen", "Softhyphen"),
        ("Word\u2060joiner", "Wordjoiner"),
        ("Inter\ufff9linear\ufffa\ufffb", "Interlinear"),
        ("Tags\U000e0041\U000e0042", "Tags"),
        ("Co\x7fnt\x92rol", "Control"),
        (f"Auf{ZWNJ}lage", "Auflage"),
        (f"a{ZWJ}b", "ab"),
        (f"a{SELECTOR}", "a"),
        (f"{SELECTOR}a", "a"),
        ("\u3164Title", " Title"),
        (f"{ZWNJ}می{ZWNJ}{ZWNJ}خواهم{ZWNJ}", PERSIAN),
        (f"{ZWNJ}{ZWJ}{ZWSP}", ""),
    ],
)
def test_invisible_character_is_removed(text: str, cleaned: str) -> None:
    assert remove_invisible(text) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        PERSIAN,
        HINDI,
        SINHALA,
        f"1398 ه{ZWJ}.",
        "葛\U000e0100城",
        f"❤{SELECTOR} and 1{SELECTOR}\u20e3",
        f"👩{ZWJ}💻, 🏳{SELECTOR}{ZWJ}🌈, 🙂{ZWJ}↔{SELECTOR}",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\u0600123",
        "e\u034f\u0301",
        "ᠰ\u180b",
        "\u115f\u1161",
    ],
)
def test_character_that_a_script_needs_is_kept(text: str) -> None:
    assert remove_invisible(text) == text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (f"{HEBREW} C++{RLM}", f"{HEBREW} C++{RLM}"),
        (f"C++{RLM}{LRM}{ALM}", "C++"),
        (f"{HEBREW} {LRI}abc{PDI}", f"{HEBREW} {LRI}abc{PDI}"),
        (f"{HEBREW} {RLE}a{LRE}b{PDF}c{PDF}", f"{HEBREW} {RLE}a{LRE}b{PDF}c{PDF}"),
        (f"{HEBREW} {FSI}a{LRE}b{PDI}c{PDF}", f"{HEBREW} {FSI}ab{PDI}c"),
        (f"{HEBREW} {LRI}abc", f"{HEBREW} abc"),
        (f"{HEBREW} abc{PDI}{PDF}", f"{HEBREW} abc"),
        (f"{RLI}abc{PDI}", "abc"),
        (f"{RLO}gnp.exe", "gnp.exe"),
        (f"{HEBREW} {RLO}gnp{LRE}exe{PDF}{PDF}", f"{HEBREW} gnp{LRE}exe{PDF}"),
    ],
)
def test_direction_controls_stay_in_pairs_in_hebrew(text: str, cleaned: str) -> None:
    assert remove_invisible(text) == cleaned


def test_format_characters_without_glyph_are_invisible() -> None:
    formats = {char for char in map(chr, range(sys.maxunicode + 1)) if category(char) == "Cf"}

    assert {char for char in formats if remove_all_invisible(char)} == formats & VISIBLE_FORMATS


@given(texts)
@example(f"{ZWNJ}{ZWJ}")
@example(f"❤{ZWJ}{ZWJ}❤")
def test_cleaning_removes_nothing_visible_and_is_idempotent(text: str) -> None:
    cleaned = remove_invisible(text)

    assert remove_all_invisible(cleaned) == remove_all_invisible(text)
    assert remove_invisible(cleaned) == cleaned


@given(texts)
def test_direction_controls_of_cleaned_text_are_balanced(text: str) -> None:
    cleaned = remove_invisible(text)

    assert not {LRO, RLO} & set(cleaned)
    opened = []
    for char in cleaned:
        if char in (LRE, RLE, LRI, RLI, FSI):
            opened.append(PDF if char in (LRE, RLE) else PDI)
        elif char in (PDF, PDI):
            assert opened.pop() == char
    assert opened == []
    if not any(bidirectional(char) in ("R", "AL") for char in remove_all_invisible(text)):
        assert not {LRM, RLM, ALM, LRE, RLE, PDF, LRI, RLI, FSI, PDI} & set(cleaned)
