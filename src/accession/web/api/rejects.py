"""`/api/v1/rejected-records`: what could not be used, another try, and an end to it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, StringConstraints

from accession.catalog.rejected_records import RejectView, reject_view, reject_views, resolve_rejected
from accession.db.engine import transaction
from accession.tasks.rejects import retry_rejected
from accession.web.access import Operator, Viewer
from accession.web.api.answers import CollectionId, Id, Limit, Page, problems
from accession.web.lists import name_of

router = APIRouter(prefix="/rejected-records", tags=["rejected records"])


class Resolution(BaseModel):
    """Why nothing more is to be done about a record."""

    note: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]


@dataclass(frozen=True)
class RejectDetails:
    """A rejected record, and what the vendor sent."""

    record: RejectView
    raw_xml: str


@dataclass(frozen=True)
class Retried:
    """Whether the record has passed; if not, it has the reason of now."""

    passed: bool


@router.get("", responses=problems(404))
def list_rejected(
    _: Viewer,
    collection: CollectionId = None,
    resolved: Annotated[bool, Query(description="Also those that are resolved.")] = False,
    cursor: Annotated[int, Query(ge=0, le=10**9, description="`next` of the page before.")] = 0,
    limit: Limit = 50,
) -> Page[RejectView]:
    """Rejected records, oldest first."""
    with transaction() as session:
        found = reject_views(
            session,
            collection=name_of(session, collection),
            with_resolved=resolved,
            limit=limit + 1,
            offset=cursor,
        )
    return Page(items=found[:limit], next=str(cursor + limit) if len(found) > limit else None)


@router.get("/{record_id}", responses=problems(404))
def show_rejected(_: Viewer, record_id: Id) -> RejectDetails:
    """A rejected record as the vendor sent it."""
    with transaction() as session:
        return RejectDetails(*reject_view(session, record_id))


@router.post("/{record_id}/retry", responses=problems(403, 409, 502, 503))
def retry(_: Operator, record_id: Id) -> Retried:
    """Run the record through the import again; one that passes is resolved."""
    return Retried(retry_rejected(record_id))


@router.post("/{record_id}/resolve", responses=problems(403, 404, 409))
def resolve(_: Operator, record_id: Id, resolution: Resolution) -> RejectView:
    """Resolve a record by a note: nothing more is to be done about it."""
    with transaction() as session:
        resolve_rejected(session, record_id, resolution.note)
        return reject_view(session, record_id)[0]
