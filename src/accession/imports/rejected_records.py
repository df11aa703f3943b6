"""Results of importing a rejected record again."""

from dataclasses import dataclass

from accession.core.clock import utc_now
from accession.db.models import RejectedRecord


@dataclass(frozen=True)
class RetryResult:
    """The result of a retry: a resolved record, or one that is still rejected.

    `outbox_ids` are the outbox rows to apply after the commit.
    """

    is_resolved: bool
    outbox_ids: tuple[int, ...] = ()


def keep_open(record: RejectedRecord, reason: str) -> RetryResult:
    """Leave the record open with the present reason of its rejection."""
    if record.reason != reason:
        record.reason = reason
    return RetryResult(is_resolved=False)


def resolve(record: RejectedRecord, outbox_ids: tuple[int, ...]) -> RetryResult:
    """Mark the record as resolved."""
    record.resolved_at = utc_now()
    return RetryResult(is_resolved=True, outbox_ids=outbox_ids)
