"""Reading what the vendor sends: milliseconds of the processor for a page of 50 purchase records and for 25
items, as the product reads them and as other readers do, and what each of those takes for a page.

Prints two tables, and as the last line the same figures as JSON. Run it with `python -m benchmarks.parsing`.
The documents are the sandbox's, ten of each kind. Real ones of the vendor's can be named instead: their
records are repeated up to a page, their items up to 25.
"""

import argparse
import importlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pymarc
from lxml import etree

from accession.bibliotheca.items import parse_items
from accession.bibliotheca.marc import MarcRecord, parse_marc_page
from accession.bibliotheca.xml import local_name, parse_document
from accession.core.marc21 import MARC_NAMESPACE
from accession.sandbox.catalogue import build_catalogue
from accession.sandbox.documents import error_document, item_documents, marc_collection

RECORDS, ITEMS = 50, 25
DOCUMENTS = 10
ROUNDS = 40
UNTIL = datetime(2024, 5, 1, tzinfo=UTC)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Documents:
    """What is read: pages of purchase records, and item documents."""

    pages: tuple[bytes, ...]
    items: tuple[bytes, ...]


@dataclass(frozen=True)
class Cost:
    """Milliseconds of the processor for one document; None for a reader that is not installed.

    Of each document the best of all rounds counts, and of all documents the mean.
    """

    document: str
    reader: str
    step: str
    milliseconds: float | None


@dataclass(frozen=True)
class Verdict:
    """What a reader makes of a body that is no whole page: how many records, None when it refuses it."""

    reader: str
    body: str
    records: int | None


def sandbox_documents() -> Documents:
    """Titles of a year, as the sandbox writes them."""
    since = UNTIL - timedelta(days=365)
    catalogue = build_catalogue(RECORDS * DOCUMENTS, since, UNTIL, seed=1)
    bought = [
        catalogue.page(since, UNTIL, offset=1 + RECORDS * number, limit=RECORDS)
        for number in range(DOCUMENTS)
    ]
    return Documents(
        tuple(marc_collection(page, "alder", UNTIL).encode() for page in bought),
        tuple(item_documents(page[:ITEMS], "alder").encode() for page in bought),
    )


def vendor_documents(paths: Sequence[Path]) -> Documents:
    """One page of the records in the files at `paths`, and one document of their items."""
    records: list[str] = []
    items: list[str] = []
    for path in paths:
        root = etree.fromstring(path.read_bytes())
        found = records if local_name(root) == "collection" else items
        found += (etree.tostring(each, encoding="unicode", with_tail=False) for each in root)
    page, listed = (
        "".join(islice(cycle(texts), most)) for texts, most in ((records, RECORDS), (items, ITEMS))
    )
    return Documents(
        (f'<collection xmlns="{MARC_NAMESPACE}">{page}</collection>'.encode(),),
        (f"<ArrayOfItem>{listed}</ArrayOfItem>".encode(),),
    )


def installed_mrrc() -> ModuleType | None:
    """The library, which Accession does not depend on."""
    try:
        return importlib.import_module("mrrc")
    except ImportError:
        return None


def product(body: bytes) -> Sequence[MarcRecord]:
    """All that the import does with a page that holds nothing new."""
    records = parse_marc_page(body).records
    for record in records:
        _ = record.item_ids
        record.content_hash()
    return records


def with_pymarc(body: bytes) -> Sequence[Any]:
    """pymarc's own reader of MARCXML."""
    parse: Callable[[io.BytesIO], Sequence[Any]] = pymarc.parse_xml_to_array
    return parse(io.BytesIO(body))


def with_lxml_for_ids(body: bytes) -> Sequence[Any]:
    """The product's strict XML, and of each record its 001 alone."""
    path = f"{{{MARC_NAMESPACE}}}controlfield[@tag='001']"
    return [record.findtext(path) for record in parse_document(body, "collection").root]


def fields_of(record: Any) -> list[Any]:
    """What a hash is made of, out of an mrrc record."""
    return [
        (field.tag, field.data)
        if field.is_control_field()
        else (field.tag, *field.indicators, *((part.code, part.value) for part in field.subfields()))
        for field in record.fields()
    ]


def record_costs(pages: Sequence[bytes], mrrc: ModuleType | None) -> Iterator[Cost]:
    """What a page costs, by the product's steps and by other readers."""

    def cost(reader: str, step: str, milliseconds: float | None) -> Cost:
        return Cost(f"{RECORDS} records", reader, step, milliseconds)

    parsed = [product(page) for page in pages]
    usable = [[record for record in records if record.fault is None] for records in parsed]
    xml, records, unchanged, pymarcs, ids = best(
        pages, lambda page: parse_document(page, "collection"), parse_marc_page, product, with_pymarc, with_lxml_for_ids
    )
    (binary,) = best(usable, lambda records: [record.as_marc21() for record in records])
    yield cost("product", "xml", xml)
    yield cost("product", "records", records - xml)
    yield cost("product", "ids and hash", unchanged - records)
    yield cost("product", "all, nothing new", unchanged)
    yield cost("product", "binary", binary)
    yield cost("product", "all, every record new", unchanged + binary)
    yield cost("lxml", "xml and 001 alone", ids)
    yield cost(f"pymarc {version('pymarc')}", "records", pymarcs)
    if mrrc is None:
        yield cost("mrrc", "records", None)
        return
    xml_to_records: Callable[[str], Any] = mrrc.xml_to_records
    mrrcs, read_out = best(
        pages,
        lambda page: xml_to_records(page.decode()),
        lambda page: [fields_of(record) for record in xml_to_records(page.decode())],
    )
    yield cost(f"mrrc {version('mrrc')}", "records", mrrcs)
    yield cost(f"mrrc {version('mrrc')}", "records, fields read", read_out)


def item_costs(documents: Sequence[bytes]) -> Iterator[Cost]:
    """What 25 items cost, by the product's steps."""

    def cost(step: str, milliseconds: float) -> Cost:
        return Cost(f"{ITEMS} items", "product", step, milliseconds)

    def unchanged(body: bytes) -> None:
        for title in parse_items(body, UNTIL).titles:
            title.bibliographic.content_hash()

    xml, titles, everything = best(
        documents,
        lambda body: parse_document(body, "ArrayOfItem"),
        lambda body: parse_items(body, UNTIL),
        unchanged,
    )
    yield cost("xml", xml)
    yield cost("titles", titles - xml)
    yield cost("hash", everything - titles)
    yield cost("all", everything)


def best(inputs: Sequence[_T], *readers: Callable[[_T], object]) -> list[float]:
    """Milliseconds of the processor for each of `readers`, which take turns: a machine is never quiet."""
    shortest = [[float("inf")] * len(inputs) for _ in readers]
    for _ in range(ROUNDS):
        for number, each in enumerate(inputs):
            for reader, times in zip(readers, shortest, strict=True):
                started = time.process_time()
                reader(each)
                times[number] = min(times[number], time.process_time() - started)
    return [1000 * sum(times) / len(times) for times in shortest]


def verdicts(page: bytes, mrrc: ModuleType | None) -> Iterator[Verdict]:
    """What the readers make of answers that the vendor has given, or that ended early."""
    readers: dict[str, Callable[[bytes], Sequence[Any]]] = {
        "product": lambda body: parse_marc_page(body).records,
        "pymarc": with_pymarc,
    }
    if mrrc is not None:
        xml_to_records: Callable[[str], Sequence[Any]] = mrrc.xml_to_records
        readers["mrrc"] = lambda body: xml_to_records(body.decode())
    first = page.index(b"record>") + len(b"record>")
    bodies = {
        "page cut after a record": page[: page.index(b"record>", first) + len(b"record>")],
        "error document": error_document("Authentication failed").encode(),
        "HTML page": b"<html><body>Down for maintenance</body></html>",
    }
    for name, reader in readers.items():
        for body_name, body in bodies.items():
            try:
                yield Verdict(name, body_name, len(reader(body)))
            # Whatever another library raises is a refusal.
            except Exception:
                yield Verdict(name, body_name, None)


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="Documents of the vendor's.")
    files: list[Path] = parser.parse_args().files
    documents = vendor_documents(files) if files else sandbox_documents()
    mrrc = installed_mrrc()
    costs = [*record_costs(documents.pages, mrrc), *item_costs(documents.items)]
    seen = list(verdicts(documents.pages[0], mrrc))
    for each in costs:
        shown = "not installed" if each.milliseconds is None else f"{each.milliseconds:.2f} ms"
        print(f"{each.document:>10}  {each.reader:<12}  {each.step:<21}  {shown:>13}")
    print()
    for verdict in seen:
        taken = "refused" if verdict.records is None else f"read as {verdict.records} records"
        print(f"{verdict.body:>23}  {verdict.reader:<12}  {taken}")
    print(
        json.dumps({"costs": [asdict(each) for each in costs], "verdicts": [asdict(each) for each in seen]})
    )


if __name__ == "__main__":
    main()
