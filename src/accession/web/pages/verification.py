"""Pages of the verification of past months: its results, and the form that starts one."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from accession.accounts.collections import get_collection
from accession.auth.audit import AuditAction, record
from accession.catalog.titles import title_views
from accession.catalog.verification import finding_views
from accession.core.errors import InvalidInput
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.imports.verification_summary import verification_summary
from accession.runs.health import CollectionHealth, WorkflowHealth, collection_health
from accession.tasks.verification import start_verification
from accession.web.pages.rendering import non_empty_parameters, redirect, render
from accession.web.parameters import FormMonth, Offset, RowId
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/collections/{collection_id}", include_in_schema=False)

_PAGE_SIZE = 50


@router.get("/verification")
def show_verification(
    request: Request, _: Viewer, collection_id: RowId, resolved: bool = False, offset: Offset = 0
) -> Response:
    """Show the latest verification, the findings, oldest first, and the months, newest first."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        findings = finding_views(
            session,
            collection=collection.name,
            with_resolved=resolved,
            limit=_PAGE_SIZE + 1,
            offset=offset,
        )
        titles = title_views(
            session, collection=collection.name, identifiers=[finding.identifier for finding in findings]
        )
        health = collection_health(session, collection_id)[0]
        return render(
            request,
            "verification.html",
            collection=health,
            run=latest_verification(health),
            verification=verification_summary(session, collection),
            findings=findings[:_PAGE_SIZE],
            held_titles={title.identifier for title in titles},
            filters=non_empty_parameters(resolved=resolved),
            next_offset=offset + _PAGE_SIZE if len(findings) > _PAGE_SIZE else None,
        )


def latest_verification(collection: CollectionHealth) -> WorkflowHealth | None:
    """Return the state of the latest verification that was started by hand."""
    return next((each for each in collection.workflows if each.workflow == Workflow.VERIFICATION), None)


@router.get("/verify")
def confirm_verification(
    request: Request,
    _: Operator,
    collection_id: RowId,
    first_month: FormMonth = None,
    last_month: FormMonth = None,
) -> Response:
    """Show what a verification of the months costs, and ask for confirmation."""
    limits = {"first_month": first_month, "last_month": last_month}
    with transaction() as session:
        collection = get_collection(session, collection_id)
        try:
            summary, error = verification_summary(session, collection, **limits), None
        except InvalidInput as invalid:
            summary, error = None, str(invalid)
        return render(
            request,
            "verify.html",
            status=422 if error else 200,
            collection=collection,
            verification=summary,
            error=error,
            months=_describe_months(first_month, last_month),
            **limits,
        )


def _describe_months(first_month: date | None, last_month: date | None) -> str:
    if first_month is None:
        return "All months" if last_month is None else f"Up to {last_month:%Y-%m}"
    if last_month is None:
        return f"From {first_month:%Y-%m} on"
    return f"{first_month:%Y-%m}" + ("" if first_month == last_month else f" to {last_month:%Y-%m}")


@router.post("/verify")
def verify(
    operator: Operator,
    collection_id: RowId,
    first_month: Annotated[FormMonth, Form()] = None,
    last_month: Annotated[FormMonth, Form()] = None,
    days: Annotated[bool, Form()] = False,
    repair: Annotated[bool, Form()] = False,
) -> Response:
    """Start a verification of the months."""
    with transaction() as session:
        name = get_collection(session, collection_id).name
        options = {"from": first_month, "to": last_month, "days": days, "repair": repair}
        record(session, operator.actor, AuditAction.RUN_VERIFY, name, options)
    start_verification(
        [collection_id], first_month=first_month, last_month=last_month, with_days=days, repairs=repair
    )
    return redirect(f"/collections/{collection_id}/verification", "Run queued: verification.")
