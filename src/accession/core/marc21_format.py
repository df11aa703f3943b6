"""Values that MARC 21 defines for bibliographic records.

From the MARC 21 Format for Bibliographic Data (https://www.loc.gov/marc/bibliographic/), with the fields for
holdings that such a record may contain, and the MARC code lists for languages and countries.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

FILL = b"|"
"""The fill character: no attempt to code this position. Control fields may have it in almost any position."""

LEADER_VALUES: Mapping[int, str] = {
    5: "acdnp",
    6: "acdefgijkmoprt",
    7: "abcdims",
    8: " a",
    17: " 1234578uz",
    18: " acinu",
    19: " abc",
}
"""Values of each position of the leader that an author of records chooses."""


@dataclass(frozen=True)
class Position:
    """One or several characters of a control field that hold one value."""

    start: int
    end: int
    pattern: re.Pattern[bytes]

    @property
    def name(self) -> str:
        """Return the position as MARC 21 writes it, such as "23" or "18-21"."""
        last = self.end - 1
        return f"{self.start:02d}" if last == self.start else f"{self.start:02d}-{last:02d}"


@dataclass(frozen=True)
class FixedField:
    """Positions of a control field, or of a part of one, from its first character on."""

    length: int
    positions: tuple[Position, ...]

    def find_undefined(self, value: bytes) -> Iterator[Position]:
        """Yield the positions of a value of the right length that hold no value of their list."""
        return (each for each in self.positions if not each.pattern.fullmatch(value, each.start, each.end))


def _fixed_field(layout: str, start: int = 0) -> FixedField:
    """Create a field from a layout; the fill character is allowed everywhere.

    The layout names the value of each position in order: `#ab` is one character (blank, a or b), `#ab*4` are
    four of them, and `2=an/bd` is one of several values of two characters, as regular expressions.
    """
    positions = []
    for part in layout.split():
        if "=" in part:
            width, _, values = part.partition("=")
            length = int(width)
            pattern = f"(?:{values.replace('#', ' ').replace('/', '|')}|[|]{{{length}}})"
        else:
            characters, _, repeats = part.partition("*")
            length = int(repeats or 1)
            pattern = f"[{characters.replace('#', ' ')}|]{{{length}}}"
        positions.append(Position(start, start + length, re.compile(pattern.encode())))
        start += length
    return FixedField(start, tuple(positions))


_AUDIENCE, _FORM, _GOVERNMENT = "#abcdefgj", "#abcdfoqrs", "#acfilmosuz"
_RUNNING_TIME = r"3=\d\d\d/nnn/---"
_COMPOSITION = (
    "2=an/bd/bg/bl/bt/ca/cb/cc/cg/ch/cl/cn/co/cp/cr/cs/ct/cy/cz/df/dv/fg/fl/fm/ft/gm/hy/jz/mc/md/mi/mo/mp/mr"
    "/ms/mu/mz/nc/nn/op/or/ov/pg/pm/po/pp/pr/ps/pt/pv/rc/rd/rg/ri/rp/rq/sd/sg/sn/sp/st/su/sy/tc/tl/ts/uu/vi/vr"
    "/wz/za/zz"
)
_PROJECTION = (
    "2=##/aa/ab/ac/ad/ae/af/ag/am/an/ap/au/az/ba/bb/bc/bd/be/bf/bg/bh/bi/bj/bk/bl/bo/br/bs/bu/bz/ca/cb/cc/ce"
    "/cp/cu/cz/da/db/dc/dd/de/df/dg/dh/dl/zz"
)
_BOOKS = (
    f"#a-mop*4 {_AUDIENCE} {_FORM} #abcdefgijklmnopqrstuvwyz256*4 {_GOVERNMENT} 01 01 01 # 01defhijmpsu #abcd"
)
_COMPUTER_FILES = f"#*4 {_AUDIENCE} #oq #*2 abcdefghijmuz # {_GOVERNMENT} #*6"
_CONTINUING = (
    f"#abcdefghijkmqstuwz nrux # #dlmnpw #abcdefoqs {_FORM} #abcdefghiklmnopqrstuvwyz56"
    f" #abcdefghiklmnopqrstuvwyz56*3 {_GOVERNMENT} 01 #*3 #abcdefghijkluz 012"
)
_MAPS = f"#abcdefgijkmz*4 {_PROJECTION} # abcdefguz #*2 {_GOVERNMENT} {_FORM} # 01 # #ejklnoprz*2"
_MIXED = f"#*5 {_FORM} #*11"
_MUSIC = f"{_COMPOSITION} abcdeghijklmnpuz #defnu {_AUDIENCE} {_FORM} #abcdefghikrsz*6 #a-prstz*2 # #abcnu #"
_VISUAL = f"{_RUNNING_TIME} # {_AUDIENCE} #*5 {_GOVERNMENT} {_FORM} #*3 abcdfgiklmnopqrstvwz aclnuz"

# 008/18-34 depends on leader/06; 006/01-17 has the same positions for the same form of material.
_LAYOUTS: Mapping[str, str] = {
    **dict.fromkeys("at", _BOOKS),
    **dict.fromkeys("cdij", _MUSIC),
    **dict.fromkeys("ef", _MAPS),
    **dict.fromkeys("gkor", _VISUAL),
    "m": _COMPUTER_FILES,
    "p": _MIXED,
    "s": _CONTINUING,
}
FORM_OF_ITEM: Mapping[str, int] = {kind: 29 if kind in "efgkor" else 23 for kind in _LAYOUTS}
"""Position of the form of item in 008 by kind of material."""

FIELD_006: Mapping[str, FixedField] = {kind: _fixed_field(layout, 1) for kind, layout in _LAYOUTS.items()}
"""Positions of 006 by its first character."""

FIELD_008_MATERIAL: Mapping[str, FixedField] = {
    kind: _fixed_field(layout, 18) for kind, layout in _LAYOUTS.items()
}
"""Positions 18-34 of 008 by kind of material; see `material_of`."""

FIELD_007: Mapping[str, FixedField] = {
    kind: _fixed_field(layout, 1)
    for kind, layout in {
        "a": "dgjkqrsuyz # ac a-gijlnp-z fnuz abcduz abmn",
        "c": r"abcdefhjkmorsuz # abcgmnuz aegijnouvz #au 3=\d\d[1-9]/\d[1-9]\d/[1-9]\d\d/mmm/nnn/---"
        " amu anpu abcdmnu abdmu anpru",
        "d": "abceuz # ac a-gilnpuvwz fnuz",
        "f": "abcduz # #abcdemnuz*2 abmnuz #a-lnuz*3 abnuz",
        "g": "cdfostuz # abchmnuz dejkmouz #abu #a-iuz abcdefgjkstvwxyuz #cdehjkmuz",
        "h": r"a-hjuz # abmu adfghlmopuz abcdeuv 3=[\d-]{3} bcmuz abcmnuz abcmu acdimnprtuz",
        "k": "ac-ln-suvz # abchmuz a-il-wz #a-il-wz",
        "m": r"cforuz # bchmnuz abcdefuz #abu #a-iuz abcdefguz kmnqsuz abcdefgnz abnuz deoruz acdimnprtuz"
        r" a-np-vz abcdnuz abcdefghklm cinu 6=[\d-]{6}",
        "o": "u",
        "q": "u",
        "r": "u # abcnuz abcnu 0-9nu abcdefghinuz abcmnuz abuz"
        " 2=aa/da/db/dc/dd/de/df/dv/dz/ga/gb/gc/gd/ge/gf/gg"
        "/gu/gz/ja/jb/jc/jv/jz/ma/mb/mm/nn/pa/pb/pc/pd/pe/pz/ra/rb/rc/rd/sa/ta/uu/zz",
        "s": "bdegiqrstuwz # a-fhik-pruz mqsuz mnsuz abcdefgjnosuz lmnopuz abcdefnuz abdimnrstuz"
        " abcgilmnprswuz hlnu abcdefghnuz abdeuz",
        "t": "abcduz",
        "v": "cdfruz # abcmnuz a-kmopqsuvz #abu #a-iuz amopqruz kmnqsuz",
        "z": "muz",
    }.items()
}
"""Positions of 007 by its first character, the category of material."""

DATES_PATTERN = re.compile(rb"[bcdeikmnpqrstu|](?:[\du ]{4}|[|]{4}){2}")
"""008/06-14: type of date, date 1 and date 2."""
ENTERED_PATTERN = re.compile(rb"\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
"""008/00-05: date entered on file."""
LAST_VALUES: Mapping[int, bytes] = {38: b" dorsx|", 39: b" cdu|"}
"""Values of the last positions of 008."""


def material_of(leader: str) -> str:
    """Return the kind of material: leader/06, or `s` for a continuing resource."""
    return "s" if leader[6] == "a" and leader[7] in "bis" else leader[6]


@dataclass(frozen=True)
class FieldDefinition:
    """Definition of a data field.

    Attributes:
        indicators: Values of the first and the second indicator; the first value of each is the default.
        subfields: All codes.
        unique_subfields: Codes that occur once at most.
    """

    is_repeatable: bool
    indicators: tuple[str, str]
    subfields: frozenset[str]
    unique_subfields: frozenset[str]


@cache
def field_definitions() -> Mapping[str, FieldDefinition]:
    """Load the definitions of data fields by tag."""
    return {
        row["tag"]: FieldDefinition(
            row["repeats"] == "R",
            (row["indicator1"].replace("#", " "), row["indicator2"].replace("#", " ")),
            frozenset(row["subfields"] + row["unique_subfields"]),
            frozenset(row["unique_subfields"]),
        )
        for row in _read_table("marc21_fields.tsv")
    }


@cache
def language_codes() -> frozenset[str]:
    """Load the MARC language codes."""
    return _codes("languages")


@cache
def country_codes() -> frozenset[str]:
    """Load the MARC country codes, without trailing blanks."""
    return _codes("countries")


def _codes(name: str) -> frozenset[str]:
    rows = {row["list"]: row["codes"] for row in _read_table("marc21_codes.tsv")}
    return frozenset(rows[name].split())


def _read_table(name: str) -> list[dict[str, str]]:
    with resources.files(__package__).joinpath(name).open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))
