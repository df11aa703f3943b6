"""Documents in the vendor's shape, spoilt at random, against everything that reads them.

Whatever the vendor sends is read, or refused with an error of `accession.bibliotheca.errors`: never a crash,
never more than a second of the processor, never more than 100 MiB. What is read can be stored.

`python -m tests.chaos.fuzzing --inputs 50000 [--seed N]` is the long run. It ends at the first input that
breaks the promise, with exit code 1, and `--seed N --only K` runs that input again.
"""

import argparse
import importlib
import multiprocessing
import re
import resource
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
from accession.bibliotheca.errors import Origin, RemoteIntegrationException
from accession.bibliotheca.events import parse_events
from accession.bibliotheca.items import parse_items
from accession.bibliotheca.marc import MarcRecord, marc_record_from_xml, parse_marc_page
from accession.catalog.data import ApplyData, EventData, TitleData
from accession.sandbox.activity import Activity
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.documents import event_batch, item_documents, marc_collection
from tests.fixtures.vendor import error_document

NOW = datetime(2024, 5, 1, tzinfo=UTC)
DOCUMENTS = Path(__file__).parents[1] / "unit" / "bibliotheca" / "documents"
SAMPLES = Path(__file__).parents[2].parent / "shared" / "vendor-samples"
MOST_BYTES = 128 * 1024


# What must hold of everything that was read


def check_marc(body: bytes) -> None:
    """A page of purchase records is read, and each record can be stored and read again."""
    for record in parse_marc_page(body).records:
        _check_record(record)


def check_stored(body: bytes) -> None:
    """A rejected record is read as it was kept; PostgreSQL keeps neither NUL nor what is no UTF-8."""
    _check_record(marc_record_from_xml(body.decode("utf-8", "replace").replace("\0", "")))


def check_items(body: bytes) -> None:
    """An item document is read, and each title is the same after its way through the outbox."""
    answer = parse_items(body, NOW)
    for title in answer.titles:
        _check_title(title)
    for fault in answer.faults:
        _check_sentence(fault.reason)
        _check_storable(fault.item_id or "")


def check_events(body: bytes) -> None:
    """A batch of events is read, and an event that cannot be used is known again by what is kept of it."""
    answer = parse_events(body)
    for event in answer.events:
        _check_event(event)
    for fault in answer.faults:
        _check_sentence(fault.reason)
        _check_storable(fault.raw_xml)
        assert parse_events(fault.raw_xml.encode()).faults == (fault,)


def check_errors(body: bytes) -> None:
    """An error document is told from others, and nothing of it is quoted where that is forbidden."""
    said = xml.reported_error(body)
    assert said is None or len(said) <= 200
    xml.parse(body)
    try:
        xml.read(body, "Error", Origin(quotable=False))
    except RemoteIntegrationException as error:
        _check_nothing_quoted(error)
        raise


def _check_record(record: MarcRecord) -> None:
    _check_storable(record.raw_xml)
    again = marc_record_from_xml(record.raw_xml)
    assert (again.item_ids, again.fault) == (record.item_ids, record.fault)
    assert record.content_hash() == again.content_hash()
    assert len(record.content_hash()) == 64
    if record.fault is not None:
        _check_sentence(record.fault)
        return
    marc21 = record.as_marc21()
    assert len(marc21) <= 99_999
    assert [read is not None for read in MARCReader(marc21)] == [True]


def _check_title(title: TitleData) -> None:
    described = title.bibliographic
    told = ApplyData(bibliographic=described, circulation=title.circulation).model_dump_json()
    _check_storable(told)
    assert "\\u0000" not in told
    assert ApplyData.model_validate_json(told).bibliographic == described
    assert described.content_hash() == described.model_copy().content_hash()
    indexed = [name for each in described.contributors for name in (each.sort_name, each.display_name)]
    indexed += [subject.name for subject in described.subjects]
    assert all(0 < len(name) <= 300 for name in indexed)


def _check_event(event: EventData) -> None:
    told = event.model_dump_json()
    _check_storable(told)
    assert "\\u0000" not in told
    assert EventData.model_validate_json(told) == event
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
    """A reader, what must hold of what it reads, and the documents to spoil."""

    name: str
    check: Callable[[bytes], None]
    documents: tuple[bytes, ...]


def read_or_refused(target: Target, body: bytes) -> bool:
    """Whether the target reads `body`; False when it refuses it as it may. Raises whatever must not be."""
    try:
        target.check(body)
    except RemoteIntegrationException as error:
        _check_sentence(str(error))
        return False
    return True


def targets() -> tuple[Target, ...]:
    """Every reader, with our own documents, the sandbox's, and the vendor's where they lie beside us."""
    found = [path.read_bytes() for folder in (DOCUMENTS, SAMPLES) for path in sorted(folder.glob("*.xml"))]
    found += _sandbox_documents()
    found.append(error_document("Authentication failed").encode())

    def holding(*roots: bytes) -> tuple[bytes, ...]:
        return tuple(body for body in found if any(root in body[:400] for root in roots))

    pages, errors = holding(b"collection"), holding(b"<Error")
    records = tuple(
        record.raw_xml.encode()
        for page in pages
        if xml.reported_error(page) is None and page.rstrip().endswith(b"collection>")
        for record in parse_marc_page(page).records[:4]
    )
    return (
        Target("parse_marc_page", check_marc, pages),
        Target("parse_items", check_items, holding(b"ArrayOfItem")),
        Target("parse_events", check_events, holding(b"LibraryEventBatch")),
        Target("error documents", check_errors, (*errors, *holding(b"<html"), pages[0])),
        Target("marc_record_from_xml", check_stored, records),
    )


def _sandbox_documents() -> list[bytes]:
    start = datetime(2024, 4, 1, tzinfo=UTC)
    catalogue = build_catalogue(40, start, NOW, seed=1)
    sold = catalogue.page(start, NOW, offset=1, limit=3)
    activity = Activity(catalogue, 20, NOW - timedelta(hours=1), seed=1)
    activity.advance(NOW)
    events = activity.between(NOW - timedelta(hours=1), NOW)[:6]
    return [
        marc_collection(sold, "alder", NOW, undefined_entities=True).encode(),
        item_documents(sold, "alder", double_escaped=True).encode(),
        event_batch(events, "alder", NOW, with_library=True).encode(),
    ]


# How a document is spoilt

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


def _place(rng: Random, body: bytes) -> int:
    return rng.randrange(len(body) + 1)


def _slice(rng: Random, body: bytes, longest: int = 2000) -> tuple[int, int]:
    start = _place(rng, body)
    return start, min(len(body), start + rng.randrange(1, longest))


def _element(rng: Random, body: bytes) -> tuple[int, int]:
    """Where an element stands, as far as a glance tells."""
    tags = [(found.start(), found.end()) for found in _TAG.finditer(body)]
    if not tags:
        return _slice(rng, body)
    start, end = rng.choice(tags)
    tag = body[start:end]
    if tag.endswith(b"/>"):
        return start, end
    name = re.split(rb"[\s/>]", tag[1:], maxsplit=1)[0]
    closing = b"</" + name + b">"
    place = body.find(closing, end)
    return start, place + len(closing) if place >= 0 else end


def _times(piece: bytes, number: int) -> bytes:
    """`piece` repeated, as far as there is room: what is cut off again is not to count as memory."""
    return piece * min(number, MOST_BYTES // max(1, len(piece)))


def _replace(rng: Random, body: bytes, pattern: re.Pattern[bytes], put: bytes) -> bytes:
    spans = [found.span(found.lastindex or 0) for found in pattern.finditer(body)]
    start, end = rng.choice(spans) if spans else _slice(rng, body)
    return body[:start] + put + body[end:]


def _odd_text(rng: Random) -> bytes:
    """Text that stays text, escaped; now and then in an encoding that it should not be in."""
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
    place = _place(rng, body)
    return body[:place] + rng.choice(_FRAGMENTS) * rng.choice((1, 1, 1, 2, 300)) + body[place:]


def _cut(rng: Random, body: bytes) -> bytes:
    return body[: _place(rng, body)]


def _cut_out(rng: Random, body: bytes) -> bytes:
    start, end = _slice(rng, body)
    return body[:start] + body[end:]


def _remove_element(rng: Random, body: bytes) -> bytes:
    start, end = _element(rng, body)
    return body[:start] + body[end:]


def _repeat_element(rng: Random, body: bytes) -> bytes:
    start, end = _element(rng, body)
    return body[:end] + _times(body[start:end], rng.choice((1, 1, 2, 20, 500))) + body[end:]


def _swap_elements(rng: Random, body: bytes) -> bytes:
    (a, b), (c, d) = sorted((_element(rng, body), _element(rng, body)))
    return body if b > c else body[:a] + body[c:d] + body[b:c] + body[a:b] + body[d:]


def _move_element(rng: Random, body: bytes) -> bytes:
    start, end = _element(rng, body)
    rest = body[:start] + body[end:]
    tags = [found.end() for found in _TAG.finditer(rest)]
    place = rng.choice(tags) if tags else _place(rng, rest)
    return rest[:place] + body[start:end] + rest[place:]


def _nest_element(rng: Random, body: bytes) -> bytes:
    start, end = _element(rng, body)
    name = re.split(rb"[\s/>]", body[start + 1 : end], maxsplit=1)[0]
    levels = rng.choice((1, 2, 100, 250, 300, 5000))
    opened, closed = _times(b"<" + name + b">", levels), _times(b"</" + name + b">", levels)
    return body[:start] + opened + body[start:end] + closed + body[end:]


def _rename_element(rng: Random, body: bytes) -> bytes:
    names = {re.split(rb"[\s/>]", tag[1:], maxsplit=1)[0] for tag in _TAG.findall(body)}
    if not names:
        return body
    old, new = rng.choice(sorted(names)), rng.choice([*sorted(names), b"x", b"y:z"])
    start, end = _element(rng, body)
    swapped = re.sub(rb"(</?)" + re.escape(old) + rb"(?=[\s/>])", rb"\g<1>" + new, body[start:end])
    return body[:start] + swapped + body[end:]


def _change_text(rng: Random, body: bytes) -> bytes:
    return _replace(rng, body, _TEXT, _odd_text(rng))


def _change_value(rng: Random, body: bytes) -> bytes:
    return _replace(rng, body, _VALUE, b'"' + _odd_text(rng) + b'"')


def _change_namespace(rng: Random, body: bytes) -> bytes:
    prefix = rng.choice((b"", b":x", b":marc", b":xsi"))
    declared = b" xmlns" + prefix + b'="' + rng.choice(_NAMESPACES) + b'"'
    if rng.random() < 0.5:
        return _NAMESPACE.sub(lambda _: rng.choice((b"", declared)), body, count=1)
    return _replace(rng, body, re.compile(rb"<[A-Za-z][\w:]*()"), declared)


def _change_encoding(rng: Random, body: bytes) -> bytes:
    said, meant = rng.choice(_ENCODINGS), rng.choice(_ENCODINGS)
    without = _DECLARATION.sub(b"", body, count=1)
    if rng.random() < 0.5:
        try:
            without = without.decode("utf-8", "ignore").encode(meant, "xmlcharrefreplace")
        except (LookupError, UnicodeError):
            said = meant
    declaration = f'<?xml version="1.0" encoding="{said}"?>'
    written = declaration.encode(meant if meant.startswith(("utf-16", "utf-32", "cp037")) else "ascii")
    return rng.choice((written, b"")) + without


def _add_declaration(rng: Random, body: bytes) -> bytes:
    internal = rng.choice((b"", b' [<!ENTITY e "eee"><!ENTITY f "&e;&e;">]', b' SYSTEM "file:///etc/passwd"'))
    start, _ = _element(rng, body)
    return body[:start] + b"<!DOCTYPE x" + internal + b">" + body[start:]


MUTATIONS: Sequence[Callable[[Random, bytes], bytes]] = (
    *(_flip_bytes, _insert, _insert, _cut, _cut_out),
    *(_remove_element, _repeat_element, _swap_elements, _move_element, _nest_element, _rename_element),
    *(_change_text, _change_text, _change_text, _change_value, _change_value),
    *(_change_namespace, _change_encoding, _add_declaration),
)


def spoilt(rng: Random, body: bytes) -> bytes:
    """`body` after a few mutations, at most `MOST_BYTES` long."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        body = rng.choice(MUTATIONS)(rng, body)[:MOST_BYTES]
    return body


def input_of(known: Sequence[Target], seed: int, number: int) -> tuple[Target, bytes]:
    """The input of this number, which is the same whenever it is made from the same documents."""
    rng = Random(f"{seed}:{number}")
    target = known[number % len(known)]
    return target, spoilt(rng, rng.choice(target.documents))


# The long run


@dataclass(frozen=True)
class Limits:
    """What an input may cost: processor time, memory beyond what unspoilt documents need, and time in which
    nothing at all happens."""

    seconds: float = 1.0
    mebibytes: float = 100.0
    silent_seconds: float = 20.0


@dataclass(frozen=True)
class Result:
    """How a run ended: by target, how many inputs there were and how many of them were read.

    `broken` says what went wrong with input `number`, None when nothing did.
    """

    inputs: Mapping[str, int] = field(default_factory=dict)
    read: Mapping[str, int] = field(default_factory=dict)
    slowest_ms: float = 0.0
    slowest_number: int = 0
    growth_mib: float = 0.0
    broken: str | None = None
    number: int | None = None


Inputs = Callable[[int], tuple[Target, bytes]]
"""The input of each number."""


def run(inputs: Inputs, numbers: range, limits: Limits, warm_up: Sequence[Target] = ()) -> Result:
    """Run these inputs in a process of its own, up to the first that breaks the promise.

    A reader that takes its whole process down, or never returns, is found as well. What the documents of
    `warm_up` need does not count as memory.
    """
    context = multiprocessing.get_context("fork")
    at_work = context.Value("q", numbers.start)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_all, args=(inputs, numbers, limits, warm_up, at_work, sender))
    child.start()
    sender.close()
    seen, since = numbers.start, time.monotonic()
    try:
        while time.monotonic() - since < limits.silent_seconds:
            if receiver.poll(0.1):
                result: Result = receiver.recv()
                return result
            if at_work.value != seen:
                seen, since = at_work.value, time.monotonic()
        broken = f"it has not come back for {limits.silent_seconds:.0f} s"
    except EOFError:
        broken = "it took its process down"
    finally:
        child.kill()
        child.join()
    return Result(broken=broken, number=at_work.value)


def _run_all(
    inputs: Inputs, numbers: range, limits: Limits, warm_up: Sequence[Target], at_work: Any, sender: Any
) -> None:
    for target in warm_up:
        for body in target.documents:
            read_or_refused(target, body)
    before = _peak_mib()
    seen, read = Counter[str](), Counter[str]()
    slowest = (0.0, numbers.start)

    def result(broken: str | None = None, number: int | None = None) -> Result:
        growth = _peak_mib() - before
        return Result(seen, read, 1000 * slowest[0], slowest[1], growth, broken, number)

    for number in numbers:
        at_work.value = number
        target, body = inputs(number)
        started = time.process_time()
        try:
            read[target.name] += read_or_refused(target, body)
        except Exception:
            sender.send(result(traceback.format_exc(), number))
            return
        took = time.process_time() - started
        seen[target.name] += 1
        slowest = max(slowest, (took, number))
        if took > limits.seconds:
            sender.send(result(f"it took {took:.1f} s of the processor", number))
            return
        if _peak_mib() - before > limits.mebibytes:
            sender.send(result(f"it took {_peak_mib() - before:.0f} MiB of memory", number))
            return
    sender.send(result())


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def long_run(known: Sequence[Target], seed: int, numbers: range, limits: Limits, out: TextIO) -> int:
    """Run the inputs and say how it went; the exit code."""
    out.write(f"seed {seed}, {len(numbers):,} inputs\n")
    out.flush()
    result = run(partial(input_of, known, seed), numbers, limits, known)
    for name, count in result.inputs.items():
        out.write(f"{name:>22}: {count:,} inputs, {result.read[name]:,} read, the others refused\n")
    out.write(f"slowest: input {result.slowest_number} in {result.slowest_ms:.0f} ms of the processor\n")
    out.write(f"peak memory: {result.growth_mib:.0f} MiB more than unspoilt documents need\n")
    if result.broken is None:
        return 0
    name = known[(result.number or 0) % len(known)].name
    out.write(f"BROKEN by input {result.number} of {name}: {result.broken}\n")
    out.write(f"Again: python -m tests.chaos.fuzzing --seed {seed} --only {result.number}\n")
    return 1


# The search that is guided by coverage

NO_ATHERIS = (
    "atheris is not installed: put it into this environment with `python -m pip install atheris`, "
    "which has wheels for CPython on Linux, and start again.\n"
)


def guided_run(known: Sequence[Target], inputs: int, seed: int, out: TextIO) -> int:
    """Let atheris choose the mutations by the code that they reach; the exit code."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        out.write(NO_ATHERIS)
        return 1

    def read_one(data: bytes) -> None:
        if data:
            read_or_refused(known[data[0] % len(known)], data[1:])

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if len(data) < 2:
            chosen = rng.randrange(len(known))
            data = bytes([chosen]) + rng.choice(known[chosen].documents)
        return (data[:1] + spoilt(rng, data[1:]))[:most]

    for module in ("xml", "marc", "items", "events", "text", "codes"):
        _instrument(atheris, sys.modules[f"accession.bibliotheca.{module}"])
    options = [sys.argv[0], f"-runs={inputs}", f"-seed={seed % 2**32}", f"-max_len={MOST_BYTES}"]
    atheris.Setup([*options, "-timeout=5", "-rss_limit_mb=1024"], read_one, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def _instrument(atheris: Any, module: ModuleType) -> None:
    for name, found in list(vars(module).items()):
        if isinstance(found, FunctionType) and found.__module__ == module.__name__:
            setattr(module, name, atheris.instrument_func(found))


def main(arguments: Sequence[str], out: TextIO) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fuzzing", description=__doc__)
    parser.add_argument("--inputs", type=int, default=50_000, help="How many inputs.")
    parser.add_argument("--seed", type=int, help="Of an earlier run, to have its inputs again.")
    parser.add_argument("--only", type=int, metavar="K", help="Run the input of this number alone.")
    parser.add_argument("--atheris", action="store_true", help="Search guided by coverage.")
    chosen = parser.parse_args(arguments)
    seed = SystemRandom().randrange(2**32) if chosen.seed is None else chosen.seed
    known = targets()
    if chosen.atheris:
        return guided_run(known, chosen.inputs, seed, out)
    first = 0 if chosen.only is None else chosen.only
    count = chosen.inputs if chosen.only is None else 1
    return long_run(known, seed, range(first, first + count), Limits(), out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout))
