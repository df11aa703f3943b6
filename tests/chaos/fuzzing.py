"""Fuzz the parsers of the vendor's documents with randomly mutated documents.

Each input must be parsed or rejected with an error of `accession.bibliotheca.errors`, within one second of
CPU time and 100 MiB of memory, and parsed data must be storable.

`python -m tests.chaos.fuzzing --inputs 50000 [--seed N]` stops at the first input that fails, with exit code
1. `--seed N --only K` runs that input again.
"""

import argparse
import importlib
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from types import FunctionType, ModuleType
from typing import Any, TextIO

from pymarc import MARCReader

from accession.bibliotheca import xml
from accession.bibliotheca.errors import RemoteIntegrationException, ResponseContext
from accession.bibliotheca.events import parse_events
from accession.bibliotheca.items import parse_items
from accession.bibliotheca.marc import MarcRecord, marc_record_from_xml, parse_marc_page
from accession.catalog.data import ApplyData, EventData, TitleData
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.documents import event_batch
from accession.sandbox.items import item_documents
from accession.sandbox.marc import marc_collection
from tests.fixtures.vendor import error_document

NOW = datetime(2024, 5, 1, tzinfo=UTC)
DOCUMENTS = Path(__file__).parents[1] / "unit" / "bibliotheca" / "documents"
MAX_BYTES = 128 * 1024

# Tests replace the clocks.
cpu_seconds = time.process_time
monotonic_seconds = time.monotonic


# Properties of parsed data


def check_marc(body: bytes) -> None:
    """Parse a page of purchase records; each record must be storable and parse the same again."""
    for record in parse_marc_page(body).records:
        again = marc_record_from_xml(record.raw_xml)
        assert (again.item_ids, again.fault, again.warnings) == (
            record.item_ids,
            record.fault,
            record.warnings,
        )
        assert again.content_hash() == _check_record(record)


def check_stored(body: bytes) -> None:
    """Parse a stored rejected record, which contains neither NUL nor invalid UTF-8."""
    _check_record(marc_record_from_xml(body.decode("utf-8", "replace").replace("\0", "")))


def check_items(body: bytes) -> None:
    """Parse an item document; each title must be the same after a round trip through the outbox."""
    response = parse_items(body, NOW)
    for title in response.titles:
        _check_title(title)
    for fault in response.faults:
        _check_sentence(fault.reason)
        _check_storable(fault.item_id or "")


def check_events(body: bytes) -> None:
    """Parse a batch of events; what is stored of an invalid event must parse to the same fault."""
    response = parse_events(body)
    for event in response.events:
        _check_event(event)
    for fault in response.faults:
        _check_sentence(fault.reason)
        _check_storable(fault.raw_xml)
        assert parse_events(fault.raw_xml.encode()).faults == (fault,)


def check_errors(body: bytes) -> None:
    """Parse an error document; it must not be quoted if it can contain personal data."""
    message = xml.vendor_error_message(body)
    assert message is None or len(message) <= 200
    xml.parse_xml(body)
    try:
        xml.parse_document(body, "Error", ResponseContext(contains_personal_data=True))
    except RemoteIntegrationException as error:
        _check_nothing_quoted(error)
        raise


def _check_record(record: MarcRecord) -> str:
    """Check a record and return its hash."""
    _check_storable(record.raw_xml)
    _check_storable("".join(record.item_ids))
    content_hash = record.content_hash()
    assert len(content_hash) == 64
    for warning in record.warnings:
        _check_sentence(warning)
    if record.fault is not None:
        _check_sentence(record.fault)
        return content_hash
    marc21 = record.as_marc21()
    assert len(marc21) <= 99_999
    assert [parsed is not None for parsed in MARCReader(marc21)] == [True]
    return content_hash


def _check_title(title: TitleData) -> None:
    metadata = title.bibliographic
    stored = ApplyData(bibliographic=metadata, circulation=title.circulation).model_dump_json()
    _check_storable(stored)
    assert "\\u0000" not in stored
    assert ApplyData.model_validate_json(stored).bibliographic == metadata
    assert metadata.content_hash() == metadata.model_copy().content_hash()
    indexed = [name for each in metadata.contributors for name in (each.sort_name, each.display_name)]
    indexed += [subject.name for subject in metadata.subjects]
    assert all(0 < len(name) <= 300 for name in indexed)


def _check_event(event: EventData) -> None:
    stored = event.model_dump_json()
    _check_storable(stored)
    assert "\\u0000" not in stored
    assert EventData.model_validate_json(stored) == event
    assert max(map(len, (event.event_id, event.event_type, event.identifier))) <= 300


def _check_nothing_quoted(error: RemoteIntegrationException) -> None:
    assert (error.excerpt, error.__cause__) == ("", None)


def _check_storable(text: str) -> None:
    assert "\0" not in text
    text.encode()


def _check_sentence(reason: str) -> None:
    assert reason.isprintable(), reason[:200]
    assert len(reason) <= 1000


@dataclass(frozen=True)
class Target:
    """A parser, the check of its results, and documents to mutate."""

    name: str
    check: Callable[[bytes], None]
    documents: tuple[bytes, ...]


def parse_or_reject(target: Target, body: bytes) -> bool:
    """Return whether the target parses `body`; False if it rejects it. Raise anything unexpected."""
    try:
        target.check(body)
    except RemoteIntegrationException as error:
        _check_sentence(str(error))
        return False
    return True


def targets() -> tuple[Target, ...]:
    """Return all parsers, with the documents of the tests and of the sandbox."""
    documents = [path.read_bytes() for path in sorted(DOCUMENTS.glob("*.xml"))]
    documents += _sandbox_documents()
    documents.append(error_document("Authentication failed").encode())

    def containing(*roots: bytes) -> tuple[bytes, ...]:
        return tuple(body for body in documents if any(root in body[:400] for root in roots))

    pages, errors = containing(b"collection"), containing(b"<Error")
    records = tuple(
        record.raw_xml.encode()
        for page in pages
        if xml.vendor_error_message(page) is None and page.rstrip().endswith(b"collection>")
        for record in parse_marc_page(page).records[:4]
    )
    return (
        Target("parse_marc_page", check_marc, pages),
        Target("parse_items", check_items, containing(b"ArrayOfItem")),
        Target("parse_events", check_events, containing(b"LibraryEventBatch")),
        Target("error documents", check_errors, (*errors, *containing(b"<html"), pages[0])),
        Target("marc_record_from_xml", check_stored, records),
    )


def _sandbox_documents() -> list[bytes]:
    start = datetime(2024, 4, 1, tzinfo=UTC)
    catalogue = build_catalogue(40, start, NOW, seed=1)
    purchases = catalogue.page(start, NOW, offset=1, limit=3)
    activity = Activity(catalogue, 20, NOW - timedelta(hours=1), seed=1)
    activity.advance(NOW)
    events = activity.between(NOW - timedelta(hours=1), NOW)[:6]
    return [
        marc_collection(purchases, "alder", NOW, undefined_entities=True).encode(),
        item_documents(purchases, "alder", double_escaped=True).encode(),
        event_batch(events, "alder", NOW, with_library=True).encode(),
    ]


# Mutations

_TAG = re.compile(rb"<[A-Za-z][^<>]*>")
_TEXT = re.compile(rb">([^<>]+)<")
_VALUE = re.compile(rb"=(\"[^\"<>]*\"|'[^'<>]*')")
_NAMESPACE = re.compile(rb"\sxmlns(:\w+)?=(\"[^\"]*\"|'[^']*')")
_DECLARATION = re.compile(rb"<\?xml[^>]*\?>")

_FRAGMENTS = (
    *(b"\x00", b"\x0b", b"\x1b[31m", b"\x1b]52;c;aGk=\x07", b"\x7f", b"\xff", b"\xfe\xff", b"\xc3", b"\r\n"),
    *(b"\xed\xa0\x80", b"\xed\xb0\x80\xed\xa0\x80", b"\xef\xbf\xbf", b"\xf4\x90\x80\x80", b"\xc0\x80"),
    *("\x9b31m\x85\u2028\u202e\u2066\ufeff\U000e0001\u00ad\u200b".encode(), "𝄞ſß\u0130\u0660".encode()),
    *(b"&#0;", b"&#xD800;", b"&#x110000;", b"&#99999999999;", b"&#x;", b"&#27;", b"&#x9b;", b"&#65;"),
    *(b"&amp;#0;", b"&amp;#xD800;", b"&amp;#27;", b"&amp;#x9b;", b"&amp;amp;#0;", b"&amp;lt;p&amp;gt;"),
    *(b"&", b"&;", b"&supl;", b"&nbsp;", b"&ldquo", b"&e;", b"&NotEqualTilde;", b"&lt;br&gt;", b"&lt;!--"),
    *(b"<", b">", b"</", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?x ?>", b"<?xml version='1.1'?>"),
    *(b"<!DOCTYPE a>", b'<!DOCTYPE a [<!ENTITY e "x">]>', b'<!ENTITY % p SYSTEM "file:///etc/passwd">'),
    *(b"<record/>", b"<Item/>", b"<CloudLibraryEvent/>", b"<Error/>", b"<Error><Message>x</Message></Error>"),
)
_TEXTS = (
    *("", " ", "\u00a0", "-1", "0", "1e9", "2147483647", "2147483648", "9" * 20, "9" * 5000),
    *("٣", "NaN", "0x10", "\u00ad", " " * 10_000, "x" * 20_000, "𝄞" * 3000),
    *("0001-01-01", "9999-12-31", "2024-02-30", "0000-00-00", "2024", "2024-13", "12345-01-01"),
    *("0001-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "2024-05-01T25:61:61", "0002-01-01T00:00:00+23:59"),
    *("2024-05-01T10:00:00." + "9" * 12, "2024-05-01t10:00:00z", "2024-05-01 10:00:00 +99:59"),
    *("http://[", "http://[::1", "https://x/" + "y" * 3000, "http://x/delivery/img\u0085", "javascript:x"),
    *("(" * 3000, " (" * 3000, ";" * 3000, "a,;" * 1000, "|," * 1500, "|" * 3000, "," * 3000, "x  " * 3000),
    *("<a " * 3000, "<a/" * 3000, "<a x='" * 1500, "<!--" * 2000, "</" * 4000, "<?" * 4000, "<![" * 3000),
    *("<p>" * 3000, "<script>" * 1000, "<script><" * 1000),
    *("&" * 4000, "&a" * 3000, "&#" * 4000, "&amp;" * 2000),
    *("=HYPERLINK(1)", "'; DROP TABLE runs;--", "\u202eevil"),
)
_NAMESPACES = (b"", b"relative", b"urn:x", b"http://www.loc.gov/MARC21/slim", b"http://[", b"\xc3\xa9", b"#")
_ENCODINGS = (
    *("utf-8", "utf-16", "utf-16-le", "utf-32", "utf-7", "latin-1", "cp1252", "shift_jis", "iso2022_jp"),
    *("gb18030", "koi8-r", "cp037", "nonsense-8", "", "x" * 300),
)


def _position(rng: Random, body: bytes) -> int:
    return rng.randrange(len(body) + 1)


def _slice(rng: Random, body: bytes, max_length: int = 2000) -> tuple[int, int]:
    start = _position(rng, body)
    return start, min(len(body), start + rng.randrange(1, max_length))


def _element(rng: Random, body: bytes) -> tuple[int, int]:
    """Return the approximate position of a random element."""
    tags = [(match.start(), match.end()) for match in _TAG.finditer(body)]
    if not tags:
        return _slice(rng, body)
    start, end = rng.choice(tags)
    tag = body[start:end]
    if tag.endswith(b"/>"):
        return start, end
    name = re.split(rb"[\s/>]", tag[1:], maxsplit=1)[0]
    closing = b"</" + name + b">"
    position = body.find(closing, end)
    return start, position + len(closing) if position >= 0 else end


def _repeat(piece: bytes, number: int) -> bytes:
    """Return `piece` repeated up to `MAX_BYTES`: what is cut off later must not count as memory."""
    return piece * min(number, MAX_BYTES // max(1, len(piece)))


def _replace(rng: Random, body: bytes, pattern: re.Pattern[bytes], replacement: bytes) -> bytes:
    spans = [match.span(match.lastindex or 0) for match in pattern.finditer(body)]
    start, end = rng.choice(spans) if spans else _slice(rng, body)
    return body[:start] + replacement + body[end:]


def _unusual_text(rng: Random) -> bytes:
    """Return unusual text, escaped, and sometimes in the wrong encoding."""
    text = rng.choice(_TEXTS)
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return escaped.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16-le")))


def _flip_bytes(rng: Random, body: bytes) -> bytes:
    flipped = bytearray(body)
    for _ in range(rng.randrange(1, 9)):
        if flipped:
            flipped[rng.randrange(len(flipped))] = rng.randrange(256)
    return bytes(flipped)


def _insert(rng: Random, body: bytes) -> bytes:
    position = _position(rng, body)
    return body[:position] + rng.choice(_FRAGMENTS) * rng.choice((1, 1, 1, 2, 300)) + body[position:]


def _truncate(rng: Random, body: bytes) -> bytes:
    return body[: _position(rng, body)]


def _remove_slice(rng: Random, body: bytes) -> bytes:
    start, end = _slice(rng, body)
    return body[:start] + body[end:]


def _remove_element(rng: Random, body: bytes) -> bytes:
    start, end = _element(rng, body)
    return body[:start] + body[end:]


def _repeat_element(rng: Random, body: bytes) -> bytes:
    start, end = _element(rng, body)
    return body[:end] + _repeat(body[start:end], rng.choice((1, 1, 2, 20, 500))) + body[end:]


def _swap_elements(rng: Random, body: bytes) -> bytes:
    (a, b), (c, d) = sorted((_element(rng, body), _element(rng, body)))
    return body if b > c else body[:a] + body[c:d] + body[b:c] + body[a:b] + body[d:]


def _move_element(rng: Random, body: bytes) -> bytes:
    start, end = _element(rng, body)
    rest = body[:start] + body[end:]
    tags = [match.end() for match in _TAG.finditer(rest)]
    position = rng.choice(tags) if tags else _position(rng, rest)
    return rest[:position] + body[start:end] + rest[position:]


def _nest_element(rng: Random, body: bytes) -> bytes:
    start, end = _element(rng, body)
    name = re.split(rb"[\s/>]", body[start + 1 : end], maxsplit=1)[0]
    levels = rng.choice((1, 2, 100, 250, 300, 5000))
    start_tags, end_tags = _repeat(b"<" + name + b">", levels), _repeat(b"</" + name + b">", levels)
    return body[:start] + start_tags + body[start:end] + end_tags + body[end:]


def _rename_element(rng: Random, body: bytes) -> bytes:
    names = {re.split(rb"[\s/>]", tag[1:], maxsplit=1)[0] for tag in _TAG.findall(body)}
    if not names:
        return body
    old, new = rng.choice(sorted(names)), rng.choice([*sorted(names), b"x", b"y:z"])
    start, end = _element(rng, body)
    renamed = re.sub(rb"(</?)" + re.escape(old) + rb"(?=[\s/>])", rb"\g<1>" + new, body[start:end])
    return body[:start] + renamed + body[end:]


def _change_text(rng: Random, body: bytes) -> bytes:
    return _replace(rng, body, _TEXT, _unusual_text(rng))


def _change_value(rng: Random, body: bytes) -> bytes:
    return _replace(rng, body, _VALUE, b'"' + _unusual_text(rng) + b'"')


def _change_namespace(rng: Random, body: bytes) -> bytes:
    prefix = rng.choice((b"", b":x", b":marc", b":xsi"))
    declaration = b" xmlns" + prefix + b'="' + rng.choice(_NAMESPACES) + b'"'
    if rng.random() < 0.5:
        return _NAMESPACE.sub(lambda _: rng.choice((b"", declaration)), body, count=1)
    return _replace(rng, body, re.compile(rb"<[A-Za-z][\w:]*()"), declaration)


def _change_encoding(rng: Random, body: bytes) -> bytes:
    declared, actual = rng.choice(_ENCODINGS), rng.choice(_ENCODINGS)
    content = _DECLARATION.sub(b"", body, count=1)
    if rng.random() < 0.5:
        try:
            content = content.decode("utf-8", "ignore").encode(actual, "xmlcharrefreplace")
        except (LookupError, UnicodeError):
            declared = actual
    declaration = f'<?xml version="1.0" encoding="{declared}"?>'
    encoded = declaration.encode(actual if actual.startswith(("utf-16", "utf-32", "cp037")) else "ascii")
    return rng.choice((encoded, b"")) + content


def _add_declaration(rng: Random, body: bytes) -> bytes:
    internal = rng.choice((b"", b' [<!ENTITY e "eee"><!ENTITY f "&e;&e;">]', b' SYSTEM "file:///etc/passwd"'))
    start, _ = _element(rng, body)
    return body[:start] + b"<!DOCTYPE x" + internal + b">" + body[start:]


MUTATIONS: Sequence[Callable[[Random, bytes], bytes]] = (
    *(_flip_bytes, _insert, _insert, _truncate, _remove_slice),
    *(_remove_element, _repeat_element, _swap_elements, _move_element, _nest_element, _rename_element),
    *(_change_text, _change_text, _change_text, _change_value, _change_value),
    *(_change_namespace, _change_encoding, _add_declaration),
)


def mutated(rng: Random, body: bytes) -> bytes:
    """Return `body` after a few mutations, at most `MAX_BYTES` long."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        body = rng.choice(MUTATIONS)(rng, body)[:MAX_BYTES]
    return body


def make_input(fuzzed: Sequence[Target], seed: int, number: int) -> tuple[Target, bytes]:
    """Return the input with this number, which depends only on the seed and the documents."""
    rng = Random(f"{seed}:{number}")
    target = fuzzed[number % len(fuzzed)]
    return target, mutated(rng, rng.choice(target.documents))


# The long run


@dataclass(frozen=True)
class Limits:
    """Limits for one input; memory counts beyond that of unmodified documents, a hang is lack of progress."""

    cpu_seconds: float = 1.0
    mebibytes: float = 100.0
    hang_seconds: float = 20.0


@dataclass(frozen=True)
class Result:
    """Result of a run.

    `inputs` and `parsed` count by target. `failure` describes what went wrong with input `number`; None if
    nothing did.
    """

    inputs: Mapping[str, int] = field(default_factory=dict)
    parsed: Mapping[str, int] = field(default_factory=dict)
    slowest_ms: float = 0.0
    slowest_number: int = 0
    growth_mib: float = 0.0
    failure: str | None = None
    number: int | None = None


Inputs = Callable[[int], tuple[Target, bytes]]
"""Function that returns the input with a number."""


def run(inputs: Inputs, numbers: range, limits: Limits, warm_up: Sequence[Target] = ()) -> Result:
    """Run inputs in a separate process until the first that fails.

    A parser that kills its process or never returns is detected too. The memory that the documents of
    `warm_up` take does not count.
    """
    current = multiprocessing.get_context("fork").Value("q", numbers.start)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    # Not a multiprocessing.Process: in its child, kombu closes inherited broker connections and waits for
    # responses that the parent has already read.
    child = os.fork()
    if child == 0:
        try:
            _run_all(inputs, numbers, limits, warm_up, current, sender)
        finally:
            os._exit(0)
    sender.close()
    last_number, last_progress = numbers.start, monotonic_seconds()
    try:
        while monotonic_seconds() - last_progress < limits.hang_seconds:
            if receiver.poll(0.1):
                result: Result = receiver.recv()
                return result
            if current.value != last_number:
                last_number, last_progress = current.value, monotonic_seconds()
        failure = f"it did not return within {limits.hang_seconds:.0f} s"
    except EOFError:
        failure = "it killed its process"
    finally:
        receiver.close()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return Result(failure=failure, number=current.value)


def _run_all(
    inputs: Inputs, numbers: range, limits: Limits, warm_up: Sequence[Target], current: Any, sender: Any
) -> None:
    for target in warm_up:
        for body in target.documents:
            parse_or_reject(target, body)
    before = _peak_mib()
    inputs_run, parsed = Counter[str](), Counter[str]()
    slowest = (0.0, numbers.start)

    def result(failure: str | None = None, number: int | None = None) -> Result:
        growth = _peak_mib() - before
        return Result(inputs_run, parsed, 1000 * slowest[0], slowest[1], growth, failure, number)

    for number in numbers:
        current.value = number
        target, body = inputs(number)
        started = cpu_seconds()
        try:
            parsed[target.name] += parse_or_reject(target, body)
        except Exception:
            sender.send(result(traceback.format_exc(), number))
            return
        took = cpu_seconds() - started
        inputs_run[target.name] += 1
        slowest = max(slowest, (took, number))
        if took > limits.cpu_seconds:
            sender.send(result(f"it took {took:.1f} s of CPU time", number))
            return
        if _peak_mib() - before > limits.mebibytes:
            sender.send(result(f"it took {_peak_mib() - before:.0f} MiB of memory", number))
            return
    sender.send(result())


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def long_run(fuzzed: Sequence[Target], seed: int, numbers: range, limits: Limits, out: TextIO) -> int:
    """Run the inputs, report the result, and return the exit code."""
    out.write(f"seed {seed}, {len(numbers):,} inputs\n")
    out.flush()
    result = run(partial(make_input, fuzzed, seed), numbers, limits, fuzzed)
    for name, count in result.inputs.items():
        out.write(f"{name:>22}: {count:,} inputs, {result.parsed[name]:,} parsed, the others rejected\n")
    out.write(f"slowest: input {result.slowest_number} in {result.slowest_ms:.0f} ms of CPU time\n")
    out.write(f"peak memory: {result.growth_mib:.0f} MiB more than unmodified documents take\n")
    if result.failure is None:
        return 0
    name = fuzzed[(result.number or 0) % len(fuzzed)].name
    out.write(f"FAILED on input {result.number} of {name}: {result.failure}\n")
    out.write(f"Reproduce: python -m tests.chaos.fuzzing --seed {seed} --only {result.number}\n")
    return 1


# Coverage-guided fuzzing

NO_ATHERIS = (
    "atheris is not installed: install it with `python -m pip install atheris` (it has wheels for CPython on "
    "Linux) and start again.\n"
)


def guided_run(fuzzed: Sequence[Target], inputs: int, seed: int, out: TextIO) -> int:
    """Let atheris choose mutations by code coverage, and return the exit code."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        out.write(NO_ATHERIS)
        return 1

    def parse_one(data: bytes) -> None:
        if data:
            parse_or_reject(fuzzed[data[0] % len(fuzzed)], data[1:])

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)
        if len(data) < 2:
            index = rng.randrange(len(fuzzed))
            data = bytes([index]) + rng.choice(fuzzed[index].documents)
        return (data[:1] + mutated(rng, data[1:]))[:max_size]

    for module in ("xml", "marc", "items", "events", "text", "normalise"):
        _instrument(atheris, sys.modules[f"accession.bibliotheca.{module}"])
    options = [sys.argv[0], f"-runs={inputs}", f"-seed={seed % 2**32}", f"-max_len={MAX_BYTES}"]
    atheris.Setup([*options, "-timeout=5", "-rss_limit_mb=1024"], parse_one, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def _instrument(atheris: Any, module: ModuleType) -> None:
    for name, value in list(vars(module).items()):
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            setattr(module, name, atheris.instrument_func(value))


def main(arguments: Sequence[str], out: TextIO) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fuzzing", description=__doc__)
    parser.add_argument("--inputs", type=int, default=50_000, help="Number of inputs.")
    parser.add_argument("--seed", type=int, help="Seed of an earlier run, to repeat its inputs.")
    parser.add_argument("--only", type=int, metavar="K", help="Run only the input with this number.")
    parser.add_argument("--atheris", action="store_true", help="Use atheris for coverage-guided fuzzing.")
    options = parser.parse_args(arguments)
    seed = SystemRandom().randrange(2**32) if options.seed is None else options.seed
    fuzzed = targets()
    if options.atheris:
        return guided_run(fuzzed, options.inputs, seed, out)
    first = 0 if options.only is None else options.only
    count = options.inputs if options.only is None else 1
    return long_run(fuzzed, seed, range(first, first + count), Limits(), out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout))
