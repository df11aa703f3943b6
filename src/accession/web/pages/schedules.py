"""Pages that change when a collection's workflows start, and the limits of its requests to the vendor."""

from dataclasses import asdict
from functools import cache
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from accession.accounts.collections import get_collection
from accession.accounts.limits import (
    VendorLimits,
    set_vendor_limits,
    stored_limits,
    vendor_limits_view,
)
from accession.auth.audit import AuditAction, record
from accession.core.errors import InvalidInput
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.runs.schedules import (
    ScheduleOverride,
    ScheduleView,
    find_override,
    preview_schedule,
    set_schedule,
)
from accession.web.pages.rendering import redirect, render
from accession.web.parameters import NO_NUL, FormField, RowId
from accession.web.principal import Operator

router = APIRouter(prefix="/collections/{collection_id}", include_in_schema=False)

PreviewField = Annotated[str | None, Query(max_length=500, pattern=NO_NUL)]


@cache
def _time_zones() -> list[str]:
    return sorted(available_timezones())


def _parse_number(text: str, kind: type[int] | type[float], noun: str) -> Any:
    """Return the number in a form's field, None if the field is empty.

    Raises:
        InvalidInput: it is no number of this kind.
    """
    try:
        return kind(text) if text.strip() else None
    except ValueError:
        raise InvalidInput(f"The {noun} {text!r} is invalid: enter a number, or nothing.") from None


def _parse_override(cron: str, time_zone: str, jitter_minutes: str) -> ScheduleOverride:
    """Return what the form sets; an empty field is inherited."""
    return ScheduleOverride(
        cron=cron.strip() or None,
        time_zone=time_zone.strip() or None,
        jitter_minutes=_parse_number(jitter_minutes, int, "jitter window"),
    )


@router.get("/schedules/{workflow}")
def edit_schedule(
    request: Request,
    _: Operator,
    collection_id: RowId,
    workflow: Workflow,
    cron: PreviewField = None,
    time_zone: PreviewField = None,
    jitter_minutes: PreviewField = None,
) -> Response:
    """Show the form with the next starts: those of the stored schedule, or of the values to preview."""
    is_preview = (cron, time_zone, jitter_minutes) != (None, None, None)
    values = {"cron": cron or "", "time_zone": time_zone or "", "jitter_minutes": jitter_minutes or ""}
    if not is_preview:
        with transaction() as session:
            override = find_override(session, get_collection(session, collection_id), workflow)
        values = {name: "" if value is None else str(value) for name, value in asdict(override).items()}
    return _render_form(request, collection_id, workflow, values, is_preview=is_preview)


@router.post("/schedules/{workflow}")
def update_schedule(
    request: Request,
    operator: Operator,
    collection_id: RowId,
    workflow: Workflow,
    cron: FormField = "",
    time_zone: FormField = "",
    jitter_minutes: FormField = "",
) -> Response:
    """Set the schedule, or show the form again with the error; empty fields are inherited."""
    try:
        with transaction() as session:
            collection = get_collection(session, collection_id)
            override = _parse_override(cron, time_zone, jitter_minutes)
            set_schedule(session, operator.actor, collection, workflow, override)
    except InvalidInput:
        values = {"cron": cron, "time_zone": time_zone, "jitter_minutes": jitter_minutes}
        return _render_form(request, collection_id, workflow, values, is_preview=True)
    return redirect(f"/collections/{collection_id}", f"Schedule changed: {workflow}.")


def _render_form(
    request: Request, collection_id: int, workflow: Workflow, values: dict[str, str], *, is_preview: bool
) -> Response:
    """Show the form with these values and the starts that follow from them, or with what is wrong."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        defaults = preview_schedule(session, collection, workflow, ScheduleOverride())
        schedule: ScheduleView | None = None
        problem: str | None = None
        try:
            schedule = preview_schedule(session, collection, workflow, _parse_override(**values))
        except InvalidInput as error:
            problem = str(error)
        return render(
            request,
            "schedule_form.html",
            status=422 if problem else 200,
            collection=collection,
            workflow=workflow,
            values=values,
            defaults=defaults,
            schedule=schedule,
            starts=[] if schedule is None else _local_starts(schedule),
            error=problem,
            is_preview=is_preview,
            time_zones=_time_zones(),
        )


def _local_starts(schedule: ScheduleView) -> list[tuple[str, Any]]:
    """Return each start in the time zone of the schedule, and in UTC."""
    zone = ZoneInfo(schedule.time_zone)
    return [(f"{start.astimezone(zone):%a %Y-%m-%d %H:%M %Z}", start) for start in schedule.next_starts]


@router.get("/limits")
def edit_limits(request: Request, _: Operator, collection_id: RowId) -> Response:
    """Show the form that changes the limits of the account."""
    with transaction() as session:
        limits = stored_limits(get_collection(session, collection_id))
    values = {name: "" if value is None else f"{value:g}" for name, value in asdict(limits).items()}
    return _render_limits(request, collection_id, values)


@router.post("/limits")
def update_limits(
    request: Request,
    operator: Operator,
    collection_id: RowId,
    max_concurrency: FormField = "",
    max_requests_per_second: FormField = "",
) -> Response:
    """Set the limits of the account, or show the form again with the error; empty fields are inherited."""
    try:
        limits = VendorLimits(
            _parse_number(max_concurrency, int, "number of simultaneous requests"),
            _parse_number(max_requests_per_second, float, "rate of requests"),
        )
        with transaction() as session:
            collection = get_collection(session, collection_id)
            set_vendor_limits(session, collection, limits)
            action = AuditAction.COLLECTION_SET_LIMITS
            record(session, operator.actor, action, collection.name, asdict(limits))
    except InvalidInput as error:
        values = {"max_concurrency": max_concurrency, "max_requests_per_second": max_requests_per_second}
        return _render_limits(request, collection_id, values, error=str(error))
    return redirect(f"/collections/{collection_id}", "Request limits changed.")


def _render_limits(
    request: Request, collection_id: int, values: dict[str, str], error: str | None = None
) -> Response:
    with transaction() as session:
        collection = get_collection(session, collection_id)
        return render(
            request,
            "limits_form.html",
            status=422 if error else 200,
            collection=collection,
            values=values,
            limits=vendor_limits_view(session, collection),
            error=error,
        )
