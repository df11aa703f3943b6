"""API endpoints under `/rejected-records`: list, show, retry and resolve rejected records."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, StringConstraints

from accession.catalog.rejected_records import (
    RejectedRecordView,
    find_rejected_record,
    rejected_record_views,
    resolve_rejected_record,
)
from accession.db.engine import transaction
from accession.tasks.rejected_records import retry_rejected
from accession.web.api.schemas import Page, problem_responses
from accession.web.parameters import CollectionFilter, Limit, Offset, RowId, collection_name
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/rejected-records", tags=["rejected records"])


class Resolution(BaseModel):
    """Why a rejected record needs no further work."""

    note: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]


@dataclass(frozen=True)
class RejectedRecordDetails:
    """A rejected record and its raw XML."""

    record: RejectedRecordView
    raw_xml: str


@dataclass(frozen=True)
class RetryResult:
    """Result of a retry; the reason of a record that was not imported has been updated."""

    imported: bool


@router.get("", responses=problem_responses(404))
def list_rejected_records(
    _: Viewer,
    collection: CollectionFilter = None,
    resolved: Annotated[bool, Query(description="Include resolved records.")] = False,
    cursor: Offset = 0,
    limit: Limit = 50,
) -> Page[RejectedRecordView]:
    """List rejected records, oldest first."""
    with transaction() as session:
        records = rejected_record_views(
            session,
            collection=collection_name(session, collection),
            with_resolved=resolved,
            limit=limit + 1,
            offset=cursor,
        )
    return Page.at_offset(cursor, limit, records)


@router.get("/{record_id}", responses=problem_responses(404))
def show_rejected_record(_: Viewer, record_id: RowId) -> RejectedRecordDetails:
    """Return a rejected record with its raw XML."""
    with transaction() as session:
        return RejectedRecordDetails(*find_rejected_record(session, record_id))


@router.post("/{record_id}/retry", responses=problem_responses(403, 404, 409, 502, 503))
def retry_rejected_record(_: Operator, record_id: RowId) -> RetryResult:
    """Import the record again; it is resolved if that succeeds."""
    return RetryResult(retry_rejected(record_id))


@router.post("/{record_id}/resolve", responses=problem_responses(403, 404, 409))
def resolve(_: Operator, record_id: RowId, resolution: Resolution) -> RejectedRecordView:
    """Resolve a record with a note, without importing it."""
    with transaction() as session:
        resolve_rejected_record(session, record_id, resolution.note)
        return find_rejected_record(session, record_id)[0]
