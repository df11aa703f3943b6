"""Documents are read strictly, repaired once, and told from errors and web pages."""

import time
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
from accession.bibliotheca.xml import is_blank, local_name, parse, read, repair, reported_error

DOCUMENTS = Path(__file__).parent / "documents"


def text_of(body: bytes) -> str:
    return "".join(parse(body).root.itertext())


def test_a_sound_document_is_taken_as_it_stands() -> None:
    document = read(b"<a>x &amp; y</a>", "a")

    assert document.root.text == "x & y"
    assert not document.repaired


def test_a_byte_order_mark_alone_needs_no_repair() -> None:
    assert not parse(b"\xef\xbb\xbf<?xml version='1.0'?><a/>").repaired


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
def test_known_faults_are_repaired_and_nothing_readable_is_lost(body: bytes, text: str) -> None:
    assert text_of(body) == text
    assert parse(body).repaired


@pytest.mark.parametrize("warned_of", ['xmlns="relative"', 'xml:space="wide"'])
@pytest.mark.parametrize("inner", ["<marc:record/>", '<record x:tag="1"/>'])
def test_a_prefix_that_nobody_declared_is_no_document_whatever_else_is_odd(
    inner: str, warned_of: str
) -> None:
    """libxml2's last complaint decides, and a warning after the error would let it pass: what stands under
    another name than its own would then be overlooked."""
    with pytest.raises(BadResponseException, match="prefix"):
        parse(f"<collection>{inner}<last {warned_of}/></collection>".encode())


def test_an_error_is_one_among_any_number_of_warnings() -> None:
    warnings = '<a xmlns="relative"/>' * 500

    with pytest.raises(BadResponseException, match="prefix"):
        parse(f"<collection>{warnings}<marc:record/>{warnings}</collection>".encode())
    with pytest.raises(BadResponseException, match="not a valid URI"):
        parse(f'<collection><record xmlns="http://["/>{warnings}</collection>'.encode())


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cn"]), max_size=60))
def test_the_repair_leaves_a_sound_document_saying_the_same(text: str) -> None:
    root = etree.Element("a")
    root.text = text
    body = etree.tostring(root, encoding="UTF-8")

    assert (etree.fromstring(repair(body)).text or "") == text


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_whatever_the_vendor_sends_ends_in_a_document_or_in_its_own_errors(body: bytes) -> None:
    try:
        said = local_name(read(body, "a").root)
    except RemoteIntegrationException as error:
        said = error.excerpt
    assert len(said) <= 200


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
def test_anything_but_the_document_that_was_due_is_a_bad_response(body: bytes) -> None:
    with pytest.raises(BadResponseException):
        read(body, "a")


@pytest.mark.parametrize("name", ["html", "HTML"])
def test_a_web_page_is_called_one(name: str) -> None:
    with pytest.raises(BadResponseException, match="HTML page"):
        read(f"<{name}><body/></{name}>".encode(), "a")
    with pytest.raises(BadResponseException, match="HTML page"):
        read(f"<{name}><br></{name}>".encode(), "a")


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE a><a/>",
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        b'<!DOCTYPE a [<!ENTITY % p SYSTEM "http://127.0.0.1:1/"> %p;]><a/>',
    ],
)
def test_a_document_type_declaration_is_refused(body: bytes) -> None:
    with pytest.raises(BadResponseException):
        read(body, "a")


def test_an_entity_bomb_goes_off_nowhere() -> None:
    levels = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY l0 "boom">{levels}]><a>&l11;</a>'.encode()
    started = time.monotonic()

    with pytest.raises(BadResponseException):
        read(bomb, "a")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<Error><Code>Gen-001</Code><Message>Unknown error</Message></Error>", "Unknown error"),
        (b"<a><Error><Message>Unknown error</Message></Error></a>", "Unknown error"),
        (b'<e:Error xmlns:e="urn:x"><e:Message>Unknown error</e:Message></e:Error>', "Unknown error"),
        (b"<Error/>", "did not say"),
    ],
)
def test_an_error_document_is_the_vendors_own_fault(body: bytes, message: str) -> None:
    with pytest.raises(RemoteInitiatedServerError, match=message):
        read(body, "a")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            b"<Error><Message>no secret here</Message></Error>",
            "the vendor reported an error of its own: what it said is not repeated, "
            "because it can name patrons",
        ),
        (
            b"<a><Error/>secret</a>",
            "the vendor reported an error of its own: what it said is not repeated, "
            "because it can name patrons",
        ),
        (b"<secret/>", "the vendor sent another document where 'a' was due"),
        (b"<html><secret/></html>", "the vendor sent an HTML page where 'a' was due"),
        (b"<html><secret></html>", "the vendor sent an HTML page"),
        (b"<a><secret></a>", "the vendor sent malformed or truncated XML"),
        (b"<?xml version='1.0' encoding='secret'?><a/>", "the vendor sent malformed or truncated XML"),
    ],
)
def test_of_a_document_that_must_not_be_quoted_an_error_tells_only_what_kind_it_is(
    body: bytes, problem: str
) -> None:
    with pytest.raises(RemoteIntegrationException) as caught:
        read(body, "a", ResponseContext("Main", contains_personal_data=True))

    error = caught.value
    assert (error.problem, error.excerpt, error.__cause__) == (problem, "", None)
    assert "secret" not in "".join(traceback.format_exception(error))


def test_of_any_other_document_an_error_tells_what_the_parser_said() -> None:
    with pytest.raises(BadResponseException, match="tag mismatch: b") as caught:
        read(b"<a><b></a>", "a")

    assert caught.value.excerpt == "<a><b></a>"
    assert isinstance(caught.value.__cause__, etree.XMLSyntaxError)


def test_what_an_error_document_reports_is_told_from_other_bodies() -> None:
    assert (
        reported_error((DOCUMENTS / "error_authentication_failed.xml").read_bytes())
        == "Authentication failed"
    )
    assert reported_error((DOCUMENTS / "error_without_message.xml").read_bytes()) == ""
    assert reported_error(b"<a/>") is None
    assert reported_error(b"not xml") is None


@pytest.mark.parametrize("body", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"])
def test_white_space_and_a_byte_order_mark_are_blank(body: bytes) -> None:
    assert is_blank(body)
    assert not is_blank(body + b"x")
