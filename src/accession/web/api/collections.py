"""`/api/v1/collections`: the accounts with the vendor, how each stands, and what may be done with it."""

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from accession.accounts.account import DEFAULT_BASE_URL, Account
from accession.accounts.collections import get_collection, mark_for_deletion
from accession.catalog.purchase_counts import MonthCount, purchases_by_month
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection
from accession.imports.vendor import account_of, add_account, change_account, try_account
from accession.runs.health import CollectionOverview, collection_overviews
from accession.tasks.workflows import start_workflow
from accession.web.access import Operator, Viewer
from accession.web.api.answers import NO_NUL, Id, Started, problems, started

router = APIRouter(prefix="/collections", tags=["collections"])

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=NO_NUL)]
Key = Annotated[SecretStr, Field(min_length=1, max_length=500, description="Stored encrypted, never shown.")]


class NewCollection(BaseModel):
    """An account with the vendor, to be added."""

    name: Text
    library_id: Text = Field(description="The library's short code at the vendor.")
    account_id: Text = Field(description="The account id that signs requests.")
    account_key: Key
    base_url: Text = Field(DEFAULT_BASE_URL, description="Where the vendor's API is.")


class ChangedCollection(BaseModel):
    """What of an account is to be another; what is left out stays."""

    library_id: Text | None = None
    account_id: Text | None = None
    account_key: Key | None = None
    base_url: Text | None = None


class NewImport(BaseModel):
    """A run to be started."""

    workflow: Workflow
    force_reimport: bool = Field(False, description="Purchases alone: begin again in 2014.")


@dataclass(frozen=True)
class AccountTold:
    """A collection's account, without its key."""

    id: int
    name: str
    library_id: str
    account_id: str
    base_url: str
    created_at: datetime


@dataclass(frozen=True)
class Tried:
    """What the vendor said of the account."""

    answer: str


@router.get("")
def list_collections(_: Viewer) -> list[CollectionOverview]:
    """How every collection stands: those in trouble first, and then by name."""
    with transaction() as session:
        return collection_overviews(session)


@router.post("", status_code=HTTPStatus.CREATED, responses=problems(403, 409))
def add_a_collection(_: Operator, new: NewCollection) -> AccountTold:
    """Add a collection. Nothing is imported until the schedule's next start, or until one is asked for."""
    account = Account(new.name, new.library_id, new.account_id, new.account_key, new.base_url)
    with transaction() as session:
        return _told(add_account(session, account))


@router.get("/{collection_id}", responses=problems(404))
def show_collection(_: Viewer, collection_id: Id) -> CollectionOverview:
    """How the collection stands."""
    with transaction() as session:
        get_collection(session, collection_id)
        return collection_overviews(session, collection_id)[0]


@router.get("/{collection_id}/account", responses=problems(404))
def show_account(_: Viewer, collection_id: Id) -> AccountTold:
    """The collection's account with the vendor, without its key."""
    with transaction() as session:
        return _told(get_collection(session, collection_id))


@router.patch("/{collection_id}/account", responses=problems(403, 404, 409))
def change_an_account(_: Operator, collection_id: Id, changed: ChangedCollection) -> AccountTold:
    """Change the collection's account; a chain at work uses it from its next page on."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        change_account(session, collection, **{name: value for name, value in changed if value is not None})
        return _told(collection)


@router.post("/{collection_id}/account/test", responses=problems(403, 404, 409, 502))
def try_an_account(_: Operator, collection_id: Id) -> Tried:
    """Ask the vendor for something small with the account."""
    with transaction() as session:
        account = account_of(get_collection(session, collection_id))
    return Tried(try_account(account))


@router.delete("/{collection_id}", status_code=HTTPStatus.NO_CONTENT, responses=problems(403, 404))
def remove_collection(_: Operator, collection_id: Id) -> None:
    """Mark the collection for deletion: nothing more is imported, and a chain at work stops."""
    with transaction() as session:
        mark_for_deletion(get_collection(session, collection_id))


@router.get("/{collection_id}/purchases", responses=problems(404))
def list_purchases(_: Viewer, collection_id: Id) -> list[MonthCount]:
    """Purchases and titles of every month since 2014; nothing where nothing was bought."""
    with transaction() as session:
        get_collection(session, collection_id)
        return purchases_by_month(session, collection_id)


@router.post("/{collection_id}/runs", status_code=HTTPStatus.ACCEPTED, responses=problems(403, 404, 409, 503))
def start_run(_: Operator, collection_id: Id, new: NewImport) -> Started:
    """Start a workflow of the collection. While another run of it is at work, this one is refused when its
    turn comes, and is no run then."""
    with transaction() as session:
        get_collection(session, collection_id)
    return started(start_workflow(new.workflow, [collection_id], force_reimport=new.force_reimport))


def _told(collection: Collection) -> AccountTold:
    return AccountTold(
        collection.id,
        collection.name,
        collection.library_id,
        collection.account_id,
        collection.base_url,
        collection.created_at,
    )
