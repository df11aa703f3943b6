"""OAI-PMH 2.0: arguments of requests and their errors, in a catalogue that the tests only read."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lxml import etree
from sqlalchemy.orm import Session

from accession.db.engine import engine
from tests.fixtures.factories import make_collection, make_hourly_pools
from tests.fixtures.oai import OAI, REPOSITORY, error_of, identifier_of, list_ids, send_request, texts
from tests.fixtures.servers import delete_all_rows


@pytest.fixture(scope="module")
def catalogue(servers: object) -> None:
    """Three titles, modified at noon and one and two hours later."""
    delete_all_rows()
    with Session(engine()) as session:
        make_hourly_pools(session, make_collection(session, "Alder Library"))


@pytest.fixture
def reader(catalogue: None) -> Iterator[Session]:
    """A session that reads the catalogue."""
    with Session(engine()) as session:
        yield session


# Repository


def test_identify_describes_the_repository(reader: Session) -> None:
    identity = send_request(reader, verb="Identify").find(f"{OAI}Identify")
    assert identity is not None
    *elements, description = identity
    assert [etree.QName(each).localname for each in description] == ["oai-identifier"]
    assert {etree.QName(each).localname: each.text for each in elements} == {
        "repositoryName": "Accession",
        "baseURL": "http://127.0.0.1:8642/oai",
        "protocolVersion": "2.0",
        "adminEmail": "ann@alder.example",
        "earliestDatestamp": "2024-05-01T12:00:00Z",
        "deletedRecord": "persistent",
        "granularity": "YYYY-MM-DDThh:mm:ssZ",
        "compression": "gzip",
    }


def test_metadata_formats_are_listed(reader: Session) -> None:
    for_title = {"identifier": identifier_of(reader, "a")}
    for arguments in ({}, for_title):
        response = send_request(reader, verb="ListMetadataFormats", **arguments)
        assert texts(response, "ListMetadataFormats/metadataFormat/metadataPrefix") == ["oai_dc", "marc21"]
        assert texts(response, "ListMetadataFormats/metadataFormat/metadataNamespace") == [
            "http://www.openarchives.org/OAI/2.0/oai_dc/",
            "http://www.loc.gov/MARC21/slim",
        ]


# Selection by time


@pytest.mark.parametrize(
    ("arguments", "expected"),
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
def test_from_and_until_are_inclusive(
    reader: Session, arguments: dict[str, str], expected: list[str]
) -> None:
    assert list_ids(reader, **arguments) == expected


# Errors

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
def test_invalid_arguments_give_protocol_errors(
    reader: Session, arguments: list[tuple[str, str]], code: str
) -> None:
    known = identifier_of(reader, "a")
    arguments = [(name, value.replace(KNOWN, known)) for name, value in arguments]
    response = send_request(reader, *arguments)
    assert error_of(response) == code
    element = response.find(f"{OAI}request")
    assert element is not None
    assert element.text == REPOSITORY.base_url
    assert dict(element.attrib) == ({} if code in ("badVerb", "badArgument") else dict(arguments))


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
        ({"set": "subject"}, "noRecordsMatch"),
        ({"set": "collection:2"}, "noRecordsMatch"),
        ({"set": "collection:01"}, "noRecordsMatch"),
        ({"set": "collection:99999999999999999999"}, "noRecordsMatch"),
        ({"set": "collection:1:2"}, "noRecordsMatch"),
        ({"set": "format:mp3"}, "noRecordsMatch"),
        ({"set": "format:paper"}, "noRecordsMatch"),
    ],
)
def test_invalid_times_and_sets_give_protocol_errors(
    reader: Session, arguments: dict[str, str], code: str
) -> None:
    response = send_request(reader, verb="ListIdentifiers", metadataPrefix="oai_dc", **arguments)
    assert error_of(response) == code
    element = response.find(f"{OAI}request")
    assert element is not None
    assert bool(element.attrib) == (code == "noRecordsMatch")


# Any request

_VERBS = ["GetRecord", "Identify", "ListIdentifiers", "ListMetadataFormats", "ListRecords", "ListSets"]
_NAMES = ["verb", "identifier", "metadataPrefix", "from", "until", "set", "resumptionToken"]
_VALUES = st.one_of(
    st.sampled_from([*_VERBS, "oai_dc", "marc21", "collection", "format:epub", "2024-05-01", ""]),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?", fullmatch=True),
    st.from_regex(r"(collection|format)(:[a-z0-9]*)*", fullmatch=True),
    st.from_regex(r"oai:accession-[0-9a-f]+\.invalid:[0-9]+/.*", fullmatch=True),
    # Any text of a query string or form.
    st.text(st.characters(exclude_categories=["Cs"])),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    verb=st.sampled_from(_VERBS),
    arguments=st.lists(
        st.tuples(st.one_of(st.sampled_from(_NAMES), st.text(max_size=5)), _VALUES), max_size=4
    ),
)
# The response repeats the name of an unknown argument, and the token, which XML could not represent.
@example(verb="Identify", arguments=[("\x0b", "")])
@example(verb="ListSets", arguments=[("resumptionToken", "\x0b")])
def test_any_request_gets_a_valid_document(
    reader: Session, verb: str, arguments: list[tuple[str, str]]
) -> None:
    send_request(reader, ("verb", verb), *arguments)
    send_request(reader, *arguments)
