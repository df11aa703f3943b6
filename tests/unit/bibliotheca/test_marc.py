"""Each record of a MARCXML page is stored with its valid parts, or has a fault with a reason."""

import hashlib
import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from pymarc import Field, Indicators, MARCReader, Record, Subfield

from accession.bibliotheca.errors import BadResponseException, RemoteInitiatedServerError
from accession.bibliotheca.marc import (
    ControlField,
    DataField,
    MarcRecord,
    marc_record_from_xml,
    parse_marc_page,
)
from accession.core.marc21 import MARC_NAMESPACE

DOCUMENTS = Path(__file__).parent / "documents"
NAMESPACE = 'xmlns="http://www.loc.gov/MARC21/slim"'
LEADER = "01034nam a22002413a 4500"


def document(name: str) -> bytes:
    return (DOCUMENTS / name).read_bytes()


def record_of(inner: str, leader: str = f"<leader>{LEADER}</leader>") -> MarcRecord:
    return marc_record_from_xml(f"<record {NAMESPACE}>{leader}{inner}</record>")


BROKEN = '<datafield ind1=" " ind2=" "/>'


def field(tag: str, text: str = "x", code: str = "a") -> str:
    if tag < "010":
        return f'<controlfield tag="{tag}">{text}</controlfield>'
    return f'<datafield tag="{tag}" ind1=" " ind2="0"><subfield code="{code}">{text}</subfield></datafield>'


def as_pymarc(record: MarcRecord) -> Record:
    assert record.fault is None
    assert record.content is not None
    return Record(fields=[to_pymarc(field) for field in record.content.fields], leader=record.content.leader)


def to_pymarc(field: ControlField | DataField) -> Field:
    if len(field) == 2:
        return Field(field[0], data=field[1])
    tag, first, second, *subfields = field
    return Field(tag, Indicators(first, second), [Subfield(code, value) for code, value in subfields])


def read_back(marc21: bytes) -> Record:
    record: Record | None
    (record,) = MARCReader(marc21)
    assert record is not None
    return record


def content(record: Record) -> list[tuple[str, object]]:
    return [
        (each.tag, each.data if each.control_field else (each.indicators, each.subfields))
        for each in record.fields
    ]


def test_page_returns_records_in_order() -> None:
    page = parse_marc_page(document("marc_page.xml"))

    assert [record.item_ids for record in page.records] == [("qx7k2m9",), ("b3tz8w",), ("ah51rr9",)]
    assert [as_pymarc(record)["245"]["a"] for record in page.records] == [
        "Middlemarch",
        "Der Zauberberg",
        "Ficciones",
    ]
    assert not page.repaired


def test_page_with_one_record_is_parsed() -> None:
    (record,) = parse_marc_page(document("marc_single_record.xml")).records

    assert record.fault is None
    assert record.item_ids == ("qx7k2m9",)
    assert b"Middlemarch" in record.as_marc21()


def test_text_and_indicators_are_preserved() -> None:
    record = as_pymarc(parse_marc_page(document("marc_page.xml")).records[0])

    assert record["520"]["a"] == "A study of provincial life -- “a magnificent book” -- in eight parts."
    assert [each.indicators for each in record.get_fields("856")] == [
        Indicators("4", "0"),
        Indicators("4", "2"),
    ]
    assert record.get_fields("856")[1]["u"].endswith("&documentID=qx7k2m9&token=nobody")
    assert [each.value() for each in record.get_fields("007")] == ["tz", "cr unu||||||||"]


def test_default_namespace_is_accepted() -> None:
    (record,) = parse_marc_page(document("marc_default_namespace.xml")).records

    assert record.item_ids == ("qx7k2m9",)


def test_byte_order_mark_is_accepted() -> None:
    assert len(parse_marc_page(b"\xef\xbb\xbf" + document("marc_page.xml")).records) == 3


def test_undefined_entities_and_controls_are_repaired() -> None:
    page = parse_marc_page(document("marc_undefined_entities.xml"))

    assert page.repaired
    assert as_pymarc(page.records[0])["520"]["a"] == (
        "A study of provincial\N{NO-BREAK SPACE}life &supl; Simon & Schuster  "
        "-- “a magnificent book” -- in eight parts."
    )
    assert page.records[1].item_ids == ("b3tz8w",)


def test_empty_collection_is_an_empty_page() -> None:
    assert parse_marc_page(document("marc_empty.xml")).records == ()


@pytest.mark.parametrize("name", ["marc_truncated.xml", "maintenance.html", "items_empty.xml"])
def test_other_document_is_never_an_empty_page(name: str) -> None:
    with pytest.raises(BadResponseException):
        parse_marc_page(document(name))


def test_collection_without_namespace_is_rejected() -> None:
    with pytest.raises(BadResponseException, match="not in the MARCXML namespace"):
        parse_marc_page(b"<collection><record/></collection>")


def test_truncated_page_is_rejected() -> None:
    page = document("marc_page.xml").rstrip()

    for end in range(1, len(page), 97):
        with pytest.raises(BadResponseException):
            parse_marc_page(page[:end])


@pytest.mark.parametrize(
    "name", ["marc_with_error.xml", "error_authentication_failed.xml", "error_unknown.xml"]
)
def test_error_document_raises_server_error(name: str) -> None:
    with pytest.raises(RemoteInitiatedServerError):
        parse_marc_page(document(name))


def test_invalid_record_stays_on_the_page() -> None:
    records = parse_marc_page(document("marc_unusable_records.xml")).records

    assert [record.item_ids for record in records] == [
        ("qx7k2m9",),
        (),
        ("b3tz8w", "b3tz8x"),
        ("nd4ff01",),
        (),
        ("ah51rr9",),
    ]
    assert [record.fault for record in records] == [None] * 6
    assert [record.warnings for record in records if record.warnings] == [
        ("A field has no tag: 'A field lost its tag.' was left out.",)
    ]
    assert b"A field lost its tag." not in records[3].as_marc21()
    assert "A field lost its tag." in records[3].raw_xml


def test_record_without_namespace_has_a_fault() -> None:
    page = parse_marc_page(
        f'<m:collection xmlns:m="http://www.loc.gov/MARC21/slim"><record>{field("001", "abc")}</record>'
        "</m:collection>".encode()
    )

    assert page.records[0].content is None
    assert "not a MARCXML record" in (page.records[0].fault or "")
    assert page.records[0].item_ids == ("abc",)


@pytest.mark.parametrize(
    ("inner", "warnings", "fields"),
    [
        (
            '<datafield ind1=" " ind2=" "><subfield code="a">x</subfield></datafield>',
            ["A field has no tag: 'x' was left out."],
            [],
        ),
        (
            '<controlfield tag="1">abc</controlfield>',
            ["'1' is not a valid field tag: 'abc' was left out."],
            [],
        ),
        (
            '<controlfield tag="٠٠١">abc</controlfield>',
            ["'٠٠١' is not a valid field tag: 'abc' was left out."],
            [],
        ),
        (
            '<controlfield tag="245">abc</controlfield>',
            ["A control field cannot have the tag 245: 'abc' was left out."],
            [],
        ),
        (
            '<datafield tag="001"><subfield code="a">abc</subfield></datafield>',
            ["A data field cannot have the tag 001: 'abc' was left out."],
            [],
        ),
        (
            '<datafield tag="245" ind1="12" ind2="é"><subfield code="a">x</subfield></datafield>',
            [
                "Field 245: '12' is not a valid indicator: it became a blank.",
                "Field 245: 'é' is not a valid indicator: it became a blank.",
            ],
            [("245", " ", " ", ("a", "x"))],
        ),
        (
            '<datafield tag="245"><subfield>x</subfield><subfield code="b">y</subfield></datafield>',
            ["Field 245: a subfield has no code: 'x' was left out."],
            [("245", " ", " ", ("b", "y"))],
        ),
        (
            '<datafield tag="245" ind1="12"><subfield code="ab">x</subfield></datafield>',
            [
                "Field 245: 'ab' is not a valid subfield code: 'x' was left out.",
                "Field 245 was left out: it has no valid subfield.",
            ],
            [],
        ),
    ],
)
def test_invalid_part_of_field_is_left_out_with_warning(
    inner: str, warnings: list[str], fields: list[DataField]
) -> None:
    record = record_of(field("001", "qx7k2m9") + inner + field("500"))

    assert record.fault is None
    assert record.warnings == tuple(warnings)
    assert record.item_ids == ("qx7k2m9",)
    assert record.content is not None
    assert record.content.fields == (("001", "qx7k2m9"), *fields, ("500", " ", "0", ("a", "x")))
    assert content(read_back(record.as_marc21())) == content(as_pymarc(record))


def test_record_without_valid_fields_has_a_fault() -> None:
    for inner in ("", '<datafield tag="1"/>', '<datafield tag="500"><subfield>x</subfield></datafield>'):
        record = record_of(inner)

        assert record.content is None
        assert record.fault == "the record has no valid fields"
        with pytest.raises(ValueError, match="cannot be converted to MARC 21"):
            record.as_marc21()


@pytest.mark.parametrize(
    ("ids", "stored_ids"),
    [
        (["abc", "abc"], ["abc"]),
        (["abc", " abc "], ["abc"]),
        (["", "abc", " "], ["abc"]),
        (["abc", "abd"], ["abc", "abd"]),
        (["abc", "abc", "abd"], ["abc", "abc", "abd"]),
        (["", " "], ["", " "]),
    ],
)
def test_repeated_or_blank_id_beside_usable_one_is_left_out(ids: list[str], stored_ids: list[str]) -> None:
    record = record_of("".join(field("001", each) for each in ids) + field("500"))

    assert record.content is not None
    assert [each[1] for each in record.content.fields if each[0] == "001"] == stored_ids
    assert len(record.warnings) == len(ids) - len(stored_ids)


@pytest.mark.parametrize(
    "inner",
    [
        '<datafield tag="{}"/>',
        '<datafield tag="245" ind1="{}"/>',
        '<datafield tag="245" ind2="{}"/>',
        '<datafield tag="245"><subfield code="{}"/></datafield>',
        '<datafield tag="245"><subfield>{}</subfield></datafield>',
        '<controlfield tag="{}"/>',
        '<controlfield tag="1">{}</controlfield>',
    ],
)
def test_warning_is_short_and_printable(inner: str) -> None:
    long_text = "\N{RIGHT-TO-LEFT OVERRIDE}\N{CONTROL SEQUENCE INTRODUCER}31m" + "x" * 20_000
    page = f"<collection {NAMESPACE}><record>{inner.format(long_text)}</record></collection>"

    warnings = parse_marc_page(page.encode()).records[-1].warnings

    assert warnings
    for warning in warnings:
        assert len(warning) < 200
        assert warning.isprintable()


def test_many_warnings_are_counted_and_not_listed() -> None:
    warnings = record_of(field("001", "abc") + BROKEN * 5_000).warnings

    assert len(warnings) == 20
    assert warnings[-1] == "There are 4,981 more such faults."


@pytest.mark.parametrize("raw_xml", ["", "<record>", "not xml", "<a/>"])
def test_stored_text_that_is_no_record_has_a_fault(raw_xml: str) -> None:
    record = marc_record_from_xml(raw_xml)

    assert record.fault
    assert (record.raw_xml, record.content, record.item_ids) == (raw_xml, None, ())


def test_unknown_elements_and_attributes_are_ignored() -> None:
    record = as_pymarc(
        record_of(
            f"<novelty>x</novelty><!-- comment --><?pi x?>{field('001', 'abc')}{field('9XZ', 'new')}"
            '<datafield tag="500" colour="red">stray<note/>'
            '<subfield code="a">a<i>b</i>c<!-- -->d</subfield></datafield>'
        )
    )

    assert [each.tag for each in record.fields] == ["001", "9XZ", "500"]
    assert record["500"]["a"] == "abcd"
    assert record["500"].indicators == Indicators(" ", " ")


@pytest.mark.parametrize(
    "leader", ["", "<leader/>", "<leader>short</leader>", f"<leader>{'é' * 24}</leader>"]
)
def test_invalid_leader_is_replaced(leader: str) -> None:
    record = record_of(field("001", "abc"), leader)

    assert as_pymarc(record)["001"].data == "abc"
    assert content(read_back(record.as_marc21())) == content(as_pymarc(record))


def test_record_is_parsed_again_from_stored_xml() -> None:
    for name in ("marc_page.xml", "marc_unusable_records.xml"):
        for record in parse_marc_page(document(name)).records:
            again = marc_record_from_xml(record.raw_xml)
            assert (again.raw_xml, again.fault, again.warnings, again.item_ids) == (
                record.raw_xml,
                record.fault,
                record.warnings,
                record.item_ids,
            )
            if record.content is not None:
                assert again.content_hash() == record.content_hash()


def test_hash_ignores_time_stamps_and_leader_lengths() -> None:
    page = document("marc_page.xml")
    later = (
        page.replace(b"20240501081500.0", b"20250102030405.0")
        .replace(b">240501s", b">250102s")
        .replace(b"01034nam a22002413a 4500", b"99999nam a22777773a 4500")
    )

    assert [record.content_hash() for record in parse_marc_page(later).records] == [
        record.content_hash() for record in parse_marc_page(page).records
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Middlemarch", b"Middlemarsh"),
        (b">240501s2011", b">240501s2012"),
        (b"01034nam", b"01034cam"),
        (b'tag="100" ind1="1"', b'tag="100" ind1="0"'),
        (b"qx7k2m9</marc:controlfield>", b"qx7k2m8</marc:controlfield>"),
    ],
)
def test_hash_covers_everything_else(old: bytes, new: bytes) -> None:
    page = document("marc_page.xml")

    assert (
        parse_marc_page(page).records[0].content_hash()
        != parse_marc_page(page.replace(old, new, 1)).records[0].content_hash()
    )


@pytest.mark.parametrize(
    ("name", "hashes"),
    [
        ("marc_page.xml", ["66bd7ab831112e3c", "f8603f68056afa35", "a37e2ffdf6636fe9"]),
        ("marc_undefined_entities.xml", ["3659b4acc7738ea9", "f8603f68056afa35"]),
        (
            "marc_unusable_records.xml",
            [
                "66bd7ab831112e3c",
                "c187ad7e8237ed55",
                "9cf1a19d0e55687c",
                "6527e8b8e8a9e09d",
                "74129ca56357daa4",
                "a37e2ffdf6636fe9",
            ],
        ),
    ],
)
def test_record_hash_is_stable_across_versions(name: str, hashes: list[str]) -> None:
    """With another hash an upgrade would write every record again."""
    assert [record.content_hash()[:16] for record in parse_marc_page(document(name)).records] == hashes


def test_hash_of_record_in_part_ignores_time_stamps() -> None:
    def broken(date: str, year: str = "2011", more: str = "") -> str:
        return record_of(
            field("001", "abc")
            + field("005", f"20{date}081500.0")
            + field("008", f"{date}s{year}")
            + field("245", "Middlemarch")
            + BROKEN
            + more
        ).content_hash()

    assert broken("240501") == broken("250102")
    assert broken("240501") != broken("240501", year="2012")
    assert broken("240501") != broken("240501", more=field("500"))
    assert broken("240501") != broken("240501", more=BROKEN)


def test_hash_of_record_in_part_ignores_xml_syntax() -> None:
    one = record_of(field("008", "") + '<datafield ind1="1" ind2="2"/>')
    two = record_of('<controlfield tag="008"/><!-- comment --><datafield  ind2="2" ind1="1"></datafield>')

    assert one.warnings == two.warnings == ("A field has no tag: '' was left out.",)
    assert one.content_hash() == two.content_hash()


def test_hash_supports_relative_namespaces() -> None:
    """Canonical XML 1.0 rejects relative namespaces."""
    hashes = {
        marc_record_from_xml(f'<record xmlns="{name}">{inner}</record>').content_hash()
        for name in ("relative", "#")
        for inner in ("", field("001", "abc"))
    }

    assert len(hashes) == 4


def test_hash_supports_text_that_is_not_xml() -> None:
    hashes = {marc_record_from_xml(raw_xml).content_hash() for raw_xml in ("", "<record>", "not xml", "é")}

    assert len(hashes) == 4


def test_binary_marc_reads_back_as_the_same_record() -> None:
    for record in parse_marc_page(document("marc_page.xml")).records:
        again = read_back(record.as_marc21())
        assert again.leader[9] == "a"
        assert content(again) == content(as_pymarc(record))


def test_overlong_subfield_is_truncated_between_characters() -> None:
    long = "€" * 5_000
    record = record_of(field("001", "abc") + field("520", long) + field("856", "after"))

    again = read_back(record.as_marc21())

    assert again["520"]["a"] == "€" * ((9_999 - 5) // 3)
    assert again["856"]["a"] == "after"
    assert as_pymarc(record)["520"]["a"] == long


def test_field_with_too_many_subfields_loses_the_last() -> None:
    empty = '<subfield code="a"/>'
    record = record_of(f'<datafield tag="520">{empty * 6_000}</datafield>')

    # The last one that fits is empty, as if its value had been cut off.
    assert len(read_back(record.as_marc21())["520"].subfields) == (9_999 - 3) // 2 - 1


def test_record_with_long_fields_is_truncated_to_fit() -> None:
    record = record_of(field("001", "abc") + field("520", "y" * 9_000) * 40 + field("856", "after"))

    marc21 = record.as_marc21()

    assert len(marc21) <= 99_999
    assert len(read_back(marc21).fields) == 42
    assert read_back(marc21)["856"]["a"] == "after"


def test_record_with_too_many_fields_loses_the_last() -> None:
    record = record_of(field("001", "abc") + field("500", "y") * 12_000)

    again = read_back(record.as_marc21())

    assert again["001"].data == "abc"
    assert 5_000 < len(again.fields) < 6_000


# All XML characters except controls, which include line ends.
characters = st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Cn"])
long_texts = st.builds(
    lambda text, times: text * times, st.text(characters, min_size=1, max_size=5), st.integers(1, 20_000)
)
texts = st.text(characters, max_size=40) | long_texts
control_fields = st.builds(
    lambda tag, data: Field(tag, data=data), st.sampled_from(["001", "003", "005", "008"]), texts
)
data_fields = st.builds(
    Field,
    st.sampled_from(["245", "520", "9XZ"]),
    st.builds(Indicators, st.sampled_from(" 07a"), st.sampled_from(" 07a")),
    st.lists(st.builds(Subfield, st.sampled_from("abx2"), texts), max_size=6),
)
records = st.lists(control_fields | data_fields, min_size=1, max_size=15).filter(
    lambda fields: sum(each.tag == "001" for each in fields) < 2
)


def written_as_xml(fields: list[Field]) -> str:
    record = etree.Element(f"{{{MARC_NAMESPACE}}}record")
    etree.SubElement(record, f"{{{MARC_NAMESPACE}}}leader").text = LEADER
    for each in fields:
        if each.control_field:
            element = etree.SubElement(record, f"{{{MARC_NAMESPACE}}}controlfield", tag=each.tag)
            element.text = each.data
            continue
        attributes = {"tag": each.tag, "ind1": each.indicator1, "ind2": each.indicator2}
        element = etree.SubElement(record, f"{{{MARC_NAMESPACE}}}datafield", attributes)
        for code, value in each.subfields:
            etree.SubElement(element, f"{{{MARC_NAMESPACE}}}subfield", code=code).text = value
    return etree.tostring(record, encoding="unicode")


@settings(deadline=None, max_examples=60)
@given(records)
def test_hash_covers_fields_and_leader(fields: list[Field]) -> None:
    hashed_fields = [
        [each.tag, (each.data or "")[6 if each.tag == "008" else 0 :]]
        if each.control_field
        else [each.tag, each.indicator1, each.indicator2, *each.subfields]
        for each in fields
        if each.tag != "005"
    ]
    text = json.dumps([LEADER[5:12] + LEADER[17:], hashed_fields], separators=(",", ":"))

    record = marc_record_from_xml(written_as_xml(fields))

    assert content(as_pymarc(record)) == content(Record(fields=fields))
    assert record.content_hash() == hashlib.sha256(text.encode()).hexdigest()


invalid_fields = st.sampled_from(
    [
        BROKEN,
        '<controlfield tag="0001">abd</controlfield>',
        '<controlfield tag="245">abd</controlfield>',
        '<datafield tag="001"><subfield code="a">abd</subfield></datafield>',
        '<datafield tag="500"><subfield>x</subfield></datafield>',
        '<datafield tag="500"><subfield code="é">x</subfield><subfield code="ab">y</subfield></datafield>',
    ]
)


@settings(deadline=None, max_examples=60)
@given(records, st.lists(invalid_fields, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_invalid_fields_anywhere_do_not_change_the_others(
    fields: list[Field], invalid: list[str], random: Random
) -> None:
    root = etree.fromstring(written_as_xml([Field("001", data="abc"), *fields[1:]]))
    for each in invalid:
        root.insert(random.randint(1, len(root)), etree.fromstring(f"<record {NAMESPACE}>{each}</record>")[0])

    record = marc_record_from_xml(etree.tostring(root, encoding="unicode"))

    expected = marc_record_from_xml(written_as_xml([Field("001", data="abc"), *fields[1:]]))
    assert (record.content, record.item_ids) == (expected.content, expected.item_ids)
    assert len(record.warnings) >= len(invalid)


@settings(deadline=None, max_examples=60)
@given(records)
def test_arbitrary_record_reads_back_with_text_prefixes(fields: list[Field]) -> None:
    marc21 = marc_record_from_xml(written_as_xml(fields)).as_marc21()
    again = read_back(marc21)

    assert len(marc21) == int(marc21[:5]) <= 99_999
    assert [each.tag for each in again.fields] == [each.tag for each in fields]
    for read, written in zip(again.fields, fields, strict=True):
        if len(written.as_marc("utf-8")) <= 9_999 and len(marc21) < 50_000:
            assert content(Record(fields=[read])) == content(Record(fields=[written]))
        else:
            assert written.as_marc("utf-8")[:-1].startswith(read.as_marc("utf-8")[:-1])
