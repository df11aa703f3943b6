"""Unchanged writes nothing: the database's own count of rows written is the witness."""

from datetime import timedelta

import time_machine
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from accession.catalog.apply import apply_outbox
from accession.db.models import Collection, LicensePool
from accession.imports.purchases import BibliothecaPurchaseRecordImporter
from accession.imports.vendor import api_for
from accession.imports.windows import Place
from tests.fixtures.factories import NOON, day, make_collection
from tests.fixtures.importers import rows_written
from tests.fixtures.vendor import Vendor, item, marc

FIRST, END = day(2024, 5, 1), day(2024, 5, 6)


def import_all(session: Session, collection: Collection) -> int:
    """Every page from the first day to the last, with its apply; returns how many records there were."""
    importer = BibliothecaPurchaseRecordImporter(session, collection, api_for(collection))
    place, fetched = Place(FIRST), 0
    while place.current_day < END:
        page = importer.import_page(place, END)
        session.commit()
        apply_outbox(session, page.outbox_ids)
        session.commit()
        fetched += page.records_fetched
        place = page.next
    return fetched


def sell(vendor: Vendor) -> None:
    """Five days of sales with everything that is out of the ordinary."""
    vendor.sold.clear()
    vendor.sells(FIRST, *(f"t{n:03}" for n in range(120)))
    vendor.sells(day(2024, 5, 2, 9), "t001", "twice", "twice", "no-metadata")
    vendor.sells(day(2024, 5, 4, 9), *(f"u{n}" for n in range(7)))
    vendor.sold.append((day(2024, 5, 4, 9), marc()))
    vendor.sold.append((day(2024, 5, 4, 9), marc("a", "b")))
    vendor.sold.append((day(2024, 5, 4, 9), marc("broken").replace('tag="245"', 'tag=""')))
    vendor.items["u3"] = item("u3", title="Without copies", owned=0, available=0)
    vendor.items["u5"] = item("u5", CoverLinkURL="https://images.example/delivery/img?type=DOCUMENTIMAGE")
    vendor.items["u4"] = item("u4", Authors="", ISBN13="", BookFormat="?", Genre="FICTION|Fantasy|,COOKING|")
    del vendor.items["no-metadata"]


def test_an_unchanged_collection_imported_again_writes_no_row(own: Engine, vendor: Vendor) -> None:
    sell(vendor)
    with own.connect() as writer, Session(writer) as session:
        collection = make_collection(session, "Alder Library")
        with time_machine.travel(NOON, tick=False):
            assert import_all(session, collection) == 134
        titles = session.scalar(select(func.count()).select_from(LicensePool))
        session.commit()
        before = rows_written(writer, own)

        for days in (1, 2):
            sell(vendor)  # The vendor stamps every record anew.
            with time_machine.travel(NOON + timedelta(days=days), tick=False):
                assert import_all(session, collection) == 134

        assert titles == 129
        assert {name for name, written in before.items() if not written} == {
            "circulation_events",
            "title_changes",
        }
        assert rows_written(writer, own) == before


def test_what_has_changed_alone_is_written(own: Engine, vendor: Vendor) -> None:
    sell(vendor)
    with own.connect() as writer, Session(writer) as session:
        collection = make_collection(session, "Alder Library")
        import_all(session, collection)
        before = rows_written(writer, own)

        vendor.items["t007"] = item("t007", title="Title t007", available=0)
        import_all(session, collection)

        after = rows_written(writer, own)
    # In the outbox a row was added and deleted.
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "title_changes": 1,
        "license_pools": 1,
        "apply_outbox": 2,
    }
