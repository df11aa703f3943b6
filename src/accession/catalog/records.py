"""Purchase records as the vendor sent them: stored where they can be used, kept as rejected where not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.catalog.ledger import Workflow
from accession.catalog.models import Collection, LicensePool, PurchaseRecord, RejectedRecord
from accession.clock import utc_now


@dataclass(frozen=True)
class StoredRecord:
    """A purchase record for a pool: the day of the purchase (UTC), what makes the record as binary MARC 21,
    and a hash that is the same for every copy of the record that says the same. `marc` is called only for
    a record that is written."""

    pool: LicensePool
    purchased_on: date
    marc: Callable[[], bytes]
    content_hash: str


@dataclass(frozen=True)
class Rejection:
    """A record of the vendor's that cannot be used, and why."""

    reason: str
    raw_xml: str
    content_hash: str


def store_purchase_records(session: Session, records: Sequence[StoredRecord]) -> None:
    """Afterwards each pool has its record under its day; a record that says the same is not written."""
    latest = {(record.pool.id, record.purchased_on): record for record in records}
    key = (PurchaseRecord.license_pool_id, PurchaseRecord.purchased_on)
    query = select(*key, PurchaseRecord.content_hash).where(
        PurchaseRecord.license_pool_id.in_({pool_id for pool_id, _ in latest})
    )
    stored = {(pool_id, day): known for pool_id, day, known in session.execute(query)}
    rows: list[dict[str, Any]] = [
        {
            "license_pool_id": pool_id,
            "purchased_on": day,
            "marc": record.marc(),
            "content_hash": record.content_hash,
        }
        for (pool_id, day), record in sorted(latest.items(), key=lambda item: item[0])
        if stored.get((pool_id, day)) != record.content_hash
    ]
    if rows:
        statement = insert(PurchaseRecord).values(rows)
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["license_pool_id", "purchased_on"],
                set_={
                    "marc": statement.excluded.marc,
                    "content_hash": statement.excluded.content_hash,
                },
            )
        )


def keep_rejected(
    session: Session,
    collection: Collection,
    purchased_on: date,
    rejections: Sequence[Rejection],
    workflow: Workflow = Workflow.PURCHASES,
) -> None:
    """Afterwards each rejection of the day (UTC) is kept once, however often the vendor sends it."""
    if not rejections:
        return
    rows = {
        rejection.content_hash: {
            "collection_id": collection.id,
            "workflow": workflow.value,
            "purchased_on": purchased_on,
            "reason": rejection.reason,
            "raw_xml": rejection.raw_xml,
            "content_hash": rejection.content_hash,
            "created_at": utc_now(),
        }
        for rejection in rejections
    }
    query = select(RejectedRecord.content_hash).filter_by(
        collection_id=collection.id, purchased_on=purchased_on
    )
    known = set(session.scalars(query.where(RejectedRecord.content_hash.in_(rows))))
    if new := [row for content_hash, row in sorted(rows.items()) if content_hash not in known]:
        session.execute(insert(RejectedRecord).values(new).on_conflict_do_nothing())
