"""API endpoints that import the purchases of a range of days again."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from accession.accounts.collections import get_collection
from accession.db.engine import transaction
from accession.imports.backfill import count_backfill_requests
from accession.tasks import backfill
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body, StartedRuns
from accession.web.parameters import Day, RowId
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/collections/{collection_id:int}/backfill", tags=["control"])


class NewBackfill(Body):
    """Days (UTC) whose purchases to import again."""

    first_day: Day = Field(description="First day, from 2014-01-01 on.")
    last_day: Day = Field(description="Last day, today at the latest.")


@dataclass(frozen=True)
class BackfillCost:
    """Number of requests to the vendor that a backfill needs, if the stored purchases are those it lists."""

    requests: int


@router.get("", responses=problem_responses(404))
def show_backfill_cost(
    _: Viewer,
    collection_id: RowId,
    first_day: Annotated[Day, Query(description="First day.")],
    last_day: Annotated[Day, Query(description="Last day.")],
) -> BackfillCost:
    """Return how many requests a backfill of the days needs."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        return BackfillCost(count_backfill_requests(session, collection, first_day, last_day))


@router.post("", status_code=HTTPStatus.ACCEPTED, responses=problem_responses(404, 409))
def start_backfill(operator: Operator, collection_id: RowId, new: NewBackfill) -> StartedRuns:
    """Import the purchases of the days again. The checkpoint stays where it is."""
    return StartedRuns(
        task_ids=backfill.start_backfill(operator.actor, collection_id, new.first_day, new.last_day)
    )
