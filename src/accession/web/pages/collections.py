"""Pages of one collection: health and charts, account form, connection test, runs, reimport, deletion."""

from calendar import monthrange
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import SecretStr

from accession.accounts.account import DEFAULT_BASE_URL, Account
from accession.accounts.collections import (
    add_collection,
    change_account,
    get_account,
    get_collection,
    mark_for_deletion,
)
from accession.accounts.libraries import same_library_note
from accession.accounts.limits import vendor_limits_view
from accession.auth.audit import AuditAction, record, record_run_start
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.catalog.purchase_counts import MonthCount, purchases_by_month
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.digests.views import find_digest_view
from accession.imports.purchases import count_reimport_requests
from accession.imports.vendor_api import check_account
from accession.imports.verification_summary import verification_summary
from accession.runs.health import collection_health, sum_copies
from accession.runs.overview import causes_of
from accession.runs.schedules import schedule_views
from accession.runs.views import run_views
from accession.tasks.control import run_now
from accession.tasks.workflows import start_workflow
from accession.web.feeds import feed_addresses
from accession.web.pages.charts import DataPoint
from accession.web.pages.rendering import redirect, render
from accession.web.pages.verification import latest_verification
from accession.web.parameters import FormField, RowId
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/collections", include_in_schema=False)

_MAX_RUNS = 10


@router.get("/new")
def new_collection(request: Request, _: Operator) -> Response:
    """Show the form that adds a collection."""
    return render(request, "collection_form.html", collection=None, values={"base_url": DEFAULT_BASE_URL})


@router.post("/new")
def create_collection(
    request: Request,
    operator: Operator,
    name: FormField = "",
    library_id: FormField = "",
    account_id: FormField = "",
    account_key: FormField = "",
    base_url: FormField = "",
) -> Response:
    """Add a collection, or show the form again with the error."""
    try:
        account = Account(
            name.strip(),
            library_id.strip(),
            account_id.strip(),
            SecretStr(account_key.strip()),
            base_url.strip(),
        )
        with transaction() as session:
            collection = add_collection(session, account)
            collection_id, note = collection.id, same_library_note(session, collection)
            fields = account.public_fields()
            record(session, operator.actor, AuditAction.COLLECTION_ADD, collection.name, fields)
    except UserError as error:
        values = {"name": name, "library_id": library_id, "account_id": account_id, "base_url": base_url}
        return render(
            request, "collection_form.html", status=422, collection=None, values=values, error=str(error)
        )
    message = f'"{account.collection}" added. Next: test the connection. {note}'
    return redirect(f"/collections/{collection_id}", message.strip())


@router.get("/{collection_id}")
def show_collection(request: Request, _: Viewer, collection_id: RowId) -> Response:
    """Show a collection: health, workflows, verification, charts, latest runs, digest and account."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        health = collection_health(session, collection_id)[0]
        months = purchases_by_month(session, collection_id)
        digest = find_digest_view(session, collection)
        return render(
            request,
            "collection.html",
            account=collection,
            same_library=same_library_note(session, collection),
            collection=health,
            copies=sum_copies(session, collection_id),
            purchases=[_month_point(collection_id, month, month.purchases) for month in months],
            titles=[_month_point(collection_id, month, month.titles, until_month=True) for month in months],
            feeds=feed_addresses(collection, has_digest=digest is not None),
            schedules={schedule.workflow: schedule for schedule in schedule_views(session, collection)},
            limits=vendor_limits_view(session, collection),
            digest=digest,
            causes=causes_of(health),
            verification=verification_summary(session, collection),
            verification_run=latest_verification(health),
            runs=run_views(session, collection=collection.name, limit=_MAX_RUNS),
        )


def _month_point(
    collection_id: int, month: MonthCount, value: int, *, until_month: bool = False
) -> DataPoint:
    """Return a month's value, which leads to the titles purchased in the month, or until its end."""
    last_day = monthrange(month.month.year, month.month.month)[1]
    period = {} if until_month else {"purchased_from": month.month}
    period["purchased_until"] = month.month.replace(day=last_day)
    return DataPoint(
        f"{month.month:%Y-%m}",
        value,
        path=f"/titles?{urlencode({'collection': collection_id, **period})}" if value else "",
        tick=f"{month.month:%Y}" if month.month.month == 1 else "",
    )


@router.get("/{collection_id}/edit")
def edit_account(request: Request, _: Operator, collection_id: RowId) -> Response:
    """Show the form that changes the account."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        values = {name: getattr(collection, name) for name in ("library_id", "account_id", "base_url")}
        return render(request, "collection_form.html", collection=collection, values=values)


@router.post("/{collection_id}/edit")
def update_account(
    request: Request,
    operator: Operator,
    collection_id: RowId,
    library_id: FormField = "",
    account_id: FormField = "",
    account_key: FormField = "",
    base_url: FormField = "",
) -> Response:
    """Change the account, or show the form again with the error; an empty key keeps the current one."""
    values = {
        "library_id": library_id.strip(),
        "account_id": account_id.strip(),
        "base_url": base_url.strip(),
    }
    new_key = SecretStr(account_key.strip()) if account_key.strip() else None
    try:
        with transaction() as session:
            collection = get_collection(session, collection_id)
            changes = change_account(session, collection, **values, account_key=new_key)
            record(session, operator.actor, AuditAction.COLLECTION_EDIT, collection.name, changes)
            note = same_library_note(session, collection)
    except UserError as error:
        with transaction() as session:
            collection = get_collection(session, collection_id)
            return render(
                request,
                "collection_form.html",
                status=422,
                collection=collection,
                values=values,
                error=str(error),
            )
    message = f"Account changed. Next: test the connection. {note}"
    return redirect(f"/collections/{collection_id}", message.strip())


@router.post("/{collection_id}/test")
def check_connection(operator: Operator, collection_id: RowId) -> Response:
    """Test the account with a small request to the vendor, and show the result."""
    with transaction() as session:
        account = get_account(get_collection(session, collection_id))
        record(session, operator.actor, AuditAction.COLLECTION_TEST, account.collection)
    try:
        message = check_account(account)
    except RemoteIntegrationException as error:
        message = error.sentence
    return redirect(f"/collections/{collection_id}", message)


@router.post("/{collection_id}/runs")
def start_run(operator: Operator, collection_id: RowId, workflow: Annotated[Workflow, Form()]) -> Response:
    """Start a run of the workflow."""
    result = run_now(operator.actor, [collection_id], [workflow])
    reasons = [f"No run queued: {skipped.reason}." for skipped in result.skipped]
    return redirect(f"/collections/{collection_id}", "".join(reasons) or f"Run queued: {workflow}.")


@router.get("/{collection_id}/reimport")
def confirm_reimport(request: Request, _: Operator, collection_id: RowId) -> Response:
    """Show what a forced reimport costs, and ask for confirmation."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        return render(
            request,
            "reimport.html",
            collection=collection,
            requests=count_reimport_requests(session, collection),
        )


@router.post("/{collection_id}/reimport")
def start_reimport(operator: Operator, collection_id: RowId) -> Response:
    """Start a run that imports all purchases since 2014 again."""
    with transaction() as session:
        name = get_collection(session, collection_id).name
        record_run_start(session, operator.actor, Workflow.PURCHASES, name, force_reimport=True)
    start_workflow(Workflow.PURCHASES, [collection_id], force_reimport=True)
    return redirect(f"/collections/{collection_id}", "Run queued: reimport of all purchases.")


@router.get("/{collection_id}/remove")
def confirm_removal(request: Request, _: Operator, collection_id: RowId) -> Response:
    """Show what marking for deletion does, and ask for confirmation."""
    with transaction() as session:
        return render(request, "remove.html", collection=get_collection(session, collection_id))


@router.post("/{collection_id}/remove")
def remove_collection(operator: Operator, collection_id: RowId) -> Response:
    """Mark the collection for deletion."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        mark_for_deletion(collection)
        name = collection.name
        record(session, operator.actor, AuditAction.COLLECTION_REMOVE, name)
    return redirect("/", f'"{name}" marked for deletion.')
