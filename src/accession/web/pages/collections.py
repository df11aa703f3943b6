"""A collection's page, and what may be done with it: run, reimport, test, add, edit, mark for deletion."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import SecretStr

from accession.accounts.account import DEFAULT_BASE_URL, Account
from accession.accounts.collections import get_collection, mark_for_deletion
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.catalog.purchase_counts import purchases_by_month
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.imports.purchases import reimport_requests
from accession.imports.vendor import account_of, add_account, change_account, try_account
from accession.runs.health import collection_overviews, copies_of
from accession.runs.views import run_views
from accession.tasks.workflows import next_start, start_workflow
from accession.web.access import Operator, Viewer
from accession.web.api.answers import Id
from accession.web.pages.charts import Point
from accession.web.pages.rendering import go_to, render

router = APIRouter(prefix="/collections", include_in_schema=False)

_RUNS_SHOWN = 10

Typed = Annotated[str, Form(max_length=500)]


@router.get("/new")
def new_collection(request: Request, _: Operator) -> Response:
    """The form that adds a collection."""
    return render(request, "collection_form.html", collection=None, said={"base_url": DEFAULT_BASE_URL})


@router.post("/new")
def add_a_collection(
    request: Request,
    _: Operator,
    name: Typed = "",
    library_id: Typed = "",
    account_id: Typed = "",
    account_key: Typed = "",
    base_url: Typed = "",
) -> Response:
    """Add a collection, or show the form again with what is wrong."""
    said = {"name": name, "library_id": library_id, "account_id": account_id, "base_url": base_url}
    try:
        account = Account(
            name.strip(),
            library_id.strip(),
            account_id.strip(),
            SecretStr(account_key.strip()),
            base_url.strip(),
        )
        with transaction() as session:
            collection_id = add_account(session, account).id
    except UserError as error:
        return render(
            request, "collection_form.html", status=422, collection=None, said=said, error=str(error)
        )
    return go_to(f"/collections/{collection_id}", f'Added "{account.collection}". Test the connection next.')


@router.get("/{collection_id}")
def show_collection(request: Request, _: Viewer, collection_id: Id) -> Response:
    """How the collection stands."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        months = purchases_by_month(session, collection_id)
        return render(
            request,
            "collection.html",
            account=collection,
            collection=collection_overviews(session, collection_id)[0],
            copies=copies_of(session, collection_id),
            purchases=[Point(f"{month.month:%Y-%m}", month.purchases) for month in months],
            titles=[Point(f"{month.month:%Y-%m}", month.titles) for month in months],
            next_starts={workflow.value: next_start(workflow) for workflow in Workflow},
            runs=run_views(session, collection=collection.name, limit=_RUNS_SHOWN),
        )


@router.get("/{collection_id}/edit")
def edit_collection(request: Request, _: Operator, collection_id: Id) -> Response:
    """The form that changes the account."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        said = {name: getattr(collection, name) for name in ("library_id", "account_id", "base_url")}
        return render(request, "collection_form.html", collection=collection, said=said)


@router.post("/{collection_id}/edit")
def change_a_collection(
    request: Request,
    _: Operator,
    collection_id: Id,
    library_id: Typed = "",
    account_id: Typed = "",
    account_key: Typed = "",
    base_url: Typed = "",
) -> Response:
    """Change the account, or show the form again with what is wrong; an empty key leaves the one there is."""
    said = {"library_id": library_id.strip(), "account_id": account_id.strip(), "base_url": base_url.strip()}
    key = SecretStr(account_key.strip()) if account_key.strip() else None
    try:
        with transaction() as session:
            change_account(session, get_collection(session, collection_id), **said, account_key=key)
    except UserError as error:
        with transaction() as session:
            collection = get_collection(session, collection_id)
            return render(
                request,
                "collection_form.html",
                status=422,
                collection=collection,
                said=said,
                error=str(error),
            )
    return go_to(f"/collections/{collection_id}", "The account is changed. Test the connection next.")


@router.post("/{collection_id}/test")
def ask_the_vendor(_: Operator, collection_id: Id) -> Response:
    """Ask the vendor for something small, and say what it says."""
    with transaction() as session:
        account = account_of(get_collection(session, collection_id))
    try:
        said = try_account(account)
    except RemoteIntegrationException as error:
        said = str(error)
    return go_to(f"/collections/{collection_id}", said)


@router.post("/{collection_id}/runs")
def start_run(_: Operator, collection_id: Id, workflow: Annotated[Workflow, Form()]) -> Response:
    """Start a workflow."""
    with transaction() as session:
        get_collection(session, collection_id)
    start_workflow(workflow, [collection_id])
    return go_to(f"/collections/{collection_id}", f"The run of {workflow} is queued.")


@router.get("/{collection_id}/reimport")
def ask_for_reimport(request: Request, _: Operator, collection_id: Id) -> Response:
    """Say what a forced reimport costs, before it is begun."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        return render(
            request, "reimport.html", collection=collection, requests=reimport_requests(session, collection)
        )


@router.post("/{collection_id}/reimport")
def start_reimport(_: Operator, collection_id: Id) -> Response:
    """Import every purchase since 2014 again."""
    with transaction() as session:
        get_collection(session, collection_id)
    start_workflow(Workflow.PURCHASES, [collection_id], force_reimport=True)
    return go_to(f"/collections/{collection_id}", "The reimport of all purchases is queued.")


@router.get("/{collection_id}/remove")
def ask_for_removal(request: Request, _: Operator, collection_id: Id) -> Response:
    """Say what marking for deletion does, before it is done."""
    with transaction() as session:
        return render(request, "remove.html", collection=get_collection(session, collection_id))


@router.post("/{collection_id}/remove")
def remove_collection(_: Operator, collection_id: Id) -> Response:
    """Mark the collection for deletion."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        mark_for_deletion(collection)
        name = collection.name
    return go_to("/", f'"{name}" is marked for deletion.')
