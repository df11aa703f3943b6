"""Pages of notifications: channels, rules and the delivery log, and their forms."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from accession.accounts.collections import list_collections
from accession.auth.audit import AuditAction, record
from accession.core.errors import UserError
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.db.models import DeliveryState
from accession.notifications.channels import add_channel, channel_views, get_channel, remove_channel
from accession.notifications.delivery import notification_views, send_test
from accession.notifications.kinds import EventKind, Severity
from accession.notifications.rules import (
    RuleSpec,
    add_rule,
    change_rule,
    get_rule,
    remove_rule,
    rule_views,
)
from accession.web.pages.rendering import non_empty_parameters, redirect, render
from accession.web.parameters import MAX_ID, NO_NUL, CursorId, FormField, FormText, RowId
from accession.web.principal import Administrator, Operator, Viewer

router = APIRouter(prefix="/notifications", include_in_schema=False)

_PAGE_SIZE = 50
_HOME = "/notifications"
_DISCARDED = "Messages that have not been sent are discarded. The delivery log stays."

FormUrl = Annotated[str, Form(max_length=2000)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=NO_NUL)]
Number = Annotated[int, Field(ge=0, le=MAX_ID)]


class RuleForm(BaseModel):
    """The fields of the form of a rule."""

    name: Text = ""
    channel: Text = ""
    events: tuple[EventKind, ...] = Field((), max_length=50)
    collections: tuple[Text, ...] = Field((), max_length=10_000)
    min_severity: Severity = Severity.WARNING
    quiet_hours: Text = ""
    time_zone: Text = ""
    critical_ignores_quiet_hours: bool = False
    still_failing_hours: Number
    no_success_hours: Number
    rejected_records: Number
    disk_free_percent: Number

    def spec(self) -> RuleSpec:
        """Return the rule."""
        return RuleSpec(**dict(self))


@router.get("")
def show_notifications(
    request: Request, _: Viewer, state: FormText = "", channel: FormText = "", before: CursorId = None
) -> Response:
    """Show channels, rules, and the messages, newest first."""
    with transaction() as session:
        messages = notification_views(
            session, state=state or None, channel=channel or None, before_id=before, limit=_PAGE_SIZE + 1
        )
        return render(
            request,
            "notifications.html",
            channels=channel_views(session),
            rules=rule_views(session),
            messages=messages[:_PAGE_SIZE],
            states=[each.value for each in DeliveryState],
            filters=non_empty_parameters(state=state, channel=channel),
            next_before=messages[_PAGE_SIZE - 1].id if len(messages) > _PAGE_SIZE else None,
        )


@router.get("/channels/add")
def show_channel_form(request: Request, _: Administrator) -> Response:
    """Show the form that adds a channel."""
    return render(request, "channel_form.html", name="", default_rule=True)


@router.post("/channels/add")
def create_channel(
    request: Request,
    administrator: Administrator,
    name: FormField = "",
    url: FormUrl = "",
    default_rule: Annotated[bool, Form()] = False,
) -> Response:
    """Add the channel, or show the form again with the error."""
    name = name.strip()
    try:
        with transaction() as session:
            channel = add_channel(session, name, SecretStr(url))
            if default_rule:
                add_rule(session, RuleSpec(name=name, channel=name))
            details = {"service": channel.service}
            record(session, administrator.actor, AuditAction.CHANNEL_ADD, name, details)
    except UserError as error:
        context = {"name": name, "default_rule": default_rule, "error": str(error)}
        return render(request, "channel_form.html", status=422, **context)
    return redirect(_HOME, f'"{name}" added. Next: send a test message.')


@router.post("/channels/{channel_id}/test")
def check_channel(operator: Operator, channel_id: RowId) -> Response:
    """Send a test message now, and show the result."""
    with transaction() as session:
        name = get_channel(session, channel_id).name
        record(session, operator.actor, AuditAction.CHANNEL_TEST, name)
    error = send_test(channel_id)
    return redirect(_HOME, error or f'Test message sent to "{name}".')


@router.get("/channels/{channel_id}/remove")
def confirm_channel_removal(request: Request, _: Administrator, channel_id: RowId) -> Response:
    """Show what the removal does, and ask for confirmation."""
    with transaction() as session:
        name = get_channel(session, channel_id).name
    return render(
        request,
        "confirm.html",
        heading=f"Remove the channel {name}?",
        text=f"Its rules are removed, too. {_DISCARDED}",
        button="Remove channel",
        back=_HOME,
    )


@router.post("/channels/{channel_id}/remove")
def delete_channel(administrator: Administrator, channel_id: RowId) -> Response:
    """Remove the channel with its rules."""
    with transaction() as session:
        channel = get_channel(session, channel_id)
        name = channel.name
        record(session, administrator.actor, AuditAction.CHANNEL_REMOVE, name)
        remove_channel(session, channel)
    return redirect(_HOME, f'Channel "{name}" removed.')


@router.get("/rules/add")
def show_rule_form(request: Request, _: Operator) -> Response:
    """Show the form that adds a rule, with the defaults."""
    time_zone = get_settings().time_zone
    return _rule_form(request, asdict(RuleSpec(name="", channel="", time_zone=time_zone)))


@router.get("/rules/{rule_id}/edit")
def show_rule(request: Request, _: Operator, rule_id: RowId) -> Response:
    """Show the form that changes a rule."""
    with transaction() as session:
        rule = get_rule(session, rule_id)
    return _rule_form(request, asdict(rule), is_new=False)


def _rule_form(
    request: Request, values: Mapping[str, Any], *, is_new: bool = True, error: str | None = None
) -> Response:
    with transaction() as session:
        return render(
            request,
            "rule_form.html",
            status=422 if error else 200,
            values=values,
            is_new=is_new,
            error=error,
            events=[event.value for event in EventKind],
            severities=[severity.value for severity in Severity],
            channels=[channel.name for channel in channel_views(session)],
            collections=[collection.name for collection in list_collections(session)],
        )


@router.post("/rules/add")
def create_rule(request: Request, operator: Operator, form: Annotated[RuleForm, Form()]) -> Response:
    """Add the rule, or show the form again with the error."""
    try:
        with transaction() as session:
            add_rule(session, form.spec())
            record(session, operator.actor, AuditAction.RULE_ADD, form.name, {"channel": form.channel})
    except UserError as error:
        return _rule_form(request, form.model_dump(), error=str(error))
    return redirect(_HOME, f'Rule "{form.name}" added.')


@router.post("/rules/{rule_id}/edit")
def update_rule(
    request: Request, operator: Operator, rule_id: RowId, form: Annotated[RuleForm, Form()]
) -> Response:
    """Change the rule, or show the form again with the error."""
    with transaction() as session:
        get_rule(session, rule_id)
    try:
        with transaction() as session:
            change_rule(session, rule_id, form.spec())
            record(session, operator.actor, AuditAction.RULE_EDIT, form.name, {"channel": form.channel})
    except UserError as error:
        return _rule_form(request, form.model_dump(), is_new=False, error=str(error))
    return redirect(_HOME, f'Rule "{form.name}" changed.')


@router.get("/rules/{rule_id}/remove")
def confirm_rule_removal(request: Request, _: Operator, rule_id: RowId) -> Response:
    """Show what the removal does, and ask for confirmation."""
    with transaction() as session:
        name = get_rule(session, rule_id).name
    return render(
        request,
        "confirm.html",
        heading=f"Remove the rule {name}?",
        text=_DISCARDED,
        button="Remove rule",
        back=_HOME,
    )


@router.post("/rules/{rule_id}/remove")
def delete_rule(operator: Operator, rule_id: RowId) -> Response:
    """Remove the rule."""
    with transaction() as session:
        name = get_rule(session, rule_id).name
        record(session, operator.actor, AuditAction.RULE_REMOVE, name)
        remove_rule(session, rule_id)
    return redirect(_HOME, f'Rule "{name}" removed.')
