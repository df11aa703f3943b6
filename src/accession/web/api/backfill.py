"""API endpoints that import the purchases of a range of days again."""

from dataclasses import dataclass
from datetime import date
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from accession.accounts.collections import get_collection
from accession.db.engine import transaction
from accession.imports.backfill import count_backfill_requests
from accession.tasks.backfill import start_backfill
from accession.web.api.schemas import StartedRuns, problem_responses
from accession.web.parameters import RowId
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/collections/{collection_id}/backfill", tags=["control"])


class NewBackfill(BaseModel):
    """Days (UTC) whose purchases to import again."""

    model_config = ConfigDict(extra="forbid")

    first_day: date = Field(description="First day, from 2014-01-01 on.")
    last_day: date = Field(description="Last day, today at the latest.")


@dataclass(frozen=True)
class BackfillCost:
    """Number of requests to the vendor that a backfill needs, if the stored purchases are those it lists."""

    requests: int


@router.get("", responses=problem_responses(404))
def show_cost(
    _: Viewer,
    collection_id: RowId,
    first_day: Annotated[date, Query(description="First day.")],
    last_day: Annotated[date, Query(description="Last day.")],
) -> BackfillCost:
    """Return how many requests a backfill of the days needs."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        return BackfillCost(count_backfill_requests(session, collection, first_day, last_day))


@router.post("", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(403, 404, 409, 503))
def backfill(operator: Operator, collection_id: RowId, new: NewBackfill) -> StartedRuns:
    """Import the purchases of the days again. The checkpoint stays where it is."""
    return StartedRuns(task_ids=start_backfill(operator.actor, collection_id, new.first_day, new.last_day))
