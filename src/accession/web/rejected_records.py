"""Actions on rejected records that pages and API offer, with their entries in the audit log."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from accession.auth.audit import ALL_OPEN_RECORDS, AuditAction, record
from accession.catalog.rejected_records import (
    find_rejected_record,
    open_rejected_record_ids,
    resolve_rejected_record,
    resolve_rejected_records,
)
from accession.db.engine import transaction
from accession.tasks.rejected_records import queue_retries, retry_rejected
from accession.web.parameters import collection_name
from accession.web.principal import Principal


@dataclass(frozen=True)
class OpenRecords:
    """Open records of one collection or all, rejected for one reason or any, up to the number `last_id`."""

    collection_id: int | None = None
    reason: str | None = None
    last_id: int | None = None

    def ids(self, session: Session) -> list[int]:
        """Return the numbers of the records.

        Raises:
            NotFound: no collection in use has this id.
        """
        collection = collection_name(session, self.collection_id)
        return open_rejected_record_ids(
            session, collection=collection, reason=self.reason, last_id=self.last_id
        )

    @property
    def subject(self) -> str:
        """Return what the audit log names the records."""
        return self.reason or ALL_OPEN_RECORDS


def retry_record(principal: Principal, record_id: int) -> bool:
    """Import a record again; return True if it succeeded, which resolves the record.

    Raises:
        UserError: there is no such record, or it is resolved.
        RemoteIntegrationException: the vendor's API failed.
    """
    with transaction() as session:
        find_rejected_record(session, record_id)
        record(session, principal.actor, AuditAction.REJECTED_RECORD_RETRY, str(record_id))
    return retry_rejected(record_id)


def retry_records(principal: Principal, selection: OpenRecords) -> int:
    """Queue the retry of the records, and return their number.

    Raises:
        NotFound: no collection in use has the id.
    """
    with transaction() as session:
        ids = selection.ids(session)
        collection = collection_name(session, selection.collection_id)
        details = {"records": len(ids), "collection": collection}
        record(session, principal.actor, AuditAction.REJECTED_RECORD_RETRY, selection.subject, details)
    queue_retries(ids)
    return len(ids)


def resolve_record(session: Session, principal: Principal, record_id: int, note: str) -> None:
    """Mark a record as resolved, with a note.

    Raises:
        NotFound: no collection in use has such a record.
        UserError: the record is already resolved.
    """
    resolve_rejected_record(session, record_id, note)
    record(session, principal.actor, AuditAction.REJECTED_RECORD_RESOLVE, str(record_id), {"note": note})


def resolve_records(session: Session, principal: Principal, selection: OpenRecords, note: str) -> int:
    """Mark the records as resolved, with a note, and return their number.

    Raises:
        NotFound: no collection in use has the id.
    """
    collection = collection_name(session, selection.collection_id)
    resolved = resolve_rejected_records(session, selection.ids(session), note)
    details = {"records": resolved, "collection": collection, "note": note}
    record(session, principal.actor, AuditAction.REJECTED_RECORD_RESOLVE, selection.subject, details)
    return resolved
