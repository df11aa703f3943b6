"""API endpoints under `/collections`: accounts with the vendor, their health, and actions on them."""

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field, SecretStr, StringConstraints, WithJsonSchema

from accession.accounts.account import DEFAULT_BASE_URL, Account
from accession.accounts.collections import (
    add_collection,
    change_account,
    get_account,
    get_collection,
    mark_for_deletion,
)
from accession.auth.audit import AuditAction, record, record_run_start
from accession.catalog.purchase_counts import MonthCount, purchases_by_month
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection
from accession.imports.vendor_api import check_account
from accession.runs.health import CollectionHealth, collection_health
from accession.tasks.workflows import start_workflow
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body, Choice, StartedRuns
from accession.web.collection_list import CollectionListParameters
from accession.web.parameters import NO_NUL, RowId
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/collections", tags=["collections"])

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=NO_NUL)]
# A backfill needs a range of days, and has an endpoint of its own.
StartableWorkflow = Annotated[
    Choice[Workflow],
    WithJsonSchema({"type": "string", "enum": [each for each in Workflow if each is not Workflow.BACKFILL]}),
]
Key = Annotated[SecretStr, Field(min_length=1, max_length=500, description="Stored encrypted, never shown.")]


class NewCollection(Body):
    """A collection to add."""

    name: Text
    library_id: Text = Field(description="The library's short code at the vendor.")
    account_id: Text = Field(description="The account id that signs requests.")
    account_key: Key
    base_url: Text = Field(DEFAULT_BASE_URL, description="Base URL of the vendor's API.")


class AccountChanges(Body):
    """Changes to an account; fields that are left out stay the same."""

    library_id: Text | None = None
    account_id: Text | None = None
    account_key: Key | None = None
    base_url: Text | None = None


class NewRun(Body):
    """A run to start."""

    workflow: StartableWorkflow
    force_reimport: bool = Field(False, description="Import all purchases since 2014 again; purchases only.")


@dataclass(frozen=True)
class AccountView:
    """A collection's account with the vendor, without its key."""

    id: int
    name: str
    library_id: str
    account_id: str
    base_url: str
    created_at: datetime


@dataclass(frozen=True)
class ConnectionTestResult:
    """Result of a connection test that succeeded."""

    message: str


@router.get("")
def list_collections(
    _: Viewer, parameters: Annotated[CollectionListParameters, Query()]
) -> list[CollectionHealth]:
    """List collections with their health; by default all, failing ones first, then by name."""
    with transaction() as session:
        return parameters.to_query().select(collection_health(session))


@router.post("", status_code=HTTPStatus.CREATED, responses=problem_responses(409))
def create_collection(operator: Operator, new: NewCollection) -> AccountView:
    """Add a collection. Imports start at the next scheduled time, or when a run is started."""
    account = Account(new.name, new.library_id, new.account_id, new.account_key, new.base_url)
    with transaction() as session:
        collection = add_collection(session, account)
        record(session, operator.actor, AuditAction.COLLECTION_ADD, new.name, account.public_fields())
        return _account_view(collection)


@router.get("/{collection_id:int}", responses=problem_responses(404))
def show_collection(_: Viewer, collection_id: RowId) -> CollectionHealth:
    """Return the health of a collection."""
    with transaction() as session:
        get_collection(session, collection_id)
        return collection_health(session, collection_id)[0]


@router.get("/{collection_id:int}/account", responses=problem_responses(404))
def show_account(_: Viewer, collection_id: RowId) -> AccountView:
    """Return the collection's account with the vendor, without its key."""
    with transaction() as session:
        return _account_view(get_collection(session, collection_id))


@router.patch("/{collection_id:int}/account", responses=problem_responses(404, 409))
def update_account(operator: Operator, collection_id: RowId, changes: AccountChanges) -> AccountView:
    """Change the collection's account. A run in progress uses it from its next page on."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        fields = {name: value for name, value in changes if value is not None}
        details = change_account(session, collection, **fields)
        record(session, operator.actor, AuditAction.COLLECTION_EDIT, collection.name, details)
        return _account_view(collection)


@router.post("/{collection_id:int}/account/test", responses=problem_responses(404, 409, 502))
def test_account(operator: Operator, collection_id: RowId) -> ConnectionTestResult:
    """Test the account with a small request to the vendor."""
    with transaction() as session:
        account = get_account(get_collection(session, collection_id))
        record(session, operator.actor, AuditAction.COLLECTION_TEST, account.collection)
    return ConnectionTestResult(check_account(account))


@router.delete("/{collection_id:int}", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(404))
def delete_collection(operator: Operator, collection_id: RowId) -> None:
    """Mark the collection for deletion. Nothing more is imported, and runs in progress stop."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        mark_for_deletion(collection)
        record(session, operator.actor, AuditAction.COLLECTION_REMOVE, collection.name)


@router.get("/{collection_id:int}/purchases", responses=problem_responses(404))
def list_purchases(_: Viewer, collection_id: RowId) -> list[MonthCount]:
    """Count purchases and titles per month since 2014; an empty list when nothing was purchased."""
    with transaction() as session:
        get_collection(session, collection_id)
        return purchases_by_month(session, collection_id)


@router.post(
    "/{collection_id:int}/runs", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(404, 409)
)
def start_run(operator: Operator, collection_id: RowId, new: NewRun) -> StartedRuns:
    """Start a run of a workflow. If another run of the workflow is in progress, the worker drops this one."""
    with transaction() as session:
        name = get_collection(session, collection_id).name
        record_run_start(session, operator.actor, new.workflow, name, force_reimport=new.force_reimport)
    return StartedRuns(
        task_ids=start_workflow(new.workflow, [collection_id], force_reimport=new.force_reimport)
    )


def _account_view(collection: Collection) -> AccountView:
    return AccountView(
        collection.id,
        collection.name,
        collection.library_id,
        collection.account_id,
        collection.base_url,
        collection.created_at,
    )
