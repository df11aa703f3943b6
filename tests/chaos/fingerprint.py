"""What a catalogue holds, put so that two imports of the same vendor can be compared."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from accession.catalog.ledger import Workflow, timestamp
from accession.catalog.models import (
    ApplyOutbox,
    CirculationEvent,
    Collection,
    Edition,
    Identifier,
    LicensePool,
    PurchaseRecord,
    RejectedRecord,
)
from accession.catalog.queries import title_views

Fingerprint = Mapping[str, Sequence[str]]

# Moments differ from one import to the next. Copies reserved are known from events alone, so they depend on
# whether a title was first told by an event or by a purchase.
_NOT_COMPARED = {"collection", "updated_at", "licenses_reserved"}


def fingerprint(session: Session, collection: Collection) -> Fingerprint:
    """Everything that the collection's catalogue, checkpoints and rejected records say, by kind.

    Equal for two imports of one vendor that ended with a whole sweep, however they came about.
    """
    pools = (
        select(Identifier.identifier)
        .join(LicensePool, LicensePool.identifier_id == Identifier.id)
        .where(LicensePool.collection_id == collection.id)
    )
    records = pools.join(PurchaseRecord, PurchaseRecord.license_pool_id == LicensePool.id)
    events = pools.join(CirculationEvent, CirculationEvent.license_pool_id == LicensePool.id)
    rejected = select(RejectedRecord).where(RejectedRecord.collection_id == collection.id)
    waiting = select(ApplyOutbox.id).join(ApplyOutbox.license_pool)
    rows: Mapping[str, Iterable[Any]] = {
        "titles": (_title(view) for view in title_views(session, collection=collection.name)),
        "editions": session.execute(
            pools.join(Edition, Edition.identifier_id == Identifier.id).add_columns(
                Edition.content_hash, Edition.subtitle, Edition.on_sale
            )
        ),
        "purchase records": session.execute(
            records.add_columns(
                PurchaseRecord.purchased_on, PurchaseRecord.content_hash, func.length(PurchaseRecord.marc)
            )
        ),
        "events": session.execute(
            events.add_columns(
                CirculationEvent.event_id, CirculationEvent.event_type, CirculationEvent.occurred_at
            )
        ),
        "rejected records": (
            (r.workflow, r.purchased_on, r.reason, r.content_hash, r.resolved_at)
            for r in session.scalars(rejected)
        ),
        "sweep's counter": [timestamp(session, collection, Workflow.CIRCULATION).counter],
        "left to apply": session.scalars(waiting.where(LicensePool.collection_id == collection.id)),
    }
    return {name: sorted(map(_line, found)) for name, found in rows.items()}


def difference(expected: Fingerprint, found: Fingerprint) -> list[str]:
    """What is missing, and what should not be there or stands there twice, a line each."""
    told = []
    for name, lines in expected.items():
        told += [f"{name}: missing {line}" for line in _without(lines, found[name])]
        told += [f"{name}: too much {line}" for line in _without(found[name], lines)]
    return told


def digest(found: Fingerprint) -> str:
    """The fingerprint as twelve characters."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


def _title(view: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(view).items() if name not in _NOT_COMPARED}


def _line(row: Any) -> str:
    return json.dumps(tuple(row) if isinstance(row, Row) else row, default=str)


def _without(lines: Sequence[str], others: Sequence[str]) -> list[str]:
    return sorted((Counter(lines) - Counter(others)).elements())
