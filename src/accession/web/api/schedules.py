"""API endpoints of a collection's schedules, and of the limits of its requests to the vendor."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field, WithJsonSchema

from accession.accounts.collections import get_collection
from accession.accounts.limits import (
    MIN_REQUESTS_PER_SECOND,
    VendorLimits,
    VendorLimitsView,
    set_vendor_limits,
    vendor_limits_view,
)
from accession.auth.audit import AuditAction, record
from accession.core.cron import MAX_LENGTH
from accession.core.settings import MAX_CONCURRENCY, MAX_JITTER_MINUTES, MAX_REQUESTS_PER_SECOND
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.engine import transaction
from accession.runs.schedules import (
    ScheduleOverride,
    ScheduleView,
    preview_schedule,
    schedule_views,
    set_schedule,
)
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body
from accession.web.parameters import NO_NUL, Flag, RowId
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/collections/{collection_id:int}", tags=["collections"])


class NewSchedule(Body):
    """The parts of a schedule that a collection sets itself; null is inherited from the settings."""

    cron: str | None = Field(
        None,
        max_length=MAX_LENGTH,
        pattern=NO_NUL,
        description="Minute, hour, day of month, month and day of week.",
        examples=["30 2 * * *"],
    )
    time_zone: str | None = Field(None, max_length=100, pattern=NO_NUL, examples=["Europe/Berlin"])
    jitter_minutes: int | None = Field(
        None, ge=0, le=MAX_JITTER_MINUTES, description="Window after the time in which the run starts."
    )


class NewLimits(Body):
    """Limits of an account's requests; null is inherited from the settings."""

    max_concurrency: int | None = Field(
        None, ge=1, le=MAX_CONCURRENCY, description="Number of simultaneous requests."
    )
    max_requests_per_second: float | None = Field(
        None, ge=MIN_REQUESTS_PER_SECOND, le=MAX_REQUESTS_PER_SECOND, description="Rate of requests."
    )


DryRun = Annotated[Flag, Query(description="Return the schedule as it would be, and change nothing.")]


@router.get("/schedules", responses=problem_responses(404))
def list_schedules(_: Viewer, collection_id: RowId) -> list[ScheduleView]:
    """Return when the workflows of the collection start: expression, time zone and the next five starts."""
    with transaction() as session:
        return schedule_views(session, get_collection(session, collection_id))


@router.put("/schedules/{workflow}", responses=problem_responses(404))
def replace_schedule(
    operator: Operator,
    collection_id: RowId,
    workflow: Annotated[
        Workflow,
        Path(description="Workflow that the schedule starts."),
        WithJsonSchema({"type": "string", "enum": list(SCHEDULED_WORKFLOWS)}),
    ],
    new: NewSchedule,
    dry_run: DryRun = False,
) -> ScheduleView:
    """Set when the workflow of the collection starts. Fields that are left out are inherited."""
    override = ScheduleOverride(**new.model_dump())
    with transaction() as session:
        collection = get_collection(session, collection_id)
        if dry_run:
            return preview_schedule(session, collection, workflow, override)
        return set_schedule(session, operator.actor, collection, workflow, override)


@router.get("/limits", responses=problem_responses(404))
def show_limits(_: Viewer, collection_id: RowId) -> VendorLimitsView:
    """Return the limits of the requests that the collection's account sends to the vendor.

    Libraries may share an account and thus its limits: `collections` names them all.
    """
    with transaction() as session:
        return vendor_limits_view(session, get_collection(session, collection_id))


@router.put("/limits", responses=problem_responses(404))
def replace_limits(operator: Operator, collection_id: RowId, new: NewLimits) -> VendorLimitsView:
    """Set the limits of the account. Those left out are inherited.

    They change for all collections that share the account, which `collections` names.
    """
    limits = VendorLimits(**new.model_dump())
    with transaction() as session:
        collection = get_collection(session, collection_id)
        view = set_vendor_limits(session, collection, limits)
        action = AuditAction.COLLECTION_SET_LIMITS
        record(session, operator.actor, action, collection.name, asdict(limits))
        return view
