"""API endpoint `/audit`: the audit log."""

from typing import Annotated

from fastapi import APIRouter, Query

from accession.auth.audit import AuditEntryView, AuditFilter, audit_entries
from accession.db.engine import transaction
from accession.web.api.schemas import Page
from accession.web.parameters import NO_NUL, BigCursorId, Limit, Time
from accession.web.principal import Administrator

router = APIRouter(prefix="/audit", tags=["administration"])


@router.get("")
def list_audit_entries(
    _: Administrator,
    since: Annotated[Time | None, Query(description="From then on.")] = None,
    until: Annotated[Time | None, Query(description="Before then.")] = None,
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
    return Page.in_id_order(limit, entries)
