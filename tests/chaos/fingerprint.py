"""What a catalogue holds, put so that two imports of the same vendor can be compared."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import Session

from accession.catalog.models import (
    ApplyOutbox,
    Base,
    CirculationEvent,
    Classification,
    Contribution,
    Contributor,
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    Link,
    PurchaseRecord,
    RejectedRecord,
    Subject,
    Timestamp,
)

Fingerprint = Mapping[str, Sequence[str]]

# Row ids, when a row was written, and the vendor's stamps in what it sent.
_VOLATILE = {
    *(
        "id",
        "created_at",
        "updated_at",
        "as_of",
        "circulation_as_of",
        "resolved_at",
        "published_at",
        "finish",
    ),
    *("marc", "raw_xml"),
}

# Whether an event was past at a snapshot, and what of the counts is a snapshot, depends on which came first,
# and so do copies reserved, of which events alone tell.
_OF_THE_ORDER = {
    *("counted", "licenses_reserved"),
    *("snapshot_owned", "snapshot_available", "snapshot_reserved", "snapshot_holds"),
}


def fingerprint(session: Session, *, in_order: bool = False) -> Fingerprint:
    """Everything that catalogue, checkpoints and rejected records of the only collection say, by kind.

    Equal for two imports of one vendor that ended with a whole sweep, however they came about. With
    `in_order` also what depends on the order of the workflows: they ran one after the other.
    """
    left_out = _VOLATILE if in_order else _VOLATILE | _OF_THE_ORDER

    def said(model: type[Base]) -> list[ColumnElement[Any]]:
        columns = model.__table__.columns
        return [c for c in columns if c.name not in left_out and not _is_reference(c.name)]

    title = Identifier.identifier
    pools = select(title).join(LicensePool, LicensePool.identifier_id == Identifier.id)
    editions = select(title).join(Edition, Edition.identifier_id == Identifier.id)
    equivalents = select(title).join(
        IdentifierEquivalent, IdentifierEquivalent.equivalent_id == Identifier.id
    )
    queries: Mapping[str, Select[Any]] = {
        "pools": pools.add_columns(*said(LicensePool)),
        "purchase records": pools.join(PurchaseRecord).add_columns(*said(PurchaseRecord)),
        "events": pools.join(CirculationEvent).add_columns(*said(CirculationEvent)),
        "editions": editions.add_columns(*said(Edition)),
        "contributions": editions.join(Contribution)
        .join(Contributor)
        .add_columns(*said(Contribution), *said(Contributor)),
        "classifications": editions.join(Classification)
        .join(Subject)
        .add_columns(*said(Classification), *said(Subject)),
        "links": editions.join(Link).add_columns(*said(Link)),
        "equivalents": equivalents.add_columns(*said(IdentifierEquivalent)),
        "identifiers": select(*said(Identifier)),
        "rejected records": select(*said(RejectedRecord), RejectedRecord.resolved_at.is_(None)),
        "checkpoints": select(*said(Timestamp), Timestamp.finish.is_(None)),
        "left to apply": select(*said(ApplyOutbox)),
    }
    return {
        name: sorted(json.dumps(tuple(row), default=str) for row in session.execute(query))
        for name, query in queries.items()
    }


def _is_reference(name: str) -> bool:
    return name.endswith("_id") and name != "event_id"


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


def _without(lines: Sequence[str], others: Sequence[str]) -> list[str]:
    return sorted((Counter(lines) - Counter(others)).elements())
