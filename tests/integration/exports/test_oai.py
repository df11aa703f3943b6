"""OAI-PMH 2.0: sets, records and lists of several pages; every response is validated."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from io import BytesIO
from typing import Any

import pymarc
import pytest
import time_machine
from lxml import etree
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.core.clock import utc_now
from accession.core.vocabulary import ContributorRole, Format, Medium
from accession.db.engine import engine
from accession.db.models import Collection, LicensePool
from accession.exports.oai.responses import respond
from tests.fixtures.factories import (
    NOON,
    apply_titles,
    make_collection,
    make_hourly_pools,
    make_pool,
    person,
    subject,
    title_data,
)
from tests.fixtures.oai import (
    DC,
    MARC,
    OAI,
    REPOSITORY,
    change,
    deletion_states,
    error_of,
    fill,
    identifier_of,
    identifiers,
    list_ids,
    send_request,
    texts,
    validate,
)

HOUR = timedelta(hours=1)


@pytest.fixture
def pools(session: Session, collection: Collection) -> list[LicensePool]:
    """Three titles, modified at noon and one and two hours later."""
    return make_hourly_pools(session, collection)


def record(session: Session, name: str, prefix: str) -> etree._Element:
    """Return the record of a title."""
    response = send_request(
        session, verb="GetRecord", identifier=identifier_of(session, name), metadataPrefix=prefix
    )
    element = response.find(f"{OAI}GetRecord/{OAI}record")
    assert element is not None
    return element


def token_of(root: etree._Element) -> str:
    """Return the resumption token of a page, empty on the last page."""
    (token,) = root.iterfind(f"*/{OAI}resumptionToken")
    return token.text or ""


def read_pages(session: Session, **arguments: str) -> Iterator[etree._Element]:
    """Yield the pages of a list, each requested when the previous one was consumed."""
    page = send_request(session, **arguments)
    while True:
        yield page
        session.rollback()
        token = page.find(f"*/{OAI}resumptionToken")
        if token is None or not token.text:
            return
        page = send_request(session, verb=arguments["verb"], resumptionToken=token.text)


# Repository


def test_empty_repository_has_no_records(session: Session) -> None:
    identity = send_request(session, verb="Identify")
    assert texts(identity, "Identify/earliestDatestamp") == texts(identity, "responseDate")
    assert error_of(send_request(session, verb="ListRecords", metadataPrefix="oai_dc")) == "noRecordsMatch"


def test_sets_are_collections_and_formats(session: Session, pools: list[LicensePool]) -> None:
    birch = make_collection(session, "Birch & Library")
    mark_for_deletion(birch)
    session.commit()
    response = send_request(session, verb="ListSets")
    names = dict(
        zip(texts(response, "ListSets/set/setSpec"), texts(response, "ListSets/set/setName"), strict=True)
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


# Selective harvesting


def test_set_selects_titles_of_collection_or_format(session: Session, pools: list[LicensePool]) -> None:
    birch = make_collection(session, "Birch Library")
    change(session, make_pool(session, birch, "d"), "d", format=Format.MP3)
    make_pool(session, birch, "no-metadata")
    session.commit()
    assert list_ids(session, set="collection:1") == ["a", "b", "c"]
    assert list_ids(session, set="collection:2") == ["d", "no-metadata"]
    assert list_ids(session, set="collection") == ["a", "b", "c", "d", "no-metadata"]
    assert list_ids(session, set="format:mp3") == ["d"]
    assert list_ids(session, set="format") == ["a", "b", "c", "d"]
    header = record(session, "d", "oai_dc").find(f"{OAI}header")
    assert header is not None
    assert texts(header, "setSpec") == ["collection:2", "format:mp3"]


def test_fraction_of_a_second_is_truncated(session: Session, collection: Collection) -> None:
    with time_machine.travel(NOON.replace(microsecond=700_000), tick=False):
        make_pool(session, collection, "a")
    assert list_ids(session, from_="2024-05-01T12:00:00Z", until="2024-05-01T12:00:00Z") == ["a"]
    assert record(session, "a", "oai_dc").findtext(f"{OAI}header/{OAI}datestamp") == "2024-05-01T12:00:00Z"


# Records


def test_dublin_core_has_every_field(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "solaris")
    change(
        session,
        pool,
        "solaris",
        title="Solaris",
        subtitle="powieść <& więcej>",
        contributors=(
            person("Lem, Stanisław"),
            person("Co, Author"),
            person("Reader, Rita", ContributorRole.NARRATOR),
            person("Itor, Ed", ContributorRole.EDITOR),
            person("Gaiman, Neil", ContributorRole.FOREWORD),
            person("Gaiman, Neil", ContributorRole.AFTERWORD),
            person("Lem, Stanisław", ContributorRole.ILLUSTRATOR),
        ),
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
        ("contributor", "Ed Itor"),
        ("contributor", "Rita Reader"),
        ("contributor", "Neil Gaiman"),
        ("date", "1961"),
        ("type", "Sound"),
        ("format", "audio/mpeg"),
        ("identifier", "urn:isbn:9788308068298"),
        ("identifier", "urn:isbn:9788308049051"),
        ("identifier", "solaris"),
        ("language", "pol"),
    ]


def test_title_without_metadata_has_its_identifier(session: Session, collection: Collection) -> None:
    make_pool(session, collection, "solaris")
    (dc,) = record(session, "solaris", "oai_dc").iterfind(f"{OAI}metadata/*")
    assert [(str(each.tag).removeprefix(DC), each.text) for each in dc] == [("identifier", "solaris")]
    assert record(session, "solaris", "marc21").find(f"{OAI}metadata/{MARC}record") is not None


def test_marc_is_the_vendor_record_for_export(session: Session, collection: Collection) -> None:
    fields = [
        ("001", "solaris"),
        ("008", "240501s1961    pl      o     000 1 pol d"),
        ("100", "1 ", "a", "Lem, Stanisław,", "e", "author."),
        ("245", "10", "a", "Solaris <&> /", "c", "Stanisław Lem."),
        ("650", " 7", "a", "FICTION / Science Fiction", "2", "bisacsh"),
        ("856", "40", "u", "https://ebook.example/solaris?a=1&b=2"),
    ]
    pool = make_pool(session, collection, "solaris")
    with time_machine.travel(NOON, tick=False):
        store_purchase_records(
            session, {PurchaseDate(NOON.date()): [PurchaseRecordData(pool, lambda: marc_of(fields), "hash")]}
        )
        apply_titles(session, {pool.id: title_data("solaris")})
    session.commit()
    assert read_fields(record(session, "solaris", "marc21")) == [
        fields[0],
        ("003", "MnSpTMCL"),
        ("005", "20240501120000.0"),
        *fields[1:-1],
        ("700", "1 ", "a", "Reader, Rita,", "e", "narrator.", "4", "nrt"),
        fields[-1],
    ]


def test_marc_is_built_from_metadata_without_vendor_record(session: Session, collection: Collection) -> None:
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
    """Return binary MARC 21 of fields given as tag and text, or tag, indicators, codes and values."""
    marc = pymarc.Record(leader="00000nam a2200000 i 4500", force_utf8=True)
    for tag, first, *rest in fields:
        subfields = [pymarc.Subfield(*pair) for pair in zip(rest[::2], rest[1::2], strict=True)]
        if subfields:
            marc.fields.append(pymarc.Field(tag, pymarc.Indicators(*first), subfields))
        else:
            marc.fields.append(pymarc.Field(tag, data=first))
    return bytes(marc.as_marc())


def read_fields(response: etree._Element) -> list[tuple[str, ...]]:
    """Return the fields of a record's MARCXML as pymarc reads them, in the form of `marc_of`."""
    (marc,) = response.iterfind(f"{OAI}metadata/*")
    parse: Any = pymarc.parse_xml_to_array
    (parsed,) = parse(BytesIO(etree.tostring(marc)))
    return [
        (field.tag, field.data)
        if field.control_field
        else (field.tag, "".join(field.indicators), *(part for pair in field.subfields for part in pair))
        for field in parsed.fields
    ]


def test_forbidden_xml_characters_are_removed(session: Session, collection: Collection) -> None:
    pool = make_pool(session, collection, "a")
    change(session, pool, "a", title="A\x01 t\x1bitle\ufffe", description="one\ttwo\nthree\x0c")
    (dc,) = record(session, "a", "oai_dc").iterfind(f"{OAI}metadata/*")
    assert (dc.findtext(f"{DC}title"), dc.findtext(f"{DC}description")) == ("A title", "one\ttwo\nthree")
    assert record(session, "a", "marc21").find(f"{OAI}metadata/{MARC}record") is not None


def test_withdrawn_titles_are_deleted_for_ever(session: Session, pools: list[LicensePool]) -> None:
    change(session, pools[1], "b", licenses_owned=0, licenses_available=0)
    assert deletion_states(
        send_request(session, verb="ListIdentifiers", metadataPrefix="oai_dc").iter(f"{OAI}header")
    ) == [
        False,
        True,
        False,
    ]
    withdrawn = record(session, "b", "marc21")
    assert deletion_states(withdrawn.iter(f"{OAI}header")) == [True]
    assert withdrawn.find(f"{OAI}metadata") is None
    alder = session.get(Collection, 1)
    assert alder is not None
    mark_for_deletion(alder)
    session.commit()
    everything = send_request(session, verb="ListRecords", metadataPrefix="marc21")
    assert deletion_states(everything.iter(f"{OAI}header")) == [True] * 3
    assert list_ids(session, from_=f"{utc_now():%Y-%m-%d}") == ["a", "b", "c"]


def test_identifiers_do_not_depend_on_the_address(session: Session, collection: Collection) -> None:
    name = "ä/b c?#%41<"
    make_pool(session, collection, name)
    arguments = [("verb", "ListIdentifiers"), ("metadataPrefix", "oai_dc")]
    elsewhere = type(REPOSITORY)("https://accession.example.org/oai", REPOSITORY.admin_email)
    (here,), (there,) = (
        texts(validate(respond(session, where, arguments)), "ListIdentifiers/header/identifier")
        for where in (REPOSITORY, elsewhere)
    )
    assert here == there
    assert here.endswith(":1/%C3%A4%2Fb%20c%3F%23%2541%3C")
    response = send_request(session, verb="GetRecord", identifier=here, metadataPrefix="oai_dc")
    (dc,) = response.iterfind(f"{OAI}GetRecord/{OAI}record/{OAI}metadata/*")
    assert dc.findtext(f"{DC}identifier") == name


# Lists of several pages


def test_long_list_has_pages_with_size_and_cursor(session: Session, collection: Collection) -> None:
    fill(session, collection, 250)
    pages = list(read_pages(session, verb="ListIdentifiers", metadataPrefix="oai_dc"))
    assert [name for page in pages for name in identifiers(page)] == [
        f"t{number}" for number in range(1, 251)
    ]
    tokens = [page.find(f"*/{OAI}resumptionToken") for page in pages]
    assert [dict(token.attrib) for token in tokens if token is not None] == [
        {"cursor": "0", "completeListSize": "250"},
        {"cursor": "100", "completeListSize": "250"},
        {"cursor": "200", "completeListSize": "250"},
    ]
    assert token_of(pages[-1]) == ""
    assert (
        send_request(session, verb="ListIdentifiers", metadataPrefix="oai_dc", set="format:pdf").find(
            f"*/{OAI}resumptionToken"
        )
        is None
    )


def test_list_of_one_page_has_no_token(session: Session, collection: Collection) -> None:
    fill(session, collection, 100)
    page = send_request(session, verb="ListIdentifiers", metadataPrefix="oai_dc")
    assert len(identifiers(page)) == 100
    assert page.find(f"*/{OAI}resumptionToken") is None


def test_resumed_list_keeps_its_arguments(session: Session, collection: Collection) -> None:
    fill(session, collection, 150)
    start = utc_now()
    for pool in session.query(LicensePool).where(LicensePool.id > 20):
        pool.updated_at = start
    session.commit()
    birch = make_collection(session, "Birch Library")
    make_pool(session, birch, "d")
    selection = {"set": "collection:1", "from": f"{start:%Y-%m-%d}", "until": "9999-12-31"}
    arguments = [*selection.items(), ("verb", "ListRecords"), ("metadataPrefix", "marc21")]
    first = validate(respond(session, REPOSITORY, arguments))
    second = send_request(session, verb="ListRecords", resumptionToken=token_of(first))
    named = [texts(page, "ListRecords/record/header/identifier") for page in (first, second)]
    assert [len(names) for names in named] == [100, 30]
    assert len({*named[0], *named[1]}) == 130
    assert len(list(second.iter(f"{MARC}record"))) == 30


def test_pages_have_the_response_date_of_the_first(session: Session, collection: Collection) -> None:
    fill(session, collection, 250)
    with Session(engine()) as writing:
        pool = writing.get(LicensePool, 7)
        assert pool is not None
        # A machine whose clock is slow.
        with time_machine.travel(utc_now() - timedelta(seconds=30), tick=False):
            apply_titles(writing, {pool.id: title_data("t7", as_of=utc_now())})
        pages = list(read_pages(session, verb="ListRecords", metadataPrefix="oai_dc"))
        changed = send_request(
            session, verb="ListRecords", metadataPrefix="oai_dc", from_=texts(pages[0], "responseDate")[0]
        )
        assert error_of(changed) == "noRecordsMatch"
        # Committed after the harvest with an earlier modification time.
        writing.commit()
    session.rollback()
    (response_date,) = {date for page in [*pages, changed] for date in texts(page, "responseDate")[:1]}
    assert list_ids(session, from_=response_date) == ["t7"]


def test_list_is_stable_while_titles_change(session: Session, collection: Collection) -> None:
    fill(session, collection, 250)
    remaining_pages = read_pages(session, verb="ListIdentifiers", metadataPrefix="oai_dc")
    response = [identifiers(next(remaining_pages))]
    for number in (50, 220):
        pool = session.get(LicensePool, number)
        assert pool is not None
        change(session, pool, f"t{number}", licenses_owned=0, licenses_available=0)
    make_pool(session, collection, "added")
    rest = list(remaining_pages)
    assert [*response[0], *identifiers(rest[0]), *identifiers(rest[1])] == [
        f"t{number}" for number in range(1, 251)
    ]
    assert deletion_states(rest[1].iter(f"{OAI}header")).index(True) == 19


def test_remaining_titles_may_leave_the_time_range(session: Session, collection: Collection) -> None:
    fill(session, collection, 101)
    yesterday = f"{utc_now() - timedelta(days=1):%Y-%m-%d}"
    page = send_request(session, verb="ListIdentifiers", metadataPrefix="oai_dc", until=yesterday)
    session.execute(text("UPDATE license_pools SET updated_at = now() WHERE id = 101"))
    session.commit()
    rest = send_request(session, verb="ListIdentifiers", resumptionToken=token_of(page))
    assert error_of(rest) == "badResumptionToken"
    # The next harvest therefore starts early enough.
    assert texts(rest, "responseDate") == texts(page, "responseDate")


def test_size_of_long_change_list_is_omitted(session: Session, collection: Collection) -> None:
    fill(session, collection, 5_000)
    page = send_request(session, verb="ListIdentifiers", metadataPrefix="oai_dc", from_="2014-01-01")
    (token,) = page.iterfind(f"*/{OAI}resumptionToken")
    assert dict(token.attrib) == {"cursor": "0"}
    complete = send_request(session, verb="ListIdentifiers", metadataPrefix="oai_dc")
    (token,) = complete.iterfind(f"*/{OAI}resumptionToken")
    assert token.get("completeListSize") == "5000"


def test_token_is_bound_to_its_verb_and_signature(session: Session, collection: Collection) -> None:
    fill(session, collection, 101)
    token = token_of(send_request(session, verb="ListIdentifiers", metadataPrefix="oai_dc"))
    for changed in (token[:-1], f"{token}x", token[1:], token.upper()):
        response = send_request(session, verb="ListIdentifiers", resumptionToken=changed)
        assert error_of(response) == "badResumptionToken"
    assert error_of(send_request(session, verb="ListRecords", resumptionToken=token)) == "badResumptionToken"
    assert identifiers(send_request(session, verb="ListIdentifiers", resumptionToken=token)) == ["t101"]
