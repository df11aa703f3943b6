"""Pages of webhooks: the webhooks, their deliveries, and the forms."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, SecretStr, StringConstraints

from accession.accounts.collections import list_collections
from accession.core.errors import InvalidInput, UserError
from accession.db.engine import transaction
from accession.db.models import WebhookDeliveryState, WebhookEvent
from accession.web.pages.rendering import non_empty_parameters, redirect, render
from accession.web.parameters import NO_NUL, BigCursorId, BigRowId, FormField, FormText, RowId
from accession.web.principal import Administrator, Operator
from accession.webhooks.delivery import send_test
from accession.webhooks.log import (
    DeliveryFilter,
    delivery_view,
    delivery_views,
    replay_delivery,
    replay_period,
    skip_delivery,
)
from accession.webhooks.registry import (
    WebhookSpec,
    add_webhook,
    change_webhook,
    find_webhook,
    get_webhook,
    pause_webhook,
    remove_webhook,
    resume_webhook,
    rotate_secret,
    webhook_view,
    webhook_views,
)
from accession.webhooks.sender import MAX_URL_LENGTH

router = APIRouter(prefix="/webhooks", include_in_schema=False)

_PAGE_SIZE = 50
_HOME = "/webhooks"
_STATES = [state.value for state in WebhookDeliveryState]
_EVENTS = [event.value for event in WebhookEvent]

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_URL_LENGTH, pattern=NO_NUL)]


class WebhookForm(BaseModel):
    """The fields of the form of a webhook."""

    name: Text = ""
    url: Text = ""
    events: tuple[WebhookEvent, ...] = Field((), max_length=50)
    collections: tuple[Text, ...] = Field((), max_length=10_000)

    def spec(self) -> WebhookSpec:
        """Return the webhook."""
        return WebhookSpec(**dict(self))


class PeriodForm(BaseModel):
    """The fields of the form that sends events again: days in UTC, the last one included."""

    first_day: date | None = None
    last_day: date | None = None


@router.get("")
def list_webhooks(request: Request, _: Operator) -> Response:
    """Show the webhooks."""
    with transaction() as session:
        return render(request, "webhooks.html", webhooks=webhook_views(session), events=_EVENTS)


@router.get("/add")
def show_add_form(request: Request, _: Administrator) -> Response:
    """Show the form that adds a webhook."""
    return _form(request, asdict(WebhookSpec("", "")))


@router.post("/add")
def create_webhook(
    request: Request, administrator: Administrator, form: Annotated[WebhookForm, Form()]
) -> Response:
    """Add the webhook and show its secret once, or show the form again with the error."""
    try:
        with transaction() as session:
            webhook, secret = add_webhook(session, administrator.actor, form.spec())
            webhook_id = webhook.id
    except UserError as error:
        return _form(request, form.model_dump(), error=str(error))
    return _show_secret(request, webhook_id, form.name, secret)


def _form(
    request: Request, values: Mapping[str, Any], *, webhook_id: int | None = None, error: str | None = None
) -> Response:
    with transaction() as session:
        return render(
            request,
            "webhook_form.html",
            status=422 if error else 200,
            values=values,
            webhook_id=webhook_id,
            error=error,
            events=_EVENTS,
            collections=[collection.name for collection in list_collections(session)],
        )


def _show_secret(request: Request, webhook_id: int, name: str, secret: SecretStr) -> Response:
    # Not by a redirect: its message would be a cookie.
    shown = secret.get_secret_value()
    return render(request, "webhook_secret.html", webhook_id=webhook_id, name=name, secret=shown)


@router.get("/{webhook_id}")
def show_webhook(
    request: Request,
    _: Operator,
    webhook_id: RowId,
    state: FormText = "",
    event: FormText = "",
    before: BigCursorId = None,
) -> Response:
    """Show a webhook and its deliveries, newest first."""
    filters = DeliveryFilter(
        webhook_id,
        WebhookDeliveryState(state) if state in _STATES else None,
        event if event in _EVENTS else None,
    )
    with transaction() as session:
        deliveries = delivery_views(session, filters, before_id=before, limit=_PAGE_SIZE + 1)
        return render(
            request,
            "webhook.html",
            webhook=webhook_view(session, webhook_id),
            deliveries=deliveries[:_PAGE_SIZE],
            states=_STATES,
            events=_EVENTS,
            filters=non_empty_parameters(state=filters.state, event=filters.event),
            next_before=deliveries[_PAGE_SIZE - 1].id if len(deliveries) > _PAGE_SIZE else None,
        )


@router.get("/{webhook_id}/edit")
def show_edit_form(request: Request, _: Administrator, webhook_id: RowId) -> Response:
    """Show the form that changes a webhook."""
    with transaction() as session:
        webhook = webhook_view(session, webhook_id)
    return _form(request, asdict(webhook), webhook_id=webhook_id)


@router.post("/{webhook_id}/edit")
def update_webhook(
    request: Request, administrator: Administrator, webhook_id: RowId, form: Annotated[WebhookForm, Form()]
) -> Response:
    """Change the webhook, or show the form again with the error."""
    try:
        with transaction() as session:
            change_webhook(session, administrator.actor, get_webhook(session, webhook_id), form.spec())
    except UserError as error:
        return _form(request, form.model_dump(), webhook_id=webhook_id, error=str(error))
    return redirect(f"{_HOME}/{webhook_id}", f'Webhook "{form.name}" changed.')


@router.post("/{webhook_id}/test")
def check_webhook(operator: Operator, webhook_id: RowId) -> Response:
    """Send a test event now, and show the result."""
    error = send_test(operator.actor, webhook_id)
    return redirect(
        f"{_HOME}/{webhook_id}", "Test event accepted." if error is None else f"Test failed: {error}"
    )


@router.post("/{webhook_id}/pause")
def pause(operator: Operator, webhook_id: RowId, reason: FormField = "") -> Response:
    """Send no more events."""
    with transaction() as session:
        pause_webhook(session, operator.actor, get_webhook(session, webhook_id), reason)
    return redirect(f"{_HOME}/{webhook_id}", "Webhook paused. Its events wait.")


@router.post("/{webhook_id}/resume")
def resume(operator: Operator, webhook_id: RowId) -> Response:
    """Send events again."""
    with transaction() as session:
        resume_webhook(session, operator.actor, get_webhook(session, webhook_id))
    return redirect(f"{_HOME}/{webhook_id}", "Webhook resumed. Waiting events are sent now.")


@router.post("/{webhook_id}/replay")
def replay(operator: Operator, webhook_id: RowId, period: Annotated[PeriodForm, Form()]) -> Response:
    """Send the events of a period again."""
    if period.first_day is None:
        raise InvalidInput("No events are sent again: enter the first day of the period.")
    since = datetime.combine(period.first_day, time(), UTC)
    until = None
    if period.last_day is not None:
        until = datetime.combine(period.last_day, time(), UTC) + timedelta(days=1)
    with transaction() as session:
        number = replay_period(session, operator.actor, get_webhook(session, webhook_id), since, until)
    return redirect(
        f"{_HOME}/{webhook_id}", f"{number:,} event{'' if number == 1 else 's'} will be sent again."
    )


@router.get("/{webhook_id}/rotate-secret")
def confirm_rotation(request: Request, _: Administrator, webhook_id: RowId) -> Response:
    """Ask for confirmation."""
    with transaction() as session:
        name = get_webhook(session, webhook_id).name
    return render(
        request,
        "confirm.html",
        heading=f"Replace the secret of {name}?",
        text="The new secret is shown once. For a day, requests are signed with both, so that the receiver "
        "can be changed meanwhile.",
        button="Replace secret",
        back=f"{_HOME}/{webhook_id}",
    )


@router.post("/{webhook_id}/rotate-secret")
def replace_secret(request: Request, administrator: Administrator, webhook_id: RowId) -> Response:
    """Replace the secret and show it once."""
    with transaction() as session:
        webhook = get_webhook(session, webhook_id)
        name, secret = webhook.name, rotate_secret(session, administrator.actor, webhook)
    return _show_secret(request, webhook_id, name, secret)


@router.get("/{webhook_id}/remove")
def confirm_removal(request: Request, _: Administrator, webhook_id: RowId) -> Response:
    """Ask for confirmation."""
    with transaction() as session:
        webhook = webhook_view(session, webhook_id)
    pending = f"{webhook.pending:,} pending event{'' if webhook.pending == 1 else 's'}"
    return render(
        request,
        "confirm.html",
        heading=f"Remove the webhook {webhook.name}?",
        text=f"Its deliveries are deleted{f', also {pending}' if webhook.pending else ''}.",
        button="Remove",
        back=f"{_HOME}/{webhook_id}",
    )


@router.post("/{webhook_id}/remove")
def delete_webhook(administrator: Administrator, webhook_id: RowId) -> Response:
    """Remove the webhook."""
    with transaction() as session:
        webhook = get_webhook(session, webhook_id)
        name = webhook.name
        remove_webhook(session, administrator.actor, webhook)
    return redirect(_HOME, f'Webhook "{name}" removed.')


@router.get("/deliveries/{delivery_id}")
def show_delivery(request: Request, _: Operator, delivery_id: BigRowId) -> Response:
    """Show a delivery with what was sent, and the beginning of the response."""
    with transaction() as session:
        delivery = delivery_view(session, delivery_id)
        webhook_id = find_webhook(session, delivery.webhook).id
    body = json.dumps(json.loads(delivery.body), indent=2, ensure_ascii=False) if delivery.body else ""
    return render(request, "webhook_delivery.html", delivery=delivery, body=body, webhook_id=webhook_id)


@router.post("/deliveries/{delivery_id}/replay")
def replay_one(operator: Operator, delivery_id: BigRowId) -> Response:
    """Send the event again."""
    with transaction() as session:
        replay_delivery(session, operator.actor, delivery_id)
    return redirect(f"{_HOME}/deliveries/{delivery_id}", "The event will be sent again.")


@router.post("/deliveries/{delivery_id}/skip")
def skip(operator: Operator, delivery_id: BigRowId) -> Response:
    """Do not deliver the event."""
    with transaction() as session:
        skip_delivery(session, operator.actor, delivery_id)
    return redirect(f"{_HOME}/deliveries/{delivery_id}", "Event skipped. Those behind it are sent.")
