"""API endpoints of the verification of past months: its results, its findings, and starting one."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from accession.accounts.collections import get_collection
from accession.auth.audit import AuditAction, record
from accession.catalog.verification import FindingView, finding_views
from accession.db.engine import transaction
from accession.imports.verification_summary import VerificationSummary, verification_summary
from accession.tasks import verification
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body, Page, StartedRuns
from accession.web.parameters import Flag, Limit, Month, Offset, RowId
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/collections/{collection_id:int}/verification", tags=["verification"])


class NewVerification(Body):
    """Months to verify, and how."""

    first_month: Month | None = Field(None, description="First month, such as 2019-03; null for no limit.")
    last_month: Month | None = Field(None, description="Last month, such as 2019-03; null for no limit.")
    days: bool = Field(False, description="Also compare each day with purchases.")
    repair: bool = Field(
        False, description="Import missing purchases, and remove moved ones from their old date."
    )


@router.get("", responses=problem_responses(404))
def show_verification(
    _: Viewer,
    collection_id: RowId,
    first_month: Annotated[Month | None, Query(description="First month of the cost.")] = None,
    last_month: Annotated[Month | None, Query(description="Last month of the cost.")] = None,
) -> VerificationSummary:
    """Return when each month was verified, and how many requests a verification needs."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        return verification_summary(session, collection, first_month=first_month, last_month=last_month)


@router.post("", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(404, 409))
def start_verification(operator: Operator, collection_id: RowId, new: NewVerification) -> StartedRuns:
    """Start a verification. If another one is in progress, the worker drops this one."""
    with transaction() as session:
        name = get_collection(session, collection_id).name
        options = {
            "from": new.first_month,
            "to": new.last_month,
            "days": new.days,
            "repair": new.repair,
        }
        record(session, operator.actor, AuditAction.RUN_VERIFY, name, options)
    return StartedRuns(
        task_ids=verification.start_verification(
            [collection_id],
            first_month=new.first_month,
            last_month=new.last_month,
            with_days=new.days,
            repairs=new.repair,
        )
    )


@router.get("/findings", responses=problem_responses(404))
def list_verification_findings(
    _: Viewer,
    collection_id: RowId,
    resolved: Annotated[Flag, Query(description="Include resolved findings.")] = False,
    cursor: Offset = 0,
    limit: Limit = 50,
) -> Page[FindingView]:
    """List the findings, oldest first."""
    with transaction() as session:
        findings = finding_views(
            session,
            collection=get_collection(session, collection_id).name,
            with_resolved=resolved,
            limit=limit + 1,
            offset=cursor,
        )
    return Page.at_offset(cursor, limit, findings)
