"""Models by area. Importing the package registers every table with the metadata of `Base`."""

from accession.db.models.auth import ApiToken, User
from accession.db.models.base import Base, table_of
from accession.db.models.circulation import CirculationEvent
from accession.db.models.collections import Collection, Timestamp
from accession.db.models.counts import Counts, counted_on
from accession.db.models.runs import (
    ACTIVE_STATES,
    BEGUN_STATES,
    LookedUpTitle,
    Retry,
    Run,
    RunState,
    RunTotals,
    Sample,
    SweptBatch,
)
from accession.db.models.titles import (
    ApplyOutbox,
    Classification,
    Contribution,
    Contributor,
    Edition,
    Identifier,
    IdentifierEquivalent,
    LicensePool,
    Link,
    PoolStatus,
    PurchaseRecord,
    RejectedRecord,
    Subject,
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
    "Counts",
    "Edition",
    "Identifier",
    "IdentifierEquivalent",
    "LicensePool",
    "Link",
    "LookedUpTitle",
    "PoolStatus",
    "PurchaseRecord",
    "RejectedRecord",
    "Retry",
    "Run",
    "RunState",
    "RunTotals",
    "Sample",
    "Subject",
    "SweptBatch",
    "Timestamp",
    "TitleChange",
    "User",
    "counted_on",
    "table_of",
]
