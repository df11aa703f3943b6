"""Malicious documents are parsed or rejected without hanging, using much memory or fetching anything."""

import math
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from accession.bibliotheca.errors import BadResponseException, RemoteIntegrationException
from accession.bibliotheca.items import parse_items
from accession.bibliotheca.marc import parse_marc_page
from accession.bibliotheca.text import to_plain_paragraphs
from accession.catalog.data import TitleData
from tests.chaos import fuzzing
from tests.chaos.fuzzing import Limits, Target
from tests.fixtures.factories import NOON

MARC = 'xmlns="http://www.loc.gov/MARC21/slim"'
BODIES = {
    "parse_marc_page": (
        f'@prolog<collection {MARC}><record @attributes><controlfield tag="001">abc</controlfield>'
        '<datafield tag="245" ind1="1" ind2="0"><subfield code="a">@text</subfield></datafield>@more</record>'
        "</collection>"
    ),
    "parse_items": (
        "@prolog<ArrayOfItem><Item @attributes><ItemId>abc</ItemId><Title>@text</Title>"
        "<TotalCopies>1</TotalCopies>@more</Item></ArrayOfItem>"
    ),
    "parse_events": (
        "@prolog<LibraryEventBatch><Events><CloudLibraryEvent @attributes><EventId>@text</EventId>"
        "<EventType>CHECKOUT</EventType><EventStartDateTimeInUTC>2024-05-01T10:00:00</EventStartDateTimeInUTC>"
        "<ItemId>abc</ItemId>@more</CloudLibraryEvent></Events></LibraryEventBatch>"
    ),
    "error documents": "@prolog<Error @attributes><Code>Gen-001</Code><Message>@text</Message>@more</Error>",
    "marc_record_from_xml": (
        f'@prolog<record {MARC} @attributes><controlfield tag="001">abc</controlfield>'
        '<datafield tag="245" ind1="1" ind2="0"><subfield code="a">@text</subfield></datafield>@more</record>'
    ),
}
PARSERS = ("parse_marc_page", "parse_items", "parse_events")
TARGETS = {target.name: target for target in fuzzing.targets()}
# A document takes less than a second, but minutes or hours in a parser that is not linear in its size.
LIMITS = Limits(cpu_seconds=math.inf, mebibytes=100, hang_seconds=60)
# Coverage of the separate process in which the parsers run is not saved, but measuring it takes time.
runs_in_separate_process = pytest.mark.no_cover


@dataclass(frozen=True)
class Hostile:
    """Content to insert at each place of a document."""

    prolog: bytes = b""
    attributes: bytes = b""
    text: bytes = b"a"
    more: bytes = b""

    def document(self, name: str) -> bytes:
        """Return the document for this parser."""
        body = BODIES[name].encode()
        for place in ("prolog", "attributes", "text", "more"):
            body = body.replace(b"@" + place.encode(), getattr(self, place))
        return body


def declared(*entities: bytes) -> bytes:
    return b"<!DOCTYPE x [" + b"".join(b"<!ENTITY " + entity + b">" for entity in entities) + b"]>"


LAUGHS = declared(
    b'l0 "lol"', *(b'l%d "%s"' % (level, b"&l%d;" % (level - 1) * 10) for level in range(1, 10))
)
REJECTED = {
    "a billion laughs": Hostile(LAUGHS, text=b"&l9;"),
    "a billion laughs in an attribute": Hostile(LAUGHS, attributes=b'x="&l9;"'),
    "quadratic blowup": Hostile(declared(b'e "' + b"x" * 100_000 + b'"'), text=b"&e;" * 2_000),
    "quadratic blowup in an attribute": Hostile(
        declared(b'e "' + b"x" * 100_000 + b'"'), attributes=b'x="' + b"&e;" * 2_000 + b'"'
    ),
    "a recursive entity": Hostile(declared(b'e "&f;"', b'f "&e;"'), text=b"&e;"),
    "an external entity": Hostile(declared(b'e SYSTEM "file:///etc/hostname"'), text=b"&e;"),
    "an external parameter entity": Hostile(
        b'<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/hostname">%p;]>', text=b"a"
    ),
    "nested parameter entities": Hostile(
        b"<!DOCTYPE x [<!ENTITY % a 'b'><!ENTITY % c '<!ENTITY e \"%a;\">'>%c;]>", text=b"&e;"
    ),
    "an external document type": Hostile(b'<!DOCTYPE x SYSTEM "file:///etc/hostname">'),
    "a public document type": Hostile(b'<!DOCTYPE x PUBLIC "-//x" "http://127.0.0.1:9/x.dtd">'),
    "an empty document type": Hostile(b"<!DOCTYPE x>"),
    "elements 100,000 deep": Hostile(more=b"<x>" * 100_000 + b"</x>" * 100_000),
    "elements 10,000 deep": Hostile(more=b"<x>" * 10_000 + b"</x>" * 10_000),
    "unclosed elements": Hostile(more=b"<x>" * 200_000),
    "200,000 attributes": Hostile(attributes=b" ".join(b'a%x=""' % n for n in range(200_000))),
    "a repeated attribute": Hostile(attributes=b'a="" a=""'),
    "200,000 empty elements": Hostile(more=b"<x/>" * 200_000),
    "200,000 references": Hostile(text=b"&amp;" * 200_000),
    "200,000 undefined references": Hostile(text=b"&supl;" * 200_000),
    "200,000 bare ampersands": Hostile(text=b"&" * 200_000),
    "a text beyond ten megabytes": Hostile(text=b"x" * 10_000_001),
    "a surrogate as bytes": Hostile(text=b"a\xed\xa0\x80"),
    "a pair of surrogates as bytes": Hostile(text=b"a\xed\xa0\xbd\xed\xb8\x80"),
    "bytes that are not UTF-8": Hostile(text=b"a\xff\xfe\xc0\x80"),
    "an undeclared prefix": Hostile(more=b"<x:y/>"),
    "elements hidden by UTF-7": Hostile(
        b"<?xml version='1.0'\n encoding = 'Utf-7' ?>",
        more=b"+ADw-x/+AD4-" * 200_000,
    ),
}
PARSED = {
    "many attributes": Hostile(attributes=b" ".join(b'a%x=""' % n for n in range(100_000))),
    "many empty elements": Hostile(more=b"<x/>" * 100_000),
    "elements 200 deep": Hostile(more=b"<x>" * 200 + b"</x>" * 200),
    "NUL": Hostile(text=b"a\x00b&#0;c\x01\x1b[2J"),
    "numeric surrogates": Hostile(text=b"a&#xD800;&#xDFFF;&#55296;&#xFFFF;"),
    "numeric surrogates, escaped twice": Hostile(text=b"a&amp;#xD800;&amp;#0;&amp;#xFFFF;"),
    "bidi controls": Hostile(text="a\u202e\u2066\u200f\u061c\u2069".encode()),
    "controls allowed in XML": Hostile(text="a\x7f\x80\x85\x9b31m\x9d52;c;\x9c\u2028\u2029".encode()),
    "almost ten megabytes of text": Hostile(text=b"x" * 9_900_000),
    "a megabyte of words": Hostile(text=b"x " * 500_000),
    "a megabyte of names": Hostile(text=b"x, y;" * 200_000),
    "a reference with thousands of digits": Hostile(text=b"a&amp;#" + b"9" * 10_000 + b";"),
    "a reference with thousands of letters": Hostile(text=b"a&amp;" + b"a" * 100_000 + b";"),
}


@runs_in_separate_process
@pytest.mark.parametrize("name", REJECTED)
def test_malicious_document_is_rejected(name: str) -> None:
    result = run_parsers(REJECTED[name])

    assert result.failure is None, result.failure
    assert [result.parsed[parser] for parser in PARSERS] == [0, 0, 0]


@runs_in_separate_process
@pytest.mark.parametrize("name", PARSED)
def test_unusual_document_is_parsed(name: str) -> None:
    result = run_parsers(PARSED[name])

    assert result.failure is None, result.failure
    assert [result.parsed[parser] for parser in PARSERS] == [1, 1, 1]


def run_parsers(hostile: Hostile) -> fuzzing.Result:
    """Run all parsers on a document in a separate process."""
    inputs = [(target, hostile.document(name)) for name, target in TARGETS.items()]
    return fuzzing.run(inputs.__getitem__, range(len(inputs)), LIMITS)


# Elements of an item, which are parsed further than others


def item(name: str, text: bytes) -> bytes:
    return Hostile(more=b"<%b>%b</%b>" % (name.encode(), text, name.encode())).document("parse_items")


REPETITIVE_BYTES = 200_000
UNITS = (
    *(b"x", b" ", b"; ", b"a,;", b"a|b|,", b" (", b"9", b"&lt;", b"&lt;a ", b"&lt;a b='", b"&lt;p&gt;"),
    *(b"&lt;!--", b"&lt;![", b"&lt;?", b"&lt;script&gt;", b"&lt;/a", b"<b/>", b"<p>x</p>", b"&amp;lt;a "),
)


def repeat_unit(unit: bytes) -> bytes:
    """Return `unit` repeated to 200 kB, or to just below the limit on markup."""
    markup = sum(map(unit.count, (b"<", b"&", b"=")))
    return unit * min(REPETITIVE_BYTES // len(unit), 140_000 // markup if markup else REPETITIVE_BYTES)


@runs_in_separate_process
@pytest.mark.parametrize("name", ["Authors", "Description", "Genre", "CoverLinkURL", "PubDate", "ISBN13"])
def test_repetitive_item_element_is_parsed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The patterns must be linear even in texts longer than the parser accepts."""
    monkeypatch.setattr("accession.bibliotheca.items.MAX_TEXT_LENGTH", REPETITIVE_BYTES)
    inputs = [(TARGETS["parse_items"], item(name, repeat_unit(unit))) for unit in UNITS]

    result = fuzzing.run(inputs.__getitem__, range(len(inputs)), LIMITS)

    assert result.failure is None, (result.failure, UNITS[result.number or 0])
    assert result.parsed["parse_items"] == len(UNITS)


def test_overlong_description_is_truncated() -> None:
    title = title_of(item("Description", b"The beginning. " + b"x" * 9_000_000))
    assert (title.bibliographic.description or "").startswith("The beginning. xxx")
    assert len(title.bibliographic.description or "") == 50_000


def test_excess_contributors_are_dropped() -> None:
    names = b";".join(b"Writer, %d" % number for number in range(1000))
    title = title_of(item("Authors", names))
    assert [each.display_name for each in title.bibliographic.contributors][:2] == ["0 Writer", "1 Writer"]
    assert len(title.bibliographic.contributors) == 200


def title_of(body: bytes) -> TitleData:
    (title,) = parse_items(body, NOON).titles
    return title


# Too many records, events or fields


@pytest.mark.parametrize(
    ("target", "root", "element"),
    [
        ("parse_marc_page", f"collection {MARC}", b"<record/>"),
        ("parse_events", "LibraryEventBatch", b"<CloudLibraryEvent/>"),
    ],
)
def test_too_many_records_or_events_are_rejected(target: str, root: str, element: bytes) -> None:
    """Stored as rejected records they would exceed what one statement of PostgreSQL accepts."""

    def document_with(number: int) -> bytes:
        return f"<{root}>".encode() + element * number + f"</{root.split()[0]}>".encode()

    TARGETS[target].check(document_with(2_000))
    with pytest.raises(BadResponseException, match=r"2,001 \w+ in one response; the limit is 2,000"):
        TARGETS[target].check(document_with(2_001))


def test_record_with_100_000_fields_is_rejected_but_not_10_000() -> None:
    def page(fields: int) -> bytes:
        field_ = '<datafield tag="500"><subfield code="a">x</subfield></datafield>'
        return Hostile(more=(field_ * fields).encode()).document("parse_marc_page")

    with pytest.raises(BadResponseException, match="more than 150,000 XML elements and references"):
        parse_marc_page(page(100_000))
    (record,) = parse_marc_page(page(10_000)).records
    assert record.item_ids == ("abc",)
    assert len(record.as_marc21()) <= 99_999


# External resources


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE x SYSTEM "{}">',
        '<!DOCTYPE x PUBLIC "-//x" "{}">',
        '<!DOCTYPE x [<!ENTITY e SYSTEM "{}">]>',
        '<!DOCTYPE x [<!ENTITY % e SYSTEM "{}"> %e;]>',
        '<?xml-stylesheet href="{}" type="text/xsl"?>',
    ],
)
def test_no_file_or_url_is_fetched(target: Target, prolog: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("<!ENTITY f 'content-of-the-file'>")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        for address in (secret.as_uri(), f"http://127.0.0.1:{listener.getsockname()[1]}/x"):
            hostile = Hostile(prolog.format(address).encode(), text=b"&e;" if "ENTITY e" in prolog else b"a")
            error_text = ""
            try:
                target.check(hostile.document(target.name))
            except RemoteIntegrationException as error:
                error_text = f"{error} {error.excerpt} {error.__cause__}"
            assert "content-of-the-file" not in error_text
        with pytest.raises(BlockingIOError):
            listener.accept()


# HTML


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<script>alert(1)", ""),
        ("<script>a</script>b<script>c", "b"),
        ("<SCRIPT type=x>a<b>c</b></SCRIPT >d", "d"),
        ("a<!-- b", "a"),
        ("a<!-- <script> -->b", "ab"),
        ("a<script><!--</script>b", "ab"),
        ("<img src=x onerror=alert(1)>a", "a"),
        ("<a href='javascript:x'>a</a>", "a"),
        ("<scripted>a</scripted>", "a"),
        ("a <b", "a <b"),
        ("<<p>>a", "<\n>a"),
    ],
)
def test_html_is_reduced_to_text(html: str, text: str) -> None:
    assert to_plain_paragraphs(html) == text
