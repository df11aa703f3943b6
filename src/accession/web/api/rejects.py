"""API endpoints under `/rejected-records`: list, show, retry and resolve rejected records."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, StringConstraints

from accession.catalog.record_diff import RecordDiff, diff_with_stored_record
from accession.catalog.rejected_records import (
    OpenReason,
    RejectedRecordView,
    find_rejected_record,
    open_rejection_reasons,
    rejected_record_views,
)
from accession.db.engine import transaction
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body, Page
from accession.web.parameters import (
    MAX_ID,
    NO_NUL,
    CollectionFilter,
    Day,
    Flag,
    Limit,
    Offset,
    RejectionReason,
    RowId,
    collection_name,
)
from accession.web.principal import Operator, Viewer
from accession.web.rejected_records import (
    OpenRecords,
    resolve_record,
    resolve_records,
    retry_record,
    retry_records,
)

router = APIRouter(prefix="/rejected-records", tags=["rejected records"])


Note = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=NO_NUL)]
Reason = Annotated[str, Field(max_length=2000, pattern=NO_NUL, description="One of `/reasons`.")]


class Resolution(Body):
    """Why a rejected record needs no further work."""

    note: Note


class RejectedRecordSelection(Body):
    """A selection of open records; fields that are left out select all."""

    collection_id: int | None = Field(None, ge=1, le=MAX_ID)
    reason: Reason | None = None
    last_id: int | None = Field(None, ge=1, le=MAX_ID, description="Not those that were rejected later.")

    @property
    def records(self) -> OpenRecords:
        """Return the selected records."""
        return OpenRecords(self.collection_id, self.reason, self.last_id)


class BulkResolution(RejectedRecordSelection):
    """A selection of open records, and why they need no further work."""

    note: Note


class QueuedRetries(BaseModel):
    """Result of a bulk retry, which continues on the workers."""

    queued: int


class ResolvedRecords(BaseModel):
    """Result of a bulk resolution."""

    resolved: int


@dataclass(frozen=True)
class RejectedRecordDetails:
    """A rejected record, its raw XML, and how it differs from the record that is stored for its title."""

    record: RejectedRecordView
    raw_xml: str
    diff: RecordDiff | None


@dataclass(frozen=True)
class RetryResult:
    """Result of a retry; the reason of a record that was not imported has been updated."""

    imported: bool


@router.get("", responses=problem_responses(404))
def list_rejected_records(
    _: Viewer,
    collection: CollectionFilter = None,
    resolved: Annotated[Flag, Query(description="Include resolved records.")] = False,
    reason: Annotated[
        RejectionReason, Query(description="Only with this reason, as `/reasons` writes it.")
    ] = "",
    received_from: Annotated[Day | None, Query(description="Only records received since this day.")] = None,
    cursor: Offset = 0,
    limit: Limit = 50,
) -> Page[RejectedRecordView]:
    """List rejected records, oldest first."""
    with transaction() as session:
        records = rejected_record_views(
            session,
            collection=collection_name(session, collection),
            with_resolved=resolved,
            reason=reason or None,
            received_from=received_from,
            limit=limit + 1,
            offset=cursor,
        )
    return Page.at_offset(cursor, limit, records)


@router.get("/reasons", responses=problem_responses(404))
def list_rejection_reasons(_: Viewer, collection: CollectionFilter = None) -> list[OpenReason]:
    """List the reasons of open records, most frequent first; what they quote from a record is left out."""
    with transaction() as session:
        return open_rejection_reasons(session, collection=collection_name(session, collection))


@router.post("/retry", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(404))
def retry_rejected_records(operator: Operator, selection: RejectedRecordSelection) -> QueuedRetries:
    """Queue the retry of all open records of a selection."""
    return QueuedRetries(queued=retry_records(operator, selection.records))


@router.post("/resolve", responses=problem_responses(404))
def resolve_rejected_records(operator: Operator, resolution: BulkResolution) -> ResolvedRecords:
    """Resolve all open records of a selection with a note, without importing them."""
    with transaction() as session:
        resolved = resolve_records(session, operator, resolution.records, resolution.note)
    return ResolvedRecords(resolved=resolved)


@router.get("/{record_id:int}", responses=problem_responses(404))
def show_rejected_record(_: Viewer, record_id: RowId) -> RejectedRecordDetails:
    """Return a rejected record with its raw XML."""
    with transaction() as session:
        view, raw_xml = find_rejected_record(session, record_id)
        return RejectedRecordDetails(view, raw_xml, diff_with_stored_record(session, record_id))


@router.post("/{record_id:int}/retry", responses=problem_responses(404, 409, 502))
def retry_rejected_record(operator: Operator, record_id: RowId) -> RetryResult:
    """Import the record again; it is resolved if that succeeds."""
    return RetryResult(retry_record(operator, record_id))


@router.post("/{record_id:int}/resolve", responses=problem_responses(404, 409))
def resolve_rejected_record(
    operator: Operator, record_id: RowId, resolution: Resolution
) -> RejectedRecordView:
    """Resolve a record with a note, without importing it."""
    with transaction() as session:
        resolve_record(session, operator, record_id, resolution.note)
        return find_rejected_record(session, record_id)[0]
