"""Tests of repeated imports: PostgreSQL's row statistics show that unchanged titles are not written."""

from datetime import timedelta

import time_machine
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from accession.db.models import Collection, LicensePool
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor_api import vendor_api_for
from accession.imports.windows import ImportCursor
from tests.fixtures.factories import NOON, day, make_collection
from tests.fixtures.holdings import commit_and_apply
from tests.fixtures.importers import count_written_rows
from tests.fixtures.vendor import ScriptedVendor, item, marc

FIRST, END = day(2024, 5, 1), day(2024, 5, 6)
RECORDS = 134


def import_all_pages(session: Session, collection: Collection) -> int:
    """Import and apply every page of the five days; return the number of records."""
    importer = BibliothecaPurchaseRecordImporter(session, collection, vendor_api_for(collection))
    cursor, records = ImportCursor(FIRST), 0
    while cursor.current_day < END:
        page = importer.import_day(cursor, END)
        commit_and_apply(session, page.outbox_ids)
        records += page.records_fetched
        cursor = page.next_cursor
    return records


def add_unusual_purchases(vendor: ScriptedVendor) -> None:
    """Replace the vendor's purchases by those of five days, unusual and invalid ones among them."""
    vendor.purchases.clear()
    vendor.add_purchases(FIRST, *(f"t{n:03}" for n in range(120)))
    vendor.add_purchases(day(2024, 5, 2, 9), "t001", "twice", "twice", "no-metadata")
    vendor.add_purchases(day(2024, 5, 4, 9), *(f"u{n}" for n in range(7)))
    vendor.purchases.append((day(2024, 5, 4, 9), marc()))
    vendor.purchases.append((day(2024, 5, 4, 9), marc("a", "b")))
    vendor.purchases.append((day(2024, 5, 4, 9), marc("in-part").replace('tag="245"', 'tag=""')))
    vendor.items["u3"] = item("u3", title="Without copies", owned=0, available=0)
    vendor.items["u5"] = item("u5", CoverLinkURL="https://images.example/delivery/img?type=DOCUMENTIMAGE")
    vendor.items["u4"] = item("u4", Authors="", ISBN13="", BookFormat="?", Genre="FICTION|Fantasy|,COOKING|")
    del vendor.items["no-metadata"]


def test_reimport_of_unchanged_titles_writes_no_row(
    isolated_database: Engine, vendor: ScriptedVendor
) -> None:
    add_unusual_purchases(vendor)
    with isolated_database.connect() as writer, Session(writer) as session:
        collection = make_collection(session, "Alder Library")
        with time_machine.travel(NOON, tick=False):
            assert import_all_pages(session, collection) == RECORDS
        titles = session.scalar(select(func.count()).select_from(LicensePool))
        session.commit()
        before = count_written_rows(writer, isolated_database)

        for days in (1, 2):
            add_unusual_purchases(vendor)  # The same records with new time stamps.
            with time_machine.travel(NOON + timedelta(days=days), tick=False):
                assert import_all_pages(session, collection) == RECORDS

        assert titles == 130
        assert {name for name, written in before.items() if not written} == {
            "circulation_events",
            "title_changes",
        }
        assert count_written_rows(writer, isolated_database) == before


def test_reimport_writes_only_the_changed_title(isolated_database: Engine, vendor: ScriptedVendor) -> None:
    add_unusual_purchases(vendor)
    with isolated_database.connect() as writer, Session(writer) as session:
        collection = make_collection(session, "Alder Library")
        import_all_pages(session, collection)
        before = count_written_rows(writer, isolated_database)

        vendor.items["t007"] = item("t007", title="Title t007", available=0)
        import_all_pages(session, collection)

        after = count_written_rows(writer, isolated_database)
    # The outbox row is inserted and deleted.
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "title_changes": 1,
        "license_pools": 1,
        "apply_outbox": 2,
    }
