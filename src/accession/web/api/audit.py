"""API endpoint `/audit`: the audit log."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from accession.auth.audit import AuditEntryView, AuditFilter, audit_entries
from accession.db.engine import transaction
from accession.web.api.schemas import Page, problem_responses
from accession.web.parameters import NO_NUL, BigCursorId, Limit
from accession.web.principal import Administrator

router = APIRouter(prefix="/audit", tags=["administration"])


@router.get("", responses=problem_responses(403))
def list_audit_entries(
    _: Administrator,
    since: Annotated[AwareDatetime | None, Query(description="From then on.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before then.")] = None,
    actor: Annotated[str, Query(max_length=200, pattern=NO_NUL, description="Name of a user or token.")] = "",
    action: Annotated[
        str,
        Query(
            max_length=50,
            pattern=NO_NUL,
            description="An action such as `user.add`, or the part before the dot for all of them.",
        ),
    ] = "",
    subject: Annotated[
        str, Query(max_length=200, pattern=NO_NUL, description="Name or number of what was acted on.")
    ] = "",
    cursor: BigCursorId = None,
    limit: Limit = 50,
) -> Page[AuditEntryView]:
    """List the entries of the audit log, newest first."""
    with transaction() as session:
        entries = audit_entries(
            session,
            AuditFilter(since, until, actor, action, subject),
            before_id=cursor,
            limit=limit + 1,
        )
    return Page(items=entries[:limit], next=str(entries[limit - 1].id) if len(entries) > limit else None)
