"""Models by area. Importing this package registers every table in the metadata of `Base`."""

from accession.db.models.auth import ApiToken, User
from accession.db.models.base import Base, table_of
from accession.db.models.circulation import CirculationEvent
from accession.db.models.collections import Collection, Timestamp
from accession.db.models.counts import CopyCounts, counts_after_events
from accession.db.models.editions import Classification, Contribution, Contributor, Edition, Link, Subject
from accession.db.models.runs import (
    ACTIVE_STATES,
    BEGUN_STATES,
    LookedUpTitle,
    Run,
    RunRetry,
    RunSample,
    RunState,
    RunTotals,
    SweptBatch,
)
from accession.db.models.titles import (
    ApplyOutbox,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    PoolStatus,
    PurchaseRecord,
    RejectedRecord,
    TitleChange,
)

__all__ = [
    "ACTIVE_STATES",
    "BEGUN_STATES",
    "ApiToken",
    "ApplyOutbox",
    "Base",
    "CirculationEvent",
    "Classification",
    "Collection",
    "Contribution",
    "Contributor",
    "CopyCounts",
    "Edition",
    "Identifier",
    "IdentifierEquivalent",
    "LicensePool",
    "Link",
    "LookedUpTitle",
    "PoolStatus",
    "PurchaseRecord",
    "RejectedRecord",
    "Run",
    "RunRetry",
    "RunSample",
    "RunState",
    "RunTotals",
    "Subject",
    "SweptBatch",
    "Timestamp",
    "TitleChange",
    "User",
    "counts_after_events",
    "table_of",
]
