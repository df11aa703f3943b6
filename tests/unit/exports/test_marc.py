"""MARC records of exports, read back by pymarc."""

import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pymarc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from pymarc import Field, Indicators, Record, Subfield

from accession.bibliotheca.contributors import parse_contributors
from accession.catalog.change_feed import FeedTitle, Headings
from accession.catalog.contributors import OtherContributor, group_by_field
from accession.core.errors import UserError
from accession.core.marc21 import MARC_NAMESPACE, parse_marc21
from accession.core.settings import get_settings
from accession.core.vocabulary import ContributorRole
from accession.exports.marc_from_metadata import build_record, complete_names
from accession.exports.marc_profile import LocalField, Profile, parse_profile, read_profile
from accession.exports.marc_records import build_export_record
from accession.exports.marc_validity import correct_record
from tests.fixtures.factories import NOON
from tests.fixtures.marc import feed_title, purchase_record

TEMPLATE = "https://ebook.example/library/alder-document_id-{identifier}"
DEFAULT_PROFILE = Profile()
PROFILES = Path(__file__).parents[3] / "docs" / "profiles"


def export(entry: FeedTitle, profile: Profile = DEFAULT_PROFILE, **options: Any) -> Record:
    """Build a record and read it back with pymarc."""
    return read_marc21(build_export_record([entry], profile, **options).as_marc21())


def read_marc21(binary: bytes) -> Record:
    record: Record | None
    [record] = pymarc.MARCReader(BytesIO(binary), permissive=False)
    assert record is not None
    return record


def lines(record: Record) -> list[str]:
    """Return the fields of a record without the leader, in the notation of pymarc."""
    return [str(field) for field in record.fields]


@pytest.mark.parametrize(("owned", "copies"), [(1, "1 copy"), (2, "2 copies")])
def test_title_on_order_has_its_date_in_availability(owned: int, copies: str) -> None:
    entry = feed_title("a", status="on order", on_sale="2999-03", licenses_owned=owned, licenses_available=0)
    field = export(entry, Profile(), availability=True)["852"]
    assert field.get_subfields("z") == [f"{copies} on order until 2999-03"]
    assert field.get_subfields("x")[:2] == [f"owned: {owned}", "available: 0"]


def test_vendor_record_is_completed_by_the_profile() -> None:
    profile = Profile(
        organization="NyNyALD",
        url_template=TEMPLATE,
        fields=(
            LocalField(tag="942", subfields=(("2", "z"), ("c", "{format}"))),
            LocalField(
                tag="949", indicators="1 ", subfields=(("a", "{isbn} {collection} {owned}/{available}"),)
            ),
        ),
    )
    entry = feed_title("a/b c", marc=purchase_record("a/b c"), isbns=("9788308068298", "9788308049051"))

    record = export(entry, profile, availability=True)

    assert str(record.leader)[5:10] == "nam a"
    assert lines(record) == [
        "=001  a/b\\c",
        "=003  NyNyALD",
        "=005  20240501120000.0",
        "=008  210402s1961||||||||||||o|||||||||||pol|d",
        "=020  \\\\$a9788308068298",
        "=100  1\\$aLem, Stanisław.$4aut",
        "=245  10$aSolaris$h[electronic resource] :$cLem, Stanisław.",
        "=856  42$3Cover Image$uhttps://images.example/1",
        "=852  \\\\$bAlder Library$xowned: 2$xavailable: 1$xreserved: 0$xholds: 0$z1 of 2 copies available",
        "=856  40$3cloudLibrary$uhttps://ebook.example/library/alder-document_id-a%2Fb%20c",
        "=942  \\\\$2z$cepub",
        "=949  1\\$a9788308068298 Alder Library 2/1",
    ]


def test_vendor_link_occurs_once_without_profile() -> None:
    record = export(feed_title("solaris", marc=purchase_record("solaris")), Profile())

    links = [field for field in record.get_fields("856") if field.indicators == Indicators("4", "0")]
    assert [str(link) for link in links] == ["=856  40$3cloudLibrary$uhttps://vendor.example/solaris$xlibry"]
    assert [str(field) for field in record.get_fields("003")] == ["=003  MnSpTMCL"]


@pytest.mark.parametrize("indicators", [b"  ", b"4 ", b"41", b"48", b"14"])
@pytest.mark.parametrize("profile", [Profile(), Profile(url_template=TEMPLATE)])
def test_vendor_link_with_other_indicators_is_replaced(indicators: bytes, profile: Profile) -> None:
    marc = purchase_record("solaris").replace(b"40\x1f", indicators + b"\x1f")
    assert indicators + b"\x1f3cloudLibrary" in marc

    links = export(feed_title("solaris", marc=marc), profile).get_fields("856")

    assert [(str(link)[6:8], link["3"]) for link in links] == [
        ("42", "Cover Image"),
        ("40", "cloudLibrary"),
    ]


@pytest.mark.parametrize("link", [(), (("9", "ALDER"), ("3", "E-book"))])
def test_title_without_a_vendor_link_gets_the_default(link: tuple[tuple[str, str], ...]) -> None:
    record = export(feed_title("a b"), Profile(link=link))

    (access,) = [field for field in record.get_fields("856") if field.indicators == Indicators("4", "0")]
    assert access["u"] == "https://ebook.yourcloudlibrary.com/library/alder-document_id-a%20b"
    assert access["3"] == ("E-book" if link else "cloudLibrary")


def test_other_braces_of_the_default_link_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "https://books.example/{identifier}?from={catalogue}"
    monkeypatch.setattr(get_settings(), "title_url_template", template)

    record = export(feed_title("a"), Profile())

    assert [link["u"] for link in record.get_fields("856") if link.indicators == Indicators("4", "0")] == [
        "https://books.example/a?from={catalogue}"
    ]


def test_links_to_accompanying_materials_are_kept() -> None:
    marc = purchase_record("solaris").replace(b"42\x1f3Cover Image\x1f", b"  \x1f3Cover Image\x1f")

    links = export(feed_title("solaris", marc=marc), Profile()).get_fields("856")

    assert [(str(link)[6:8], link["3"]) for link in links] == [
        ("\\\\", "Cover Image"),
        ("40", "cloudLibrary"),
    ]


def test_vendor_url_gets_subfields_of_the_profile() -> None:
    profile = Profile(link=(("9", "ALDER"), ("3", "E-book")))

    record = export(feed_title("solaris", marc=purchase_record("solaris")), profile)

    assert str(record.get_fields("856")[-1]) == "=856  40$3E-book$uhttps://vendor.example/solaris$9ALDER"


@pytest.mark.parametrize(
    ("is_removed", "since", "state"),
    [
        (False, None, "n"),
        (True, None, "d"),
        (False, NOON, "n"),
        (False, NOON + timedelta(seconds=1), "c"),
        (True, NOON + timedelta(seconds=1), "d"),
    ],
)
def test_record_status_is_new_changed_or_deleted(is_removed: bool, since: Any, state: str) -> None:
    entry = replace(feed_title("solaris", marc=purchase_record("solaris")), is_removed=is_removed)

    assert str(export(entry, Profile(), since=since).leader)[5] == state


def test_book_record_is_built_from_metadata() -> None:
    entry = feed_title(
        "solaris",
        title="The Star Diaries",
        subtitle="Further reminiscences",
        language="eng",
        page_count=320,
        description="Ijon Tichy\ntravels.",
        authors=("Stanisław Lem", "Joel Stern"),
        narrators=(),
        headings=Headings(
            (("author", "Lem, Stanisław"), ("author", "Stern, Joel")),
            (("BISAC", "FICTION / Science Fiction"), ("label", "Space")),
        ),
    )

    record = export(entry, Profile(url_template=TEMPLATE))

    assert (str(record.leader)[5:12], str(record.leader)[17:]) == ("nam a22", " i 4500")
    assert lines(record) == [
        "=001  solaris",
        "=003  MnSpTMCL",
        "=005  20240501120000.0",
        "=006  m\\\\\\\\\\o\\\\d\\\\\\\\\\\\\\\\",
        "=007  cr\\|||||||||||",
        "=008  240501s1961\\\\\\\\xx\\|||||o||||||||\\||eng\\d",
        "=020  \\\\$a9788308068298",
        "=037  \\\\$asolaris$bcloudLibrary",
        "=040  \\\\$aMnSpTMCL$beng$erda$cMnSpTMCL",
        "=041  0\\$aeng",
        "=100  1\\$aLem, Stanisław,$eauthor.$4aut",
        "=245  14$aThe Star Diaries :$bFurther reminiscences /$cby Stanisław Lem, Joel Stern.",
        "=264  \\1$a[Place of publication not identified] :$bWydawnictwo,$c1961.",
        "=300  \\\\$a1 online resource (320 pages)",
        "=336  \\\\$atext$btxt$2rdacontent",
        "=337  \\\\$acomputer$bc$2rdamedia",
        "=338  \\\\$aonline resource$bcr$2rdacarrier",
        "=347  \\\\$atext file$bEPUB$2rdaft",
        "=520  \\\\$aIjon Tichy travels.",
        "=650  \\7$aFICTION / Science Fiction.$2bisacsh",
        "=653  \\\\$aSpace",
        "=655  \\0$aElectronic books.",
        "=700  1\\$aStern, Joel,$eauthor.$4aut",
        "=710  2\\$acloudLibrary.",
        "=856  42$3Cover image$uhttps://images.example/1",
        "=856  40$3cloudLibrary$uhttps://ebook.example/library/alder-document_id-solaris",
    ]


def test_audiobook_record_has_duration_and_narrator() -> None:
    entry = feed_title(
        "solaris", medium="audiobook", format="mp3", duration_ms=(11 * 3600 + 5 * 60 + 9) * 1000, isbns=()
    )

    record = read_marc21(build_record(entry, "NyNyALD").as_marc21())

    assert str(record.leader)[6:8] == "im"
    assert [str(record[tag]) for tag in ("300", "306", "336", "347", "511", "655", "700")] == [
        "=300  \\\\$a1 online resource (1 audio file (11 hr., 5 min.))",
        "=306  \\\\$a110509",
        "=336  \\\\$aspoken word$bspw$2rdacontent",
        "=347  \\\\$aaudio file$bMP3$2rdaft",
        "=511  0\\$aRead by Rita Reader.",
        "=655  \\0$aAudiobooks.",
        "=700  0\\$aRita Reader,$enarrator.$4nrt",
    ]
    assert (len(str(record["006"].data)), len(str(record["008"].data))) == (18, 40)


def test_contributors_in_all_roles_have_name_fields() -> None:
    people = (
        ("editor", "Doe, Jane, 1946-"),
        ("author", "Tolkien, J. R. R. (John Ronald Reuel), 1892-1973"),
        ("author", "King, Martin Luther, Jr., 1929-1968"),
        ("author", "Penguin Random House, LLC"),
        ("writer of foreword", "Doe, Jane, 1946-"),
        ("illustrator", "Tolkien, J. R. R. (John Ronald Reuel), 1892-1973"),
        ("penciller", "Plato"),
    )
    entry = feed_title(
        "solaris",
        authors=("J. R. R. Tolkien", "Martin Luther King, Jr.", "Penguin Random House, LLC"),
        narrators=(),
        editors=("Jane Doe",),
        illustrators=("J. R. R. Tolkien",),
        other_contributors=(
            OtherContributor("Plato", "penciller"),
            OtherContributor("Jane Doe", "writer of foreword"),
        ),
        headings=Headings(people),
    )

    record = read_marc21(build_record(entry, "NyNyALD").as_marc21())

    assert [str(field) for field in record.get_fields("100", "110", "245", "700", "710")] == [
        "=100  1\\$aTolkien, J. R. R.$q(John Ronald Reuel),$d1892-1973,$eauthor,$eillustrator.$4aut$4ill",
        "=245  10$aSolaris /$cby J. R. R. Tolkien, Martin Luther King, Jr., Penguin Random House, LLC"
        " ; edited by Jane Doe ; illustrated by J. R. R. Tolkien ; penciller, Plato ; foreword by Jane Doe.",
        "=700  1\\$aDoe, Jane,$d1946-$eeditor,$ewriter of foreword.$4edt$4wfw",
        "=700  1\\$aKing, Martin Luther,$cJr.,$d1929-1968,$eauthor.$4aut",
        "=710  2\\$aPenguin Random House, LLC,$eauthor.$4aut",
        "=700  0\\$aPlato,$epenciller.$4pnc",
        "=710  2\\$acloudLibrary.",
    ]


def exported_names(*people: tuple[str, str]) -> list[str]:
    """Return the name fields of the vendor's record of a title with these contributors, as exported."""
    entry = feed_title("solaris", marc=purchase_record("solaris"), headings=Headings(people))
    record = read_marc21(build_export_record([entry], Profile()).as_marc21())
    return [str(field) for field in record.get_fields("100", "110", "700", "710")]


def test_contributors_that_vendor_record_lacks_are_added() -> None:
    names = exported_names(
        ("author", "Lem, Stanisław"),
        ("translator", "Johnston, Bill"),
        ("narrator", "Johnston, Bill"),
        ("editor", "Penguin Random House, LLC"),
    )
    assert names == [
        "=100  1\\$aLem, Stanisław.$4aut",
        "=700  1\\$aJohnston, Bill,$etranslator,$enarrator.$4trl$4nrt",
        "=710  2\\$aPenguin Random House, LLC,$eeditor.$4edt",
    ]


def test_role_that_vendor_record_lacks_is_added_to_name() -> None:
    names = exported_names(
        ("author", "Lem, Stanisław, 1921-2006"), ("illustrator", "Lem, Stanisław, 1921-2006")
    )
    assert names == ["=100  1\\$aLem, Stanisław.$4aut$eillustrator.$4ill"]


def test_role_that_vendor_record_states_as_term_is_not_repeated() -> None:
    fields = [("700", b"1 \x1faDoe, Jane,\x1feeditor.")]
    assert complete_names(fields, Headings((("editor", "Doe, Jane"),))) == fields


def test_name_without_words_is_added() -> None:
    assert exported_names(("editor", "???"))[1:] == ["=700  0\\$a???,$eeditor.$4edt"]


def test_similar_name_is_not_the_same() -> None:
    names = exported_names(("editor", "Lem, Stan"))
    assert names == ["=100  1\\$aLem, Stanisław.$4aut", "=700  1\\$aLem, Stan,$eeditor.$4edt"]


def test_organisation_as_first_author_is_the_main_entry() -> None:
    entry = feed_title("solaris", headings=Headings((("author", "Penguin Random House, LLC"),)))

    record = read_marc21(build_record(entry, "NyNyALD").as_marc21())

    assert str(record["110"]) == "=110  2\\$aPenguin Random House, LLC,$eauthor.$4aut"
    assert record.get_fields("100", "700") == []


def test_record_without_metadata_is_valid() -> None:
    unknown: dict[str, Any] = dict.fromkeys(
        ("title", "medium", "format", "language", "publisher", "published", "cover_url")
    )
    entry = feed_title("solaris", **unknown, authors=(), narrators=(), isbns=(), subjects=())

    record = read_marc21(build_record(entry, "NyNyALD").as_marc21())

    assert str(record["245"]) == "=245  00$a[Title not known]."
    assert str(record["008"]) == "=008  240501nuuuuuuuuxx\\|||||o||||||||\\||und\\d"


# All text that PostgreSQL can store.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


@given(title=texts, name=texts, description=st.one_of(texts, texts.map(lambda text: text * 400)), isbn=texts)
def test_any_metadata_gives_equal_marc21_and_marcxml(
    title: str, name: str, description: str, isbn: str
) -> None:
    entry = feed_title(
        "solaris",
        title=title,
        authors=(name, name),
        description=description,
        isbns=(isbn,),
        headings=Headings((("author", name),), (("label", description),)),
    )
    profile = Profile(fields=(LocalField(tag="949", subfields=(("a", "{isbn}"),)),))

    binary = build_export_record([entry], profile).as_marc21()
    from_binary = read_marc21(binary)
    xml = BytesIO(_collection(parse_marc21(binary).as_marcxml()))
    [from_xml] = pymarc.parse_xml_to_array(xml)  # type: ignore[no-untyped-call]

    assert from_xml is not None
    assert lines(from_xml) == lines(from_binary)
    assert len(binary) <= 99_999
    for field in from_binary.fields:
        assert "\x1e" not in str(field)
        assert "\x1f" not in str(field)


# Parts of the vendor's lists of contributors, in any order.
name_parts = st.sampled_from(
    ["Doe", "Jane", "Ltd.", "Jr.", "The", "Press", "1946-", "b. 1946", ", ", " ", "; ", "(", "(x)"]
    + [f"({role.value})" for role in ContributorRole]
)


@given(authors=st.lists(name_parts | texts, max_size=12), narrators=st.lists(name_parts, max_size=6))
def test_any_contributors_give_a_valid_record(authors: list[str], narrators: list[str]) -> None:
    people = [
        *parse_contributors("".join(authors), ContributorRole.AUTHOR),
        *parse_contributors("".join(narrators), ContributorRole.NARRATOR),
    ]
    fields: dict[str, Any] = group_by_field((each.role, each.display_name) for each in people)
    headings = Headings(tuple((each.role, each.sort_name) for each in people))
    entry = feed_title("solaris", **fields, headings=headings)

    _, corrections = correct_record(build_record(entry, "NyNyALD"), entry)

    assert corrections == ()


def test_fields_of_overlong_record_are_truncated() -> None:
    blank = Indicators(" ", " ")
    notes = [Field("520", blank, [Subfield("a", "ż" * (4_990 - number))]) for number in range(9)]
    short = Field("500", blank, [Subfield("a", "x" * 8_000)])
    record = Record(fields=[Field("001", data="solaris"), *notes, short], force_utf8=True)
    profile = Profile(fields=tuple(LocalField(tag="949", subfields=(("a", "y" * 12_000),)) for _ in range(2)))

    binary = build_export_record([feed_title("solaris", marc=record.as_marc21())], profile).as_marc21()

    exported = read_marc21(binary)
    assert len(binary) <= 99_999
    assert exported["001"].data == "solaris"
    # Eleven fields of almost 10,000 bytes and one of 8,000 do not fit; half of each does.
    assert {len(field.as_marc("utf-8")) for field in exported.get_fields("520", "949", "500")} == {
        4_999,
    }
    assert len(exported.get_fields("520", "949", "500")) == 12


def test_single_marcxml_record_declares_its_namespace() -> None:
    root = etree.fromstring(
        build_export_record([feed_title("solaris", title="A & <B>")], Profile()).as_marcxml()
    )

    assert root.tag == f"{{{MARC_NAMESPACE}}}record"
    assert root.findtext(f"{{{MARC_NAMESPACE}}}datafield[@tag='245']/*[@code='a']") == "A & <B> /"


@pytest.mark.skipif(
    shutil.which("yaz-marcdump") is None, reason="yaz-marcdump (Debian: yaz) is not installed"
)
def test_yaz_reads_marc21_and_marcxml(tmp_path: Path) -> None:
    record = build_export_record([feed_title("solaris", marc=purchase_record("solaris"))], Profile())
    for form, content in (("marc", record.as_marc21()), ("marcxml", record.as_marcxml())):
        file = tmp_path / form
        file.write_bytes(content)
        process = subprocess.run(
            ["yaz-marcdump", "-i", form, "-o", "line", file], capture_output=True, text=True, check=True
        )
        assert "Solaris" in process.stdout
        assert process.stderr == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fields = 3", "fields: Input should be a valid tuple"),
        ("[[fields]]\ntag = '008'\nsubfields = []", "fields.0.tag: String should match"),
        ("[[fields]]\ntag = '942'\nsubfields = [['cc', 'x']]", "fields.0.subfields.0.0: String should match"),
        ("[[fields]]\ntag = '942'\nsubfields = [['c', '{shelf}']]", "unknown placeholder {shelf}"),
        ("[[fields]]\ntag = '942'\nindicators = '123'\nsubfields = []", "fields.0.indicators"),
        ("url_template = 'https://ebook.example/'", "it must contain {identifier}"),
        ("url_template = 'ebook.example/{identifier}'", "it must be a web address"),
        ("colour = 'red'", "colour: Extra inputs are not permitted"),
        ("this is no TOML", "cannot be read"),
    ],
)
def test_invalid_profile_is_explained(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(text)

    with pytest.raises(UserError) as error:
        read_profile(path)

    assert reason in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_profile_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.toml cannot be read \(No such file or directory\)"):
        read_profile(tmp_path / "missing.toml")


@pytest.mark.parametrize("name", ["koha", "evergreen"])
def test_documented_profiles_are_valid(name: str) -> None:
    profile = read_profile(PROFILES / f"{name}.toml")

    record = export(feed_title("solaris", marc=purchase_record("solaris")), profile)

    local_tags = {"koha": ["942"], "evergreen": ["035", "901"]}[name]
    assert [field.tag for field in record.get_fields("035", "901", "942")] == local_tags
    link = record.get_fields("856")[-1]
    assert link["u"] == "https://ebook.yourcloudlibrary.com/library/alder-document_id-solaris"
    assert parse_profile({}, "profile") == Profile()


def _collection(record: bytes) -> bytes:
    return f'<collection xmlns="{MARC_NAMESPACE}">'.encode() + record + b"</collection>"
