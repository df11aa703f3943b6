"""OAI-PMH: the harvester Sickle gets every record, and pymarc reads them."""

from io import BytesIO
from typing import Any

import pymarc
import pytest
from lxml import etree
from sickle import Sickle
from sickle.models import Record

from tests.fixtures.imported_library import ImportedLibrary
from tests.fixtures.oai import MARC, vendor_id

# The server's; a harvest of the library needs several.
PAGE_SIZE = 100


@pytest.fixture
def harvester(library: ImportedLibrary) -> Sickle:
    headers = {"Authorization": f"Bearer {library.token}"}
    return Sickle(f"{library.base_url}/oai", headers=headers, encoding="utf-8")


def harvest(harvester: Sickle, metadata_format: str) -> dict[str, Record]:
    """Return all records by the vendor's id of their title."""
    records = list(harvester.ListRecords(metadataPrefix=metadata_format))
    assert len(records) > 2 * PAGE_SIZE, "it has followed resumption tokens"
    by_id = {vendor_id(record.header.identifier): record for record in records}
    assert len(by_id) == len(records)
    return by_id


def test_harvester_gets_title_of_every_dublin_core_record(
    harvester: Sickle, library: ImportedLibrary
) -> None:
    records = harvest(harvester, "oai_dc")
    titles = {name: record.metadata["title"][0] for name, record in records.items() if not record.deleted}
    assert {name: title.partition(": ")[0] for name, title in titles.items()} == {
        name: title.title.partition(": ")[0] for name, title in library.titles.items()
    }
    assert {name for name, record in records.items() if record.deleted} == library.withdrawn


def test_pymarc_reads_every_harvested_marc_record(harvester: Sickle, library: ImportedLibrary) -> None:
    records = harvest(harvester, "marc21")
    assert {name for name, record in records.items() if record.deleted} == library.withdrawn
    read = {name: marc_record(record) for name, record in records.items() if name not in library.withdrawn}
    assert {name: record["001"].data for name, record in read.items()} == {
        name: name for name in library.titles
    }
    assert all(record.title for record in read.values())


def marc_record(record: Record) -> pymarc.Record:
    parse: Any = pymarc.parse_xml_to_array
    (element,) = record.xml.iter(f"{MARC}record")
    parsed: pymarc.Record
    (parsed,) = parse(BytesIO(etree.tostring(element)))
    return parsed


def test_incremental_harvest_gets_what_changed(harvester: Sickle, library: ImportedLibrary) -> None:
    records = harvest(harvester, "oai_dc")
    latest = max(record.header.datestamp for record in records.values())
    changed = harvester.ListIdentifiers(metadataPrefix="oai_dc", **{"from": latest})
    assert {vendor_id(header.identifier) for header in changed} == {
        name for name, record in records.items() if record.header.datestamp == latest
    }
