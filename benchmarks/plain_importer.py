"""A plain importer to compare Accession with: one process, one request at a time, one day after another.

Each purchase record gets a metadata request, an apply and a transaction of its own. Client and catalogue are
Accession's, so that only the order of requests and writes differs.
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


def import_purchases(collection_id: int, since: datetime) -> None:
    """Import all purchases of a collection from `since`, a midnight (UTC), until now."""
    with transaction() as session:
        api = vendor_api_for(session.get_one(Collection, collection_id))
    start, now = since, truncate_to_second(utc_now())
    while start < now:
        end = min(start + timedelta(days=1), now)
        for record in _fetch_records(api, start, end):
            with transaction() as session:
                _import_record(session, session.get_one(Collection, collection_id), api, start, record)
        with transaction() as session:
            collection = session.get_one(Collection, collection_id)
            get_or_create_checkpoint(session, collection, Workflow.PURCHASES).finish = end
        start = end


def _fetch_records(api: BibliothecaAPI, start: datetime, end: datetime) -> Iterator[MarcRecord]:
    offset, is_full = 1, True
    while is_full:
        records = api.fetch_marc_page(start, end, offset).records
        yield from records
        offset, is_full = offset + PAGE_SIZE, len(records) >= PAGE_SIZE


def _import_record(
    session: Session, collection: Collection, api: BibliothecaAPI, day: datetime, record: MarcRecord
) -> None:
    if len(record.item_ids) != 1:
        return
    item_id = record.item_ids[0]
    pools = LicensePool.for_foreign_ids(
        session, DATA_SOURCE, IdentifierType.BIBLIOTHECA, [item_id], collection=collection
    )
    pool, _ = pools[item_id]
    stored = PurchaseRecordData(pool, record.as_marc21, record.content_hash())
    store_purchase_records(session, {PurchaseDate(day.date()): [stored]})
    for title in api.fetch_items([item_id]).titles:
        apply_outbox(session, enqueue_changes(session, [(pool, title)]))
