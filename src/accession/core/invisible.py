"""Remove invisible characters from text, except where a script needs them.

Zero-width spaces, byte order marks, soft hyphens and the like come from word processors and web pages. Two
texts that look the same would differ by them, in a search and in the order of a list.
"""

import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from unicodedata import bidirectional, category, name

# Default_Ignorable_Code_Point of Unicode, the interlinear annotation characters, and control characters that
# are not white space. The Arabic number signs have the category Cf, too, but are visible.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Empty in themselves, but as wide as a letter.
_BLANKS = str.maketrans(dict.fromkeys("\u3164\uffa0", " "))

_NON_JOINER, _JOINER, _GRAPHEME_JOINER = "\u200c", "\u200d", "\u034f"
_HANGUL_FILLERS = "\u115f\u1160"
_MONGOLIAN_SELECTORS = "\u180b\u180c\u180d\u180e\u180f"
_VARIATION_SELECTOR = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_MARKS = "\u200e\u200f\u061c"
_EMBEDDINGS, _OVERRIDES, _END_EMBEDDING = "\u202a\u202b", "\u202d\u202e", "\u202c"
_ISOLATES, _END_ISOLATE = "\u2066\u2067\u2068", "\u2069"
# The flags of England, Scotland and Wales.
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{1,6}\U000e007f")

# Scripts whose letters change their form or join by ZWJ and ZWNJ: the first word of a letter's Unicode name.
_JOINING_SCRIPTS = {
    *("ADLAM", "ARABIC", "MANDAIC", "MONGOLIAN", "NKO", "PHAGS-PA", "SYRIAC"),
    *("BALINESE", "BENGALI", "BRAHMI", "CHAKMA", "DEVANAGARI", "GRANTHA", "GUJARATI", "GURMUKHI", "JAVANESE"),
    *("KAITHI", "KANNADA", "KHMER", "MALAYALAM", "MEETEI", "MYANMAR", "NEWA", "ORIYA", "SHARADA", "SINHALA"),
    *("SUNDANESE", "TAMIL", "TELUGU", "TIBETAN", "TIRHUTA"),
}


def remove_all_invisible(text: str) -> str:
    """Return `text` without any invisible character, for comparisons."""
    return _INVISIBLE.sub("", text.translate(_BLANKS)) if _INVISIBLE.search(text) else text


def remove_invisible(text: str) -> str:
    """Return `text` without invisible characters, except where they change what is seen.

    Kept are ZWJ and ZWNJ between letters of scripts that join letters, and in emoji; variation selectors
    after the character that they select; and in text from right to left, direction marks and pairs of
    isolates or embeddings. Overrides of the direction, which disguise text, are always removed.
    """
    if not _INVISIBLE.search(text):
        return text
    text = text.translate(_BLANKS)
    needed = {*_direction_controls(text), *_flag_tags(text)}
    characters: list[str] = []
    for index, char in enumerate(text):
        previous, following = characters[-1] if characters else "", text[index + 1 : index + 2]
        if not _INVISIBLE.match(char) or index in needed or _is_needed(char, previous, following):
            characters.append(char)
    return "".join(characters)


def _is_needed(char: str, previous: str, following: str) -> bool:
    """Return whether a character between two others changes how they look."""
    if char == _NON_JOINER:
        return _is_joining(previous) and _is_joining(following)
    if char == _JOINER:
        ends_emoji = _is_emoji(previous) or previous in ("\ufe0f", "\u20e3", "\U000e007f")
        return _is_joining(previous) or (ends_emoji and _is_emoji(following))
    if char == _GRAPHEME_JOINER:
        return _is_letter(previous) and category(following or " ").startswith("M")
    if char in _HANGUL_FILLERS:
        return "HANGUL" in (_script(previous), _script(following))
    if char in _MONGOLIAN_SELECTORS:
        return _script(previous) == "MONGOLIAN"
    if _VARIATION_SELECTOR.match(char):
        return _is_visible(previous) and category(previous) not in ("Ll", "Lu")
    return False


def _is_visible(char: str) -> bool:
    return bool(char) and not char.isspace() and not _INVISIBLE.match(char)


def _is_letter(char: str) -> bool:
    return _is_visible(char) and category(char)[0] in "LM"


def _script(char: str) -> str:
    """Return the first word of a letter's name, which is that of its script; empty for anything else."""
    return name(char, "").split(" ")[0] if _is_letter(char) else ""


def _is_joining(char: str) -> bool:
    return _script(char) in _JOINING_SCRIPTS


def _is_emoji(char: str) -> bool:
    """Return whether a character can be part of a sequence of emoji, such as a family or a flag."""
    return bool(char) and not char.isascii() and category(char) in ("So", "Sm", "Sk")


def _direction_controls(text: str) -> Iterator[int]:
    """Yield the positions of the direction marks and pairs that a text from right to left needs."""
    if not any(bidirectional(char) in ("R", "AL") and char not in _MARKS for char in text):
        return
    opened: list[int] = []
    for index, char in enumerate(text):
        if char in _MARKS:
            yield index
        elif char in _ISOLATES or char in _EMBEDDINGS or char in _OVERRIDES:
            opened.append(index)
        elif char == _END_EMBEDDING and opened and text[opened[-1]] not in _ISOLATES:
            if text[start := opened.pop()] in _EMBEDDINGS:
                yield from (start, index)
        elif char == _END_ISOLATE:
            yield from _close_isolate(text, opened, index)


def _close_isolate(text: str, opened: list[int], end: int) -> Iterator[int]:
    """Yield the positions of the innermost open isolate and its end; it ends embeddings within it."""
    if not any(text[start] in _ISOLATES for start in opened):
        return
    while text[start := opened.pop()] not in _ISOLATES:
        pass
    yield from (start, end)


def _flag_tags(text: str) -> AbstractSet[int]:
    return {index for flag in _FLAG.finditer(text) for index in range(flag.start() + 1, flag.end())}
