"""What a straightforward importer does: one process, one request at a time, a day after another, and for
each purchase record a look-up and an apply of its own. The others are compared with it.

It is made of the product's own client and catalogue, so that nothing differs but the way of asking and
storing.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from accession.bibliotheca.client import PAGE_SIZE, BibliothecaAPI
from accession.bibliotheca.items import DATA_SOURCE
from accession.bibliotheca.marc import MarcRecord
from accession.catalog.apply import apply_outbox
from accession.catalog.outbox import enqueue_changes
from accession.catalog.purchase_dates import PurchaseDate
from accession.catalog.purchase_records import PurchaseRecordData, store_purchase_records
from accession.core.clock import truncate_to_second, utc_now
from accession.core.vocabulary import IdentifierType
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection, LicensePool
from accession.imports.vendor_api import vendor_api_for
from accession.runs.ledger import get_or_create_checkpoint


def import_plainly(collection_id: int, began: datetime) -> None:
    """Import every purchase of the collection since `began`, a midnight (UTC)."""
    with transaction() as session:
        api = vendor_api_for(session.get_one(Collection, collection_id))
    now = truncate_to_second(utc_now())
    while began < now:
        end = min(began + timedelta(days=1), now)
        for record in _records(api, began, end):
            with transaction() as session:
                _import_record(session, session.get_one(Collection, collection_id), api, began, record)
        with transaction() as session:
            checkpoint = get_or_create_checkpoint(session, session.get_one(Collection, collection_id), Workflow.PURCHASES)
            checkpoint.finish = end
        began = end


def _records(api: BibliothecaAPI, start: datetime, end: datetime) -> Iterator[MarcRecord]:
    offset, full = 1, True
    while full:
        records = api.fetch_marc_page(start, end, offset).records
        yield from records
        offset, full = offset + PAGE_SIZE, len(records) >= PAGE_SIZE


def _import_record(
    session: Session, collection: Collection, api: BibliothecaAPI, day: datetime, record: MarcRecord
) -> None:
    if len(record.item_ids) != 1:
        return
    item_id = record.item_ids[0]
    pool, _ = LicensePool.for_foreign_id(
        session, DATA_SOURCE, IdentifierType.BIBLIOTHECA, item_id, collection=collection
    )
    stored = PurchaseRecordData(pool, record.as_marc21, record.content_hash())
    store_purchase_records(session, PurchaseDate(day.date()), [stored])
    for title in api.fetch_items([item_id]).titles:
        apply_outbox(session, enqueue_changes(session, [(pool, title)]))
