"""Models by area. Importing this package registers every table in the metadata of `Base`."""

from accession.db.models.audit import AuditEntry, ProcessSettings
from accession.db.models.auth import ApiToken, User
from accession.db.models.base import Base, table_of
from accession.db.models.circulation import (
    CirculationEvent,
    CirculationMonth,
    CirculationTotal,
    CollectionOverlap,
    StatisticsState,
    TitleGroup,
    TitleStatistics,
)
from accession.db.models.collections import Collection, Timestamp, WorkflowSchedule
from accession.db.models.counts import CopyCounts, counts_after_events
from accession.db.models.editions import Classification, Contribution, Contributor, Edition, Link, Subject
from accession.db.models.feeds import OaiRepository
from accession.db.models.notifications import (
    DeliveryState,
    Notification,
    NotificationChannel,
    NotificationEvent,
    NotificationIncident,
    NotificationRule,
)
from accession.db.models.runs import (
    ACTIVE_STATES,
    BEGUN_STATES,
    Run,
    RunDay,
    RunRetry,
    RunSample,
    RunState,
    RunSums,
    RunTitle,
    RunTotals,
    SweptBatch,
    WorkflowPause,
)
from accession.db.models.storage import Pruning, TableSize
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
    "AuditEntry",
    "Base",
    "CirculationEvent",
    "CirculationMonth",
    "CirculationTotal",
    "Classification",
    "Collection",
    "CollectionOverlap",
    "Contribution",
    "Contributor",
    "CopyCounts",
    "DeliveryState",
    "Edition",
    "FindingKind",
    "Identifier",
    "IdentifierEquivalent",
    "LicensePool",
    "Link",
    "ListedRecord",
    "Notification",
    "NotificationChannel",
    "NotificationEvent",
    "NotificationIncident",
    "NotificationRule",
    "OaiRepository",
    "PoolStatus",
    "ProcessSettings",
    "Pruning",
    "PurchaseRecord",
    "RejectedRecord",
    "Run",
    "RunDay",
    "RunRetry",
    "RunSample",
    "RunState",
    "RunSums",
    "RunTitle",
    "RunTotals",
    "StatisticsState",
    "Subject",
    "SweptBatch",
    "TableSize",
    "Timestamp",
    "TitleChange",
    "TitleGroup",
    "TitleStatistics",
    "UndatedRecord",
    "User",
    "VerificationFinding",
    "VerifiedMonth",
    "WorkflowPause",
    "WorkflowSchedule",
    "counts_after_events",
    "table_of",
]
