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
    Run,
    RunRetry,
    RunSample,
    RunState,
    RunTitle,
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
from accession.db.models.verification import (
    FindingKind,
    ListedRecord,
    UndatedRecord,
    VerificationFinding,
    VerifiedMonth,
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
    "FindingKind",
    "Identifier",
    "IdentifierEquivalent",
    "LicensePool",
    "Link",
    "ListedRecord",
    "PoolStatus",
    "PurchaseRecord",
    "RejectedRecord",
    "Run",
    "RunRetry",
    "RunSample",
    "RunState",
    "RunTitle",
    "RunTotals",
    "Subject",
    "SweptBatch",
    "Timestamp",
    "TitleChange",
    "UndatedRecord",
    "User",
    "VerificationFinding",
    "VerifiedMonth",
    "counts_after_events",
    "table_of",
]
