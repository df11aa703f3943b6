"""Kinds of events that rules select, and their severities."""

from collections.abc import Mapping
from enum import StrEnum


class EventKind(StrEnum):
    """Kind of event; the value is its name in rules."""

    RUN_FAILED = "run_failed"
    CREDENTIALS_REJECTED = "credentials_rejected"
    """A run failed because the vendor rejected the collection's credentials."""
    NO_SUCCESS = "no_success"
    """No run of a scheduled workflow has succeeded for some hours."""
    REJECTED_RECORDS = "rejected_records"
    """A collection has more open rejected records than a threshold."""
    PURCHASES_DIFFER = "purchases_differ"
    """Purchases have differed from the vendor's for longer than a daily import needs to repair them."""
    EXPORT_FAILED = "export_failed"
    DIGEST_FAILED = "digest_failed"
    """A digest has not reached one of its recipients."""
    PROCESS_MISSING = "process_missing"
    """No worker, or no scheduler, is running, or the broker does not respond."""
    DISK_NEARLY_FULL = "disk_nearly_full"
    WEBHOOK_PAUSED = "webhook_paused"
    """A webhook was paused, because its receiver has not accepted an event for days, or answered 410 Gone."""
    STILL_FAILING = "still_failing"
    """An event that was reported some hours ago still applies; repeated daily."""
    RECOVERED = "recovered"
    """An event that was reported no longer applies."""


class Severity(StrEnum):
    """Severity of an event, lowest first."""

    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Return the position in the order of severities."""
        return list(Severity).index(self)


# A message that a problem is still there, or over, has the severity of the problem.
SEVERITIES: Mapping[EventKind, Severity] = {
    EventKind.RUN_FAILED: Severity.ERROR,
    EventKind.CREDENTIALS_REJECTED: Severity.ERROR,
    EventKind.NO_SUCCESS: Severity.WARNING,
    EventKind.REJECTED_RECORDS: Severity.WARNING,
    EventKind.PURCHASES_DIFFER: Severity.WARNING,
    EventKind.EXPORT_FAILED: Severity.ERROR,
    EventKind.WEBHOOK_PAUSED: Severity.ERROR,
    EventKind.DIGEST_FAILED: Severity.WARNING,
    EventKind.PROCESS_MISSING: Severity.CRITICAL,
    EventKind.DISK_NEARLY_FULL: Severity.CRITICAL,
}
