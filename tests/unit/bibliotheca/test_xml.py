"""XML is parsed strictly, repaired once, and distinguished from error documents and HTML."""

import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from accession.bibliotheca.errors import (
    BadResponseException,
    RemoteInitiatedServerError,
    RemoteIntegrationException,
    ResponseContext,
)
from accession.bibliotheca.xml import (
    is_blank,
    local_name,
    parse_document,
    parse_xml,
    repair,
    vendor_error_message,
)

DOCUMENTS = Path(__file__).parent / "documents"


def text_of(body: bytes) -> str:
    return "".join(parse_xml(body).root.itertext())


def test_well_formed_document_is_not_repaired() -> None:
    document = parse_document(b"<a>x &amp; y</a>", "a")

    assert document.root.text == "x & y"
    assert not document.repaired


def test_byte_order_mark_needs_no_repair() -> None:
    assert not parse_xml(b"\xef\xbb\xbf<?xml version='1.0'?><a/>").repaired


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"<a>&ldquo;so&rdquo; &ndash; &nbsp;&amp;&lt;</a>", "“so” – \N{NO-BREAK SPACE}&<"),
        (b"<a>&supl;</a>", "&supl;"),
        (b"<a>Simon & Schuster &co</a>", "Simon & Schuster &co"),
        (b"<a>b\x00e\x0bl\x1fl&#x7;&#0;&#xFFFF;</a>", "bell"),
        (b"<a>\xef\xbf\xbfend&#65;</a>", "endA"),
        (b" \n\xef\xbb\xbf <?xml version='1.0' encoding='UTF-8'?><a>late</a>", "late"),
        (b"<?xml version='1.0' encoding='ISO-8859-1'?><a>&ldquo;\xe9</a>", "“é"),
        (b"<a>&#99999999999; & x</a>", "&#99999999999; & x"),
    ],
)
def test_known_fault_is_repaired_without_losing_text(body: bytes, text: str) -> None:
    assert text_of(body) == text
    assert parse_xml(body).repaired


@pytest.mark.parametrize("attribute", ['xmlns="relative"', 'xml:space="wide"'])
@pytest.mark.parametrize("inner", ["<marc:record/>", '<record x:tag="1"/>'])
def test_undeclared_prefix_before_a_warning_is_rejected(inner: str, attribute: str) -> None:
    """lxml reports only libxml2's last message, so a warning after the error would hide it."""
    with pytest.raises(BadResponseException, match="prefix"):
        parse_xml(f"<collection>{inner}<last {attribute}/></collection>".encode())


def test_error_among_many_warnings_is_rejected() -> None:
    warnings = '<a xmlns="relative"/>' * 500

    with pytest.raises(BadResponseException, match="prefix"):
        parse_xml(f"<collection>{warnings}<marc:record/>{warnings}</collection>".encode())
    with pytest.raises(BadResponseException, match="not a valid URI"):
        parse_xml(f'<collection><record xmlns="http://["/>{warnings}</collection>'.encode())


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cn"]), max_size=60))
def test_repair_keeps_text_of_well_formed_document(text: str) -> None:
    root = etree.Element("a")
    root.text = text
    body = etree.tostring(root, encoding="UTF-8")

    assert (etree.fromstring(repair(body)).text or "") == text


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_parsed_or_rejected(body: bytes) -> None:
    try:
        text = local_name(parse_document(body, "a").root)
    except RemoteIntegrationException as error:
        text = error.excerpt
    assert len(text) <= 200


@pytest.mark.parametrize(
    "body",
    [
        b"The server has encountered an error",
        b"<a><b></a>",
        b"<a>",
        b"<a/><a/>",
        b"",
        b"\xff\xfe\x00",
        b"<?xml version='1.0' encoding='nonsense-8'?><a/>",
        b"<other/>",
        b"<html><body>Down</body></html>",
        "<a>not UTF-8: \xe9</a>".encode("latin-1"),
        (DOCUMENTS / "maintenance.html").read_bytes(),
    ],
)
def test_other_document_is_a_bad_response(body: bytes) -> None:
    with pytest.raises(BadResponseException):
        parse_document(body, "a")


@pytest.mark.parametrize("name", ["html", "HTML"])
def test_html_is_named_in_the_error(name: str) -> None:
    with pytest.raises(BadResponseException, match="HTML page"):
        parse_document(f"<{name}><body/></{name}>".encode(), "a")
    with pytest.raises(BadResponseException, match="HTML page"):
        parse_document(f"<{name}><br></{name}>".encode(), "a")


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE a><a/>",
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        b'<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:1/"> %p;]><a/>',
    ],
)
def test_document_type_declaration_is_rejected(body: bytes) -> None:
    with pytest.raises(BadResponseException):
        parse_document(body, "a")


def test_entity_bomb_is_rejected() -> None:
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY l0 "boom">{levels}]><a>&l11;</a>'.encode()

    with pytest.raises(BadResponseException, match="malformed or truncated XML"):
        parse_document(bomb, "a")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<Error><Code>Gen-001</Code><Message>Unknown error</Message></Error>", "Unknown error"),
        (b"<a><Error><Message>Unknown error</Message></Error></a>", "Unknown error"),
        (b'<e:Error xmlns:e="urn:x"><e:Message>Unknown error</e:Message></e:Error>', "Unknown error"),
        (b"<Error/>", "the vendor reported an error: no message"),
    ],
)
def test_error_document_raises_server_error(body: bytes, message: str) -> None:
    with pytest.raises(RemoteInitiatedServerError, match=message):
        parse_document(body, "a")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            b"<Error><Message>no secret here</Message></Error>",
            "the vendor reported an error: its message is omitted because it may contain patron data",
        ),
        (
            b"<a><Error/>secret</a>",
            "the vendor reported an error: its message is omitted because it may contain patron data",
        ),
        (b"<secret/>", "the vendor sent another document instead of 'a'"),
        (b"<html><secret/></html>", "the vendor sent an HTML page instead of 'a'"),
        (b"<html><secret></html>", "the vendor sent an HTML page"),
        (b"<a><secret></a>", "the vendor sent malformed or truncated XML"),
        (b"<?xml version='1.0' encoding='secret'?><a/>", "the vendor sent malformed or truncated XML"),
    ],
)
def test_error_about_personal_data_names_only_the_kind(body: bytes, problem: str) -> None:
    with pytest.raises(RemoteIntegrationException) as caught:
        parse_document(body, "a", ResponseContext("Main", contains_personal_data=True))

    error = caught.value
    assert (error.problem, error.excerpt, error.__cause__) == (problem, "", None)
    assert "secret" not in "".join(traceback.format_exception(error))


def test_error_quotes_the_parser_message() -> None:
    with pytest.raises(BadResponseException, match="tag mismatch: b") as caught:
        parse_document(b"<a><b></a>", "a")

    assert caught.value.excerpt == "<a><b></a>"
    assert isinstance(caught.value.__cause__, etree.XMLSyntaxError)


def test_vendor_error_message_is_extracted() -> None:
    assert (
        vendor_error_message((DOCUMENTS / "error_authentication_failed.xml").read_bytes())
        == "Authentication failed"
    )
    assert vendor_error_message((DOCUMENTS / "error_without_message.xml").read_bytes()) == ""
    assert vendor_error_message(b"<a/>") is None
    assert vendor_error_message(b"not xml") is None


@pytest.mark.parametrize("body", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_white_space_and_byte_order_mark_are_blank(body: bytes) -> None:
    assert is_blank(body)
    assert not is_blank(body + b"x")
