"""API endpoints under `/notifications`: channels, rules and the delivery log."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field, SecretStr, StringConstraints

from accession.auth.audit import AuditAction, record
from accession.db.engine import transaction
from accession.db.models import DeliveryState
from accession.notifications.channels import (
    ChannelView,
    add_channel,
    channel_views,
    get_channel,
    remove_channel,
)
from accession.notifications.delivery import NotificationView, notification_views, send_test
from accession.notifications.kinds import EventKind, Severity
from accession.notifications.rules import (
    RULE_LIMITS,
    RuleSpec,
    RuleView,
    add_rule,
    change_rule,
    get_rule,
    remove_rule,
    rule_views,
)
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body, Choice, Items, Page, TestResult
from accession.web.parameters import NO_NUL, CursorId, Limit, RowId
from accession.web.principal import Administrator, Operator, Viewer

router = APIRouter(prefix="/notifications", tags=["notifications"])

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NO_NUL)]
ShortText = Annotated[str, StringConstraints(max_length=50, pattern=NO_NUL)]
_DEFAULTS = RuleSpec(name="", channel="")


def _threshold(name: str, description: str) -> Any:
    low, high = RULE_LIMITS[name]
    return Field(getattr(_DEFAULTS, name), ge=low, le=high, description=description)


class NewChannel(Body):
    """A channel to add."""

    name: Name
    url: SecretStr = Field(
        min_length=1, max_length=2000, description="The service's Apprise URL. Stored encrypted, never shown."
    )
    default_rule: bool = Field(True, description="Add a rule that notifies the channel of everything.")


class NewRule(Body):
    """A rule; values that are left out get their defaults."""

    name: Name
    channel: Name = Field(description="Name of the channel that is notified.")
    events: Items[Choice[EventKind]] = Field((), max_length=50, description="Kinds of events; empty for all.")
    collections: Items[Name] = Field(
        (), max_length=10_000, description="Names of collections; empty for all events."
    )
    min_severity: Choice[Severity] = _DEFAULTS.min_severity
    quiet_hours: ShortText = Field(
        "", description="Daily span in which messages are held back, such as 22:00-07:00."
    )
    time_zone: ShortText = Field(
        "", description="Time zone of the quiet hours; empty for that of the schedule."
    )
    critical_ignores_quiet_hours: bool = _DEFAULTS.critical_ignores_quiet_hours
    still_failing_hours: int = _threshold(
        "still_failing_hours", "Hours until a reminder, which is then daily."
    )
    no_success_hours: int = _threshold("no_success_hours", "Hours without a successful run of a workflow.")
    rejected_records: int = _threshold("rejected_records", "Open rejected records of a collection.")
    disk_free_percent: int = _threshold("disk_free_percent", "Free space of the disk.")


@router.get("/channels")
def list_channels(_: Viewer) -> list[ChannelView]:
    """List the channels, without their URLs."""
    with transaction() as session:
        return channel_views(session)


@router.post("/channels", status_code=HTTPStatus.CREATED, responses=problem_responses(409))
def create_channel(administrator: Administrator, new: NewChannel) -> ChannelView:
    """Add a channel."""
    with transaction() as session:
        channel = add_channel(session, new.name, new.url)
        if new.default_rule:
            add_rule(session, RuleSpec(name=new.name, channel=new.name))
        details = {"service": channel.service}
        record(session, administrator.actor, AuditAction.CHANNEL_ADD, channel.name, details)
        return next(view for view in channel_views(session) if view.id == channel.id)


@router.delete(
    "/channels/{channel_id:int}", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(404)
)
def delete_channel(administrator: Administrator, channel_id: RowId) -> None:
    """Remove a channel with its rules; messages that have not been sent are discarded."""
    with transaction() as session:
        channel = get_channel(session, channel_id)
        record(session, administrator.actor, AuditAction.CHANNEL_REMOVE, channel.name)
        remove_channel(session, channel)


@router.post("/channels/{channel_id:int}/test", responses=problem_responses(404, 409))
def test_channel(operator: Operator, channel_id: RowId) -> TestResult:
    """Send a test message now."""
    with transaction() as session:
        name = get_channel(session, channel_id).name
        record(session, operator.actor, AuditAction.CHANNEL_TEST, name)
    error = send_test(channel_id)
    return TestResult(error is None, error)


@router.get("/rules")
def list_rules(_: Viewer) -> list[RuleView]:
    """List the rules."""
    with transaction() as session:
        return rule_views(session)


@router.post("/rules", status_code=HTTPStatus.CREATED, responses=problem_responses(404, 409))
def create_rule(operator: Operator, rule: NewRule) -> RuleView:
    """Add a rule."""
    with transaction() as session:
        rule_id = add_rule(session, RuleSpec(**dict(rule)))
        record(session, operator.actor, AuditAction.RULE_ADD, rule.name, {"channel": rule.channel})
        return get_rule(session, rule_id)


@router.put("/rules/{rule_id:int}", responses=problem_responses(404, 409))
def replace_rule(operator: Operator, rule_id: RowId, rule: NewRule) -> RuleView:
    """Replace all values of a rule."""
    with transaction() as session:
        change_rule(session, rule_id, RuleSpec(**dict(rule)))
        record(session, operator.actor, AuditAction.RULE_EDIT, rule.name, {"channel": rule.channel})
        return get_rule(session, rule_id)


@router.delete("/rules/{rule_id:int}", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(404))
def delete_rule(operator: Operator, rule_id: RowId) -> None:
    """Remove a rule; its messages that have not been sent are discarded."""
    with transaction() as session:
        record(session, operator.actor, AuditAction.RULE_REMOVE, get_rule(session, rule_id).name)
        remove_rule(session, rule_id)


@router.get("/log")
def list_notifications(
    _: Viewer,
    state: Annotated[DeliveryState | None, Query(description="Only in this state.")] = None,
    channel: Annotated[
        str | None, Query(max_length=100, pattern=NO_NUL, description="Only of the channel with this name.")
    ] = None,
    cursor: CursorId = None,
    limit: Limit = 50,
) -> Page[NotificationView]:
    """List the messages, newest first, with the state of their delivery."""
    with transaction() as session:
        views = notification_views(session, state=state, channel=channel, before_id=cursor, limit=limit + 1)
    return Page.in_id_order(limit, views)
