"""OAI-PMH 2.0 as the protocol has it: every answer is held to its schema."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from io import BytesIO
from typing import Any

import pymarc
import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.apply import apply_titles
from accession.catalog.purchase_records import PurchaseDate, StoredRecord, store_purchase_records
from accession.core.clock import utc_now
from accession.core.vocabulary import Format, Medium, Role
from accession.db.engine import engine
from accession.db.models import Collection, LicensePool
from accession.exports.oai import respond
from tests.fixtures.factories import NOON, make_collection, make_pool, person, subject, title_data
from tests.fixtures.oai import (
    DC,
    MARC,
    OAI,
    REPOSITORY,
    ask,
    change,
    deleted,
    error_of,
    fill,
    identifiers,
    texts,
    valid,
)

HOUR = timedelta(hours=1)


@pytest.fixture
def pools(session: Session, collection: Collection) -> list[LicensePool]:
    """Three titles, described an hour after another, the first at noon."""
    pools = []
    for number, name in enumerate("abc"):
        with time_machine.travel(NOON + number * HOUR, tick=False):
            pools.append(make_pool(session, collection, name))
            apply_titles(session, {pools[-1].id: title_data(name)})
            session.commit()
    return pools


def identifier_of(session: Session, name: str) -> str:
    """The record's identifier of the title that has this id at the vendor."""
    listed = ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc")
    (found,) = [
        each for each in texts(listed, "ListIdentifiers/header/identifier") if each.endswith(f"/{name}")
    ]
    return found


def record(session: Session, name: str, prefix: str) -> etree._Element:
    """The one record of a title."""
    told = ask(session, verb="GetRecord", identifier=identifier_of(session, name), metadataPrefix=prefix)
    found = told.find(f"{OAI}GetRecord/{OAI}record")
    assert found is not None
    return found


def token_of(root: etree._Element) -> str:
    """The resumption token that a page ends with, empty after the last page."""
    (token,) = root.iterfind(f"*/{OAI}resumptionToken")
    return token.text or ""


def pages(session: Session, **arguments: str) -> Iterator[etree._Element]:
    """Every page of a list, each as it is when it is asked for."""
    page = ask(session, **arguments)
    while True:
        yield page
        session.rollback()
        token = page.find(f"*/{OAI}resumptionToken")
        if token is None or not token.text:
            return
        page = ask(session, verb=arguments["verb"], resumptionToken=token.text)


# What the repository is


def test_it_says_what_it_is(session: Session, pools: list[LicensePool]) -> None:
    identity = ask(session, verb="Identify").find(f"{OAI}Identify")
    assert identity is not None
    assert {etree.QName(each).localname: each.text for each in identity} == {
        "repositoryName": "Accession",
        "baseURL": "http://127.0.0.1:8642/oai",
        "protocolVersion": "2.0",
        "adminEmail": "ann@alder.example",
        "earliestDatestamp": "2024-05-01T12:00:00Z",
        "deletedRecord": "persistent",
        "granularity": "YYYY-MM-DDThh:mm:ssZ",
        "compression": "gzip",
    }


def test_without_a_title_it_says_so(session: Session) -> None:
    identity = ask(session, verb="Identify")
    assert texts(identity, "Identify/earliestDatestamp") == texts(identity, "responseDate")
    assert error_of(ask(session, verb="ListRecords", metadataPrefix="oai_dc")) == "noRecordsMatch"


def test_it_says_which_formats_there_are(session: Session, pools: list[LicensePool]) -> None:
    of_one = {"identifier": identifier_of(session, "a")}
    for arguments in ({}, of_one):
        listed = ask(session, verb="ListMetadataFormats", **arguments)
        assert texts(listed, "ListMetadataFormats/metadataFormat/metadataPrefix") == ["oai_dc", "marc21"]
        assert texts(listed, "ListMetadataFormats/metadataFormat/metadataNamespace") == [
            "http://www.openarchives.org/OAI/2.0/oai_dc/",
            "http://www.loc.gov/MARC21/slim",
        ]


def test_a_set_is_a_collection_or_a_format_also_of_a_collection_that_is_leaving(
    session: Session, pools: list[LicensePool]
) -> None:
    birch = make_collection(session, "Birch & Library")
    mark_for_deletion(birch)
    session.commit()
    listed = ask(session, verb="ListSets")
    names = dict(
        zip(texts(listed, "ListSets/set/setSpec"), texts(listed, "ListSets/set/setName"), strict=True)
    )
    assert names == {
        "collection": "Every collection",
        "collection:1": "Alder Library",
        "collection:2": "Birch & Library",
        "format": "Every format",
        "format:epub": "EPUB",
        "format:epub3": "EPUB3",
        "format:pdf": "PDF",
        "format:mp3": "MP3",
    }


# What is asked for


def listed(session: Session, **arguments: str) -> list[str]:
    return identifiers(ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc", **arguments))


def test_a_set_holds_the_titles_of_its_collection_or_its_format(
    session: Session, pools: list[LicensePool]
) -> None:
    birch = make_collection(session, "Birch Library")
    change(session, make_pool(session, birch, "d"), "d", format=Format.MP3)
    make_pool(session, birch, "not-described")
    session.commit()
    assert listed(session, set="collection:1") == ["a", "b", "c"]
    assert listed(session, set="collection:2") == ["d", "not-described"]
    assert listed(session, set="collection") == ["a", "b", "c", "d", "not-described"]
    assert listed(session, set="format:mp3") == ["d"]
    assert listed(session, set="format") == ["a", "b", "c", "d"]
    header = record(session, "d", "oai_dc").find(f"{OAI}header")
    assert header is not None
    assert texts(header, "setSpec") == ["collection:2", "format:mp3"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"from_": "2024-05-01T13:00:00Z"}, ["b", "c"]),
        ({"from_": "2024-05-01T13:00:01Z"}, ["c"]),
        ({"until": "2024-05-01T13:00:00Z"}, ["a", "b"]),
        ({"until": "2024-05-01T12:59:59Z"}, ["a"]),
        ({"from_": "2024-05-01T13:00:00Z", "until": "2024-05-01T13:00:00Z"}, ["b"]),
        ({"from_": "2024-05-01", "until": "2024-05-01"}, ["a", "b", "c"]),
        ({"from_": "0001-01-01", "until": "9999-12-31"}, ["a", "b", "c"]),
    ],
)
def test_from_and_until_count_both_by_the_second_or_the_day(
    session: Session, pools: list[LicensePool], asked: dict[str, str], found: list[str]
) -> None:
    assert listed(session, **asked) == found


def test_a_fraction_of_a_second_belongs_to_its_second(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON.replace(microsecond=700_000), tick=False):
        make_pool(session, collection, "a")
    assert listed(session, from_="2024-05-01T12:00:00Z", until="2024-05-01T12:00:00Z") == ["a"]
    assert record(session, "a", "oai_dc").findtext(f"{OAI}header/{OAI}datestamp") == "2024-05-01T12:00:00Z"


# What is told


def test_every_field_of_a_title_is_in_its_dublin_core(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "solaris")
    change(
        session,
        pool,
        "solaris",
        title="Solaris",
        subtitle="powieść <& więcej>",
        contributors=(person("Lem, Stanisław"), person("Co, Author"), person("Reader, Rita", Role.NARRATOR)),
        description="A planet that is an ocean.",
        isbns=("9788308068298", "9788308049051"),
        subjects=(subject("FICTION / Science Fiction"), subject("FICTION / Classics")),
        medium=Medium.AUDIOBOOK,
        format=Format.MP3,
    )
    (dc,) = record(session, "solaris", "oai_dc").iterfind(f"{OAI}metadata/*")
    assert [(str(each.tag).removeprefix(DC), each.text) for each in dc] == [
        ("title", "Solaris: powieść <& więcej>"),
        ("creator", "Stanisław Lem"),
        ("creator", "Author Co"),
        ("subject", "FICTION / Science Fiction"),
        ("subject", "FICTION / Classics"),
        ("description", "A planet that is an ocean."),
        ("publisher", "Wydawnictwo"),
        ("contributor", "Rita Reader"),
        ("date", "1961"),
        ("type", "Sound"),
        ("format", "audio/mpeg"),
        ("identifier", "urn:isbn:9788308068298"),
        ("identifier", "urn:isbn:9788308049051"),
        ("identifier", "solaris"),
        ("language", "pol"),
    ]


def test_a_title_that_is_not_described_yet_is_told_by_its_id(
    session: Session, collection: Collection
) -> None:
    make_pool(session, collection, "solaris")
    (dc,) = record(session, "solaris", "oai_dc").iterfind(f"{OAI}metadata/*")
    assert [(str(each.tag).removeprefix(DC), each.text) for each in dc] == [("identifier", "solaris")]
    assert record(session, "solaris", "marc21").find(f"{OAI}metadata/{MARC}record") is not None


def test_marc_is_the_vendors_own_record_made_loadable(session: Session, collection: Collection) -> None:
    fields = [
        ("001", "solaris"),
        ("008", "240501s1961    pl     o     000 1 pol d"),
        ("100", "1 ", "a", "Lem, Stanisław,", "e", "author."),
        ("245", "10", "a", "Solaris <&> /", "c", "Stanisław Lem."),
        ("650", " 7", "a", "FICTION / Science Fiction", "2", "bisacsh"),
        ("856", "40", "u", "https://ebook.example/solaris?a=1&b=2"),
    ]
    pool = make_pool(session, collection, "solaris")
    with time_machine.travel(NOON, tick=False):
        store_purchase_records(
            session, PurchaseDate(NOON.date()), [StoredRecord(pool, lambda: marc_of(fields), "hash")]
        )
        apply_titles(session, {pool.id: title_data("solaris")})
    session.commit()
    assert read_fields(record(session, "solaris", "marc21")) == [
        fields[0],
        ("003", "MnSpTMCL"),
        ("005", "20240501120000.0"),
        *fields[1:],
    ]


def test_of_a_title_without_one_marc_is_made_from_the_metadata(
    session: Session, collection: Collection
) -> None:
    change(session, make_pool(session, collection, "solaris"), "solaris", description="An ocean.")
    read = {field[0]: field[1:] for field in read_fields(record(session, "solaris", "marc21"))}
    assert read["001"] == ("solaris",)
    assert read["020"][2] == "9788308068298"
    assert read["100"][2].startswith("Lem, Stanisław")
    assert read["245"][2].startswith("Title solaris")
    assert "Wydawnictwo" in " ".join(read["264"])
    assert "1961" in " ".join(read["264"])
    assert read["520"][2] == "An ocean."
    assert "FICTION / Science Fiction" in " ".join(read["650"])
    assert read["700"][2].startswith("Reader, Rita")


def marc_of(fields: Sequence[tuple[str, ...]]) -> bytes:
    """Binary MARC: of each field its tag and text, or its indicators, codes and values."""
    made = pymarc.Record(leader="00000nam a2200000 i 4500", force_utf8=True)
    for tag, first, *rest in fields:
        subfields = [pymarc.Subfield(*pair) for pair in zip(rest[::2], rest[1::2], strict=True)]
        if subfields:
            made.fields.append(pymarc.Field(tag, pymarc.Indicators(*first), subfields))
        else:
            made.fields.append(pymarc.Field(tag, data=first))
    return bytes(made.as_marc())


def read_fields(told: etree._Element) -> list[tuple[str, ...]]:
    """The fields of a record's MARCXML, as `marc_of` takes them, as pymarc reads them."""
    (marc,) = told.iterfind(f"{OAI}metadata/*")
    parse: Any = pymarc.parse_xml_to_array
    (read,) = parse(BytesIO(etree.tostring(marc)))
    return [
        (field.tag, field.data)
        if field.control_field
        else (field.tag, "".join(field.indicators), *(part for pair in field.subfields for part in pair))
        for field in read.fields
    ]


def test_what_xml_cannot_hold_is_left_out(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "a")
    change(session, pool, "a", title="A\x01 t\x1bitle\ufffe", description="one\ttwo\nthree\x0c")
    (dc,) = record(session, "a", "oai_dc").iterfind(f"{OAI}metadata/*")
    assert (dc.findtext(f"{DC}title"), dc.findtext(f"{DC}description")) == ("A title", "one\ttwo\nthree")
    assert record(session, "a", "marc21").find(f"{OAI}metadata/{MARC}record") is not None


def test_what_a_collection_has_no_more_is_told_as_deleted_for_ever(
    session: Session, pools: list[LicensePool]
) -> None:
    change(session, pools[1], "b", licenses_owned=0, licenses_available=0)
    assert deleted(ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc").iter(f"{OAI}header")) == [
        False,
        True,
        False,
    ]
    gone = record(session, "b", "marc21")
    assert deleted(gone.iter(f"{OAI}header")) == [True]
    assert gone.find(f"{OAI}metadata") is None
    alder = session.get(Collection, 1)
    assert alder is not None
    mark_for_deletion(alder)
    session.commit()
    everything = ask(session, verb="ListRecords", metadataPrefix="marc21")
    assert deleted(everything.iter(f"{OAI}header")) == [True] * 3
    assert listed(session, from_=f"{utc_now():%Y-%m-%d}") == ["a", "b", "c"]


def test_identifiers_are_uris_and_the_same_at_every_address(session: Session, collection: Collection) -> None:
    name = "ä/b c?#%41<"
    make_pool(session, collection, name)
    asked = [("verb", "ListIdentifiers"), ("metadataPrefix", "oai_dc")]
    elsewhere = type(REPOSITORY)("https://accession.example.org/oai", REPOSITORY.admin_email)
    (here,), (there,) = (
        texts(valid(respond(session, where, asked)), "ListIdentifiers/header/identifier")
        for where in (REPOSITORY, elsewhere)
    )
    assert here == there
    assert here.endswith(":1/%C3%A4%2Fb%20c%3F%23%2541%3C")
    told = ask(session, verb="GetRecord", identifier=here, metadataPrefix="oai_dc")
    (dc,) = told.iterfind(f"{OAI}GetRecord/{OAI}record/{OAI}metadata/*")
    assert dc.findtext(f"{DC}identifier") == name


# Lists of many pages


def test_a_long_list_comes_in_pages_with_its_size_and_place(session: Session, collection: Collection) -> None:
    fill(session, collection, 250)
    found = list(pages(session, verb="ListIdentifiers", metadataPrefix="oai_dc"))
    assert [name for page in found for name in identifiers(page)] == [
        f"t{number}" for number in range(1, 251)
    ]
    tokens = [page.find(f"*/{OAI}resumptionToken") for page in found]
    assert [dict(token.attrib) for token in tokens if token is not None] == [
        {"cursor": "0", "completeListSize": "250"},
        {"cursor": "100", "completeListSize": "250"},
        {"cursor": "200", "completeListSize": "250"},
    ]
    assert token_of(found[-1]) == ""
    assert (
        ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc", set="format:pdf").find(
            f"*/{OAI}resumptionToken"
        )
        is None
    )


def test_a_list_that_fits_its_page_has_no_token(session: Session, collection: Collection) -> None:
    fill(session, collection, 100)
    page = ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc")
    assert len(identifiers(page)) == 100
    assert page.find(f"*/{OAI}resumptionToken") is None


def test_a_list_goes_on_with_what_was_asked_for(session: Session, collection: Collection) -> None:
    fill(session, collection, 150)
    begun = utc_now()
    for pool in session.query(LicensePool).where(LicensePool.id > 20):
        pool.updated_at = begun
    session.commit()
    birch = make_collection(session, "Birch Library")
    make_pool(session, birch, "d")
    arguments = {"set": "collection:1", "from": f"{begun:%Y-%m-%d}", "until": "9999-12-31"}
    asked = [*arguments.items(), ("verb", "ListRecords"), ("metadataPrefix", "marc21")]
    first = valid(respond(session, REPOSITORY, asked))
    second = ask(session, verb="ListRecords", resumptionToken=token_of(first))
    named = [texts(page, "ListRecords/record/header/identifier") for page in (first, second)]
    assert [len(names) for names in named] == [100, 30]
    assert len({*named[0], *named[1]}) == 130
    assert len(list(second.iter(f"{MARC}record"))) == 30


def test_every_page_is_dated_of_the_lists_beginning_and_no_later_than_all_was_told(
    session: Session, collection: Collection
) -> None:
    fill(session, collection, 250)
    with Session(engine()) as writing:
        pool = writing.get(LicensePool, 7)
        assert pool is not None
        # By a clock that is late.
        with time_machine.travel(utc_now() - timedelta(seconds=30), tick=False):
            apply_titles(writing, {pool.id: title_data("t7", as_of=utc_now())})
        found = list(pages(session, verb="ListRecords", metadataPrefix="oai_dc"))
        changed = ask(
            session, verb="ListRecords", metadataPrefix="oai_dc", from_=texts(found[0], "responseDate")[0]
        )
        assert error_of(changed) == "noRecordsMatch"
        # Committed after the harvest, under a moment before it.
        writing.commit()
    session.rollback()
    (begun,) = {date for page in [*found, changed] for date in texts(page, "responseDate")[:1]}
    assert listed(session, from_=begun) == ["t7"]


def test_a_list_ends_though_titles_are_added_and_loses_none_that_is_changed(
    session: Session, collection: Collection
) -> None:
    fill(session, collection, 250)
    going = pages(session, verb="ListIdentifiers", metadataPrefix="oai_dc")
    told = [identifiers(next(going))]
    for number in (50, 220):
        pool = session.get(LicensePool, number)
        assert pool is not None
        change(session, pool, f"t{number}", licenses_owned=0, licenses_available=0)
    make_pool(session, collection, "added")
    rest = list(going)
    assert [*told[0], *identifiers(rest[0]), *identifiers(rest[1])] == [
        f"t{number}" for number in range(1, 251)
    ]
    assert deleted(rest[1].iter(f"{OAI}header")).index(True) == 19


def test_what_is_left_of_a_list_may_have_moved_on_out_of_its_time(
    session: Session, collection: Collection
) -> None:
    fill(session, collection, 101)
    yesterday = f"{utc_now() - timedelta(days=1):%Y-%m-%d}"
    page = ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc", until=yesterday)
    session.execute(text("UPDATE license_pools SET updated_at = now() WHERE id = 101"))
    session.commit()
    rest = ask(session, verb="ListIdentifiers", resumptionToken=token_of(page))
    assert error_of(rest) == "noRecordsMatch"
    # So the next harvest begins early enough, though this was the last answer.
    assert texts(rest, "responseDate") == texts(page, "responseDate")


def test_a_list_too_long_to_be_counted_in_time_does_not_say_how_long_it_is(
    session: Session, collection: Collection
) -> None:
    fill(session, collection, 5_000)
    page = ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc", from_="2014-01-01")
    (token,) = page.iterfind(f"*/{OAI}resumptionToken")
    assert dict(token.attrib) == {"cursor": "0"}
    whole = ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc")
    (token,) = whole.iterfind(f"*/{OAI}resumptionToken")
    assert token.get("completeListSize") == "5000"


# What the protocol does not allow


KNOWN = "the identifier of a record"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "badVerb"),
        ([("verb", "")], "badVerb"),
        ([("verb", "identify")], "badVerb"),
        ([("verb", "GetMetadata")], "badVerb"),
        ([("verb", "Identify"), ("verb", "Identify")], "badVerb"),
        ([("verb", "Identify"), ("metadataPrefix", "oai_dc")], "badArgument"),
        ([("verb", "Identify"), ("x", "\0")], "badArgument"),
        ([("verb", "ListSets"), ("set", "format")], "badArgument"),
        ([("verb", "ListSets"), ("resumptionToken", "x")], "badResumptionToken"),
        ([("verb", "ListMetadataFormats"), ("identifier", "oai:x:1/a")], "idDoesNotExist"),
        ([("verb", "ListMetadataFormats"), ("identifier", "no uri")], "badArgument"),
        ([("verb", "ListRecords")], "badArgument"),
        ([("verb", "ListRecords"), ("metadataPrefix", "mods")], "cannotDisseminateFormat"),
        ([("verb", "ListRecords"), ("metadataPrefix", "oai dc")], "badArgument"),
        ([("verb", "ListRecords"), ("metadataPrefix", "oai_dc"), ("identifier", "oai:x:1/a")], "badArgument"),
        (
            [("verb", "ListRecords"), ("metadataPrefix", "oai_dc"), ("metadataPrefix", "marc21")],
            "badArgument",
        ),
        ([("verb", "ListRecords"), ("resumptionToken", "x"), ("metadataPrefix", "oai_dc")], "badArgument"),
        ([("verb", "ListRecords"), ("resumptionToken", "x")], "badResumptionToken"),
        ([("verb", "ListRecords"), ("resumptionToken", "")], "badResumptionToken"),
        ([("verb", "GetRecord"), ("identifier", "oai:x:1/a")], "badArgument"),
        ([("verb", "GetRecord"), ("metadataPrefix", "oai_dc")], "badArgument"),
        (
            [("verb", "GetRecord"), ("metadataPrefix", "oai_dc"), ("identifier", "oai:x:1/a")],
            "idDoesNotExist",
        ),
        (
            [("verb", "GetRecord"), ("metadataPrefix", "oai_dc"), ("identifier", f"{KNOWN}x")],
            "idDoesNotExist",
        ),
        (
            [("verb", "GetRecord"), ("metadataPrefix", "oai_dc"), ("identifier", f"{KNOWN}%00")],
            "idDoesNotExist",
        ),
        (
            [("verb", "GetRecord"), ("metadataPrefix", "mods"), ("identifier", KNOWN)],
            "cannotDisseminateFormat",
        ),
    ],
)
def test_an_error_is_the_protocols(
    session: Session, pools: list[LicensePool], arguments: list[tuple[str, str]], code: str
) -> None:
    known = identifier_of(session, "a")
    asked = [(name, value.replace(KNOWN, known)) for name, value in arguments]
    answer = ask(session, *asked)
    assert error_of(answer) == code
    request = answer.find(f"{OAI}request")
    assert request is not None
    assert request.text == REPOSITORY.base_url
    assert dict(request.attrib) == ({} if code in ("badVerb", "badArgument") else dict(asked))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"from_": "2024-05-01T12:00Z"}, "badArgument"),
        ({"from_": "2024-05-01T12:00:00"}, "badArgument"),
        ({"from_": "2024-05-01T12:00:00.5Z"}, "badArgument"),
        ({"from_": "2024-05"}, "badArgument"),
        ({"from_": "2024-02-30"}, "badArgument"),
        ({"from_": "0000-01-01"}, "badArgument"),
        ({"from_": "2024-05-01T24:00:01Z"}, "badArgument"),
        ({"from_": ""}, "badArgument"),
        ({"until": "٢٠٢٤-05-01"}, "badArgument"),
        ({"from_": "2024-05-01", "until": "2024-05-01T12:00:00Z"}, "badArgument"),
        ({"from_": "2024-05-02", "until": "2024-05-01"}, "badArgument"),
        ({"from_": "2100-01-01"}, "noRecordsMatch"),
        ({"until": "2000-01-01"}, "noRecordsMatch"),
        ({"set": ""}, "badArgument"),
        ({"set": "a:"}, "badArgument"),
        ({"set": "a b"}, "badArgument"),
        ({"set": "place"}, "noRecordsMatch"),
        ({"set": "collection:2"}, "noRecordsMatch"),
        ({"set": "collection:01"}, "noRecordsMatch"),
        ({"set": "collection:99999999999999999999"}, "noRecordsMatch"),
        ({"set": "collection:1:2"}, "noRecordsMatch"),
        ({"set": "format:mp3"}, "noRecordsMatch"),
        ({"set": "format:paper"}, "noRecordsMatch"),
    ],
)
def test_so_it_is_with_times_and_sets(
    session: Session, pools: list[LicensePool], arguments: dict[str, str], code: str
) -> None:
    answer = ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc", **arguments)
    assert error_of(answer) == code
    request = answer.find(f"{OAI}request")
    assert request is not None
    assert bool(request.attrib) == (code == "noRecordsMatch")


def test_a_token_is_used_as_it_came_and_with_its_verb(session: Session, collection: Collection) -> None:
    fill(session, collection, 101)
    token = token_of(ask(session, verb="ListIdentifiers", metadataPrefix="oai_dc"))
    for changed in (token[:-1], f"{token}x", token[1:], token.upper()):
        answer = ask(session, verb="ListIdentifiers", resumptionToken=changed)
        assert error_of(answer) == "badResumptionToken"
    assert error_of(ask(session, verb="ListRecords", resumptionToken=token)) == "badResumptionToken"
    assert identifiers(ask(session, verb="ListIdentifiers", resumptionToken=token)) == ["t101"]


_VERBS = ["GetRecord", "Identify", "ListIdentifiers", "ListMetadataFormats", "ListRecords", "ListSets"]
_NAMES = ["verb", "identifier", "metadataPrefix", "from", "until", "set", "resumptionToken"]
_VALUES = st.one_of(
    st.sampled_from([*_VERBS, "oai_dc", "marc21", "collection", "format:epub", "2024-05-01", ""]),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?", fullmatch=True),
    st.from_regex(r"(collection|format)(:[a-z0-9]*)*", fullmatch=True),
    st.from_regex(r"oai:accession-[0-9a-f]+:[0-9]+/.*", fullmatch=True),
    # What a query string or a form can say.
    st.text(st.characters(exclude_categories=["Cs"])),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    verb=st.sampled_from(_VERBS),
    arguments=st.lists(
        st.tuples(st.one_of(st.sampled_from(_NAMES), st.text(max_size=5)), _VALUES), max_size=4
    ),
)
def test_whatever_is_asked_a_valid_document_answers(
    session: Session, pools: list[LicensePool], verb: str, arguments: list[tuple[str, str]]
) -> None:
    ask(session, ("verb", verb), *arguments)
    ask(session, *arguments)
