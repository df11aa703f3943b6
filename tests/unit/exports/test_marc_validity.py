"""Exported records are valid MARC 21, whatever the vendor sent."""

import string
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pycountry
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.bibliotheca.marc import parse_marc_page
from accession.catalog.change_feed import FeedTitle
from accession.core.marc21 import Field, Marc21Record, control_field, data_field, parse_marc21
from accession.core.marc21_format import country_codes, field_definitions, language_codes
from accession.exports.marc_from_metadata import build_record
from accession.exports.marc_profile import Profile
from accession.exports.marc_records import build_export_record
from accession.exports.marc_validity import CorrectionReport, correct_record
from accession.sandbox.catalogue import Anomaly, Catalogue, Format, build_catalogue
from accession.sandbox.marc import marc_collection
from tests.fixtures.marc import feed_title, purchase_record
from tests.fixtures.marc_schema import (
    UNCHECKED_TAGS,
    find_violations,
    requires_marc_validators,
    run_validators,
)

LEADER = "01034nam a22002413a 4500"
VALID_008 = "210402s1961||||||||||||o|||||||||||pol|d"


def correct(*fields: Field, leader: str = LEADER, **title: Any) -> tuple[Marc21Record, Sequence[str]]:
    """Correct a record with these fields, and with a valid 008 and 245 unless they are given."""
    given_tags = {tag for tag, _ in fields}
    entered = [] if "008" in given_tags else [control_field("008", VALID_008)]
    name = [] if "245" in given_tags else [data_field("245", "10", ("a", "Solaris"))]
    complete = [*entered, *fields, *name]
    return correct_record(Marc21Record(leader, complete), feed_title("solaris", **title))


def corrected_field(field: Field, **title: Any) -> list[str]:
    """Return the fields with the tag of `field` in a corrected record that has it."""
    record, _ = correct(field, **title)
    return [content.decode().replace("\x1f", "$") for tag, content in record.fields if tag == field[0]]


@pytest.mark.parametrize(("medium", "kind"), [("book", "a"), ("audiobook", "i"), (None, "a")])
def test_undefined_leader_values_become_defaults(medium: str | None, kind: str) -> None:
    record, corrections = correct(leader="?????xyz#q2200???!!!4500", medium=medium)

    assert (record.leader[5:9], record.leader[17:20]) == (f"n{kind}m ", "3u ")
    assert corrections[:2] == ["leader/05 replaced", "leader/06 replaced"]


def test_control_fields_stand_before_data_fields() -> None:
    isbn, coded = data_field("020", "  ", ("a", "9788308049051")), ("006", b"m|||||o||d||||||||")

    record, corrections = correct(isbn, coded)

    assert [tag for tag, _ in record.fields] == ["008", "006", "020", "245"]
    assert corrections == ["control fields moved before data fields"]


def test_leader_of_exported_record_is_valid() -> None:
    marc = purchase_record("solaris").replace(b"nam a", b"xyz#q").replace(b"3a 4500", b"!!!4500")

    binary = build_export_record([feed_title("solaris", marc=marc)], Profile()).as_marc21()

    assert binary[5:12] + binary[17:24] == b"nam a223u 4500"


def test_valid_leader_is_kept_for_another_medium() -> None:
    record, corrections = correct(leader="00000pgs a2200000zna4500", medium="audiobook")

    assert (record.leader[5:9], record.leader[17:20]) == ("pgs ", "zna")
    assert [each for each in corrections if "leader" in each] == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (VALID_008, VALID_008),
        # Too short: positions cannot be trusted.
        (VALID_008[:-1], "240501s1961    xx |||||o|||||||| ||pol d"),
        ("", "240501s1961    xx |||||o|||||||| ||pol d"),
        # A date that is none, undefined type of date, country, literary form and language.
        (
            "991399x1961||||q? |||||o|||||||||?|xyz?d",
            "240501s1961    xx |||||o|||||||||||pol|d",
        ),
        # An e-book is online; the language is known from the metadata.
        ("210402s1961    nyu|||||||||||||||||und  ", "210402s1961    nyu|||||o|||||||||||pol  "),
        ("210402s1961    nyu|||| s|||||||||||eng  ", "210402s1961    nyu|||| s|||||||||||eng  "),
    ],
)
def test_field_008_has_40_valid_characters(value: str, expected: str) -> None:
    assert corrected_field(("008", value.encode())) == [expected]


def test_language_of_field_008_unknown_to_marc_is_und() -> None:
    value = VALID_008.replace("pol", "xyz").encode()

    assert corrected_field(("008", value), language="cmn")[0][35:38] == "und"


def test_missing_fields_are_built_from_the_metadata() -> None:
    entry = feed_title("solaris", medium="audiobook")
    record, corrections = correct_record(
        Marc21Record(
            "01034nim a22002413a 4500", [control_field("001", "x"), data_field("500", "  ", ("a", "y"))]
        ),
        entry,
    )

    assert [tag for tag, _ in record.fields] == ["001", "008", "245", "500"]
    assert record.fields[1][1] == b"240501s1961    xx nnnn|o|||||||| n pol d"
    assert b"Solaris" in record.fields[2][1]
    assert list(corrections) == [
        "008 built from the metadata: it was missing",
        "245 built from the metadata: it was missing",
    ]


@pytest.mark.parametrize(
    ("tag", "value", "expected"),
    [
        ("006", "m     o  d |      ", ["m     o  d |      "]),
        ("006", "m     o  d |", ["m     o  d |||||||"]),
        ("006", "m     x  ?  ", ["m     |  |  ||||||"]),
        ("006", "q     o  d |      ", []),
        ("007", "cr unu||||||||", ["cr unu||||||||"]),
        ("007", "cr unu", ["cr unu||||||||"]),
        ("007", "cx unu||||||||xx", ["c| unu||||||||"]),
        ("007", "tz", ["tz"]),
        ("007", "xr unu||||||||", []),
        ("002", "x", []),
        ("009", "local", ["local"]),
    ],
)
def test_control_field_has_its_length_and_values(tag: str, value: str, expected: list[str]) -> None:
    assert corrected_field((tag, value.encode())) == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (("245", b"1x\x1faSolaris"), ["10$aSolaris"]),
        (("650", b"##\x1faFiction\x1f2bisacsh"), [" 7$aFiction$2bisacsh"]),
        (("650", b"##\x1faFiction"), [" 4$aFiction"]),
        (("100", b"? \x1faLem"), ["1 $aLem"]),
        (("956", b"42\x1fuhttps://vendor.example"), ["42$uhttps://vendor.example"]),
        (("956", b"?2\x1fUhttps://vendor.example"), [" 2$uhttps://vendor.example"]),
        (("500", b"  \x1fAUnabridged"), ["  $aUnabridged"]),
        (("500", b"  \x1faUnabridged\x1fqx\x1f9local"), ["  $aUnabridged$9local"]),
        (("500", b"  \x1fa \x1faUnabridged\x1fa"), ["  $aUnabridged"]),
        (("500", b"  \x1f!Unabridged"), []),
        (("500", b"  "), []),
        (("500", b""), []),
        (("500", b"  text\x1faUnabridged"), ["  $aUnabridged"]),
        (("520", b"  \x1faOne\n\ttwo\xc2\x85three"), ["  $aOne  two three"]),
        (("245", b"10\x1faSolaris\x1fasecond"), ["10$aSolaris second"]),
        (("A1B", b"  \x1fax"), []),
        (("123", b"  \x1fax"), []),
    ],
)
def test_undefined_content_of_data_field_is_corrected(field: Field, expected: list[str]) -> None:
    assert corrected_field(field) == expected


def test_second_main_entry_becomes_an_added_entry() -> None:
    record, corrections = correct(
        data_field("100", "1 ", ("a", "Lem, Stanisław")), data_field("110", "2 ", ("a", "Cloud"))
    )

    assert [tag for tag, _ in record.fields] == ["008", "100", "710", "245"]
    assert list(corrections) == ["second main entry 110 written as 710"]


def test_second_of_a_unique_field_is_left_out() -> None:
    record, corrections = correct(
        control_field("008", VALID_008),
        control_field("008", VALID_008),
        data_field("245", "10", ("a", "Solaris")),
        data_field("245", "10", ("a", "Eden")),
    )

    assert [tag for tag, _ in record.fields] == ["008", "245"]
    assert list(corrections) == ["second field 008 removed", "second field 245 removed"]


def test_valid_record_is_not_changed() -> None:
    for purchase, entry in sandbox_titles(build_catalogue(99, SINCE, UNTIL, seed=1, unusable=0)):
        assert entry.marc is not None
        report = CorrectionReport()
        build_export_record([entry], Profile(), report=report)
        assert purchase.anomaly is None
        assert report.corrections() == []


def test_report_counts_corrections_and_names_titles() -> None:
    report = CorrectionReport()
    for number in range(7):
        report.add(f"id{number}", ["leader/17 replaced"] if number else [])

    [correction] = report.corrections()
    assert (report.corrected_records, correction.records) == (6, 6)
    assert correction.first_titles == ("id1", "id2", "id3", "id4", "id5")


def test_language_without_marc_code_names_its_source() -> None:
    record = build_record(feed_title("solaris", language="cmn"), "NyNyALD")

    assert ("041", b"07\x1facmn\x1f2iso639-3") in record.fields


def test_code_lists_have_all_languages_with_two_letters() -> None:
    with_two_letters = [each for each in pycountry.languages if hasattr(each, "alpha_2")]
    codes = {getattr(each, "bibliographic", each.alpha_3) for each in with_two_letters}

    # "sh" is Serbo-Croatian, which MARC has replaced by Bosnian, Croatian and Serbian.
    assert codes - language_codes() == {"hbs"}
    assert {"xx", "nyu", "enk", "gw", "fr"} <= country_codes()


SINCE, UNTIL = datetime(2014, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)


def sandbox_titles(catalogue: Catalogue) -> Iterator[tuple[Any, FeedTitle]]:
    """Yield each usable purchase of a catalogue with its title and record."""
    for purchase in catalogue.purchases:
        if purchase.flaw is not None:
            continue
        [record] = parse_marc_page(marc_collection([purchase], "alder", UNTIL).encode()).records
        audio = purchase.format is Format.AUDIO
        medium = "audiobook" if audio else "book"
        yield purchase, feed_title(purchase.item_id, marc=record.as_marc21(), medium=medium)


@requires_marc_validators
def test_validators_accept_the_whole_sandbox_catalogue(tmp_path: Path) -> None:
    catalogue = build_catalogue(500, SINCE, UNTIL)
    vendor, exported = tmp_path / "vendor.mrc", tmp_path / "exported.mrc"
    violations: set[str] = set()
    with vendor.open("wb") as before, exported.open("wb") as after:
        for _, entry in sandbox_titles(catalogue):
            record = build_export_record([entry], Profile(), availability=True)
            violations.update(find_violations(record))
            assert entry.marc is not None
            before.write(entry.marc)
            after.write(record.as_marc21())
            # Titles without a record of the vendor
            built = build_export_record(
                [feed_title(entry.title.identifier, medium=entry.title.medium)], Profile()
            )
            violations.update(find_violations(built))
            after.write(built.as_marc21())

    assert {purchase.anomaly for purchase in catalogue.purchases} == {None, *Anomaly}
    assert violations == set()
    assert run_validators(exported) == []
    # The validators see what the vendor sent.
    assert run_validators(vendor) != []


SANDBOX_RECORD = next(
    entry.marc for _, entry in sandbox_titles(build_catalogue(1, SINCE, UNTIL)) if entry.marc is not None
)
characters = st.sampled_from(string.ascii_letters + string.digits + " |#?!")
indicators = st.text(st.sampled_from("0123456789 #aX"), min_size=2, max_size=2)
subfields = st.lists(
    st.tuples(st.sampled_from(string.ascii_letters + string.digits + "!#"), st.text("ab \t\né", max_size=5)),
    max_size=4,
)
tags = st.one_of(
    st.sampled_from(sorted(set(field_definitions()) - UNCHECKED_TAGS)),
    st.from_regex(r"[0-9A-Z]{3}", fullmatch=True).filter(lambda tag: not tag.startswith("00")),
)
data_fields = st.builds(
    lambda tag, heading, parts: (
        tag,
        (heading + "".join(f"\x1f{code}{text}" for code, text in parts)).encode(),
    ),
    tags,
    indicators,
    subfields,
)
control_fields = st.builds(
    lambda tag, start, rest: (tag, f"{start}{rest}".encode()),
    st.sampled_from(["002", "006", "007", "008", "009"]),
    st.sampled_from("acdefghijkmopqrstvz?2"),
    st.one_of(
        *(st.text(characters, min_size=length, max_size=length) for length in (1, 13, 17, 39)),
        st.text(characters, max_size=45),
    ),
)


@requires_marc_validators
@given(
    leader=st.text(characters, min_size=24, max_size=24),
    fields=st.lists(st.one_of(control_fields, data_fields), max_size=8),
    medium=st.sampled_from(["book", "audiobook", None]),
)
def test_any_record_becomes_valid(leader: str, fields: list[Field], medium: str | None) -> None:
    entry = feed_title("solaris", medium=medium)
    record, _ = correct_record(Marc21Record(leader, [control_field("001", "x"), *fields]), entry)

    assert find_violations(record) == []
    assert list(correct_record(record, entry)[1]) == []


@requires_marc_validators
@given(
    field=st.integers(0, 30),
    position=st.integers(0, 40),
    length=st.integers(0, 3),
    text=st.text(st.sampled_from("\x1f\x1e\t\x85abX|#1 "), max_size=3),
)
def test_any_edit_of_a_valid_record_is_corrected(field: int, position: int, length: int, text: str) -> None:
    entry = feed_title("solaris")
    valid = parse_marc21(SANDBOX_RECORD)
    assert list(correct_record(valid, entry)[1]) == []
    fields = list(valid.fields)
    # An export replaces the first three: 001, 003 and 005.
    number = 3 + field % (len(fields) - 3)
    tag, content = fields[number]
    before = content.decode()
    fields[number] = (tag, f"{before[:position]}{text}{before[position + length :]}".encode())

    record, corrections = correct_record(Marc21Record(valid.leader, fields), entry)

    assert find_violations(record) == []
    if not corrections:
        assert find_violations(Marc21Record(record.leader, fields)) == []
