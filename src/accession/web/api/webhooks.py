"""API of webhooks: the webhooks, and the deliveries of events."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from accession.db.engine import transaction
from accession.db.models import WebhookDeliveryState, WebhookEvent
from accession.web.api.schemas import Page, problem_responses
from accession.web.parameters import NO_NUL, BigCursorId, BigRowId, Limit, RowId
from accession.web.principal import Administrator, Operator
from accession.webhooks.delivery import send_test
from accession.webhooks.log import (
    DeliveryFilter,
    DeliveryView,
    delivery_view,
    delivery_views,
    replay_delivery,
    replay_period,
    skip_delivery,
)
from accession.webhooks.registry import (
    WebhookSpec,
    WebhookView,
    add_webhook,
    change_webhook,
    get_webhook,
    pause_webhook,
    remove_webhook,
    resume_webhook,
    rotate_secret,
    webhook_view,
    webhook_views,
)
from accession.webhooks.sender import MAX_URL_LENGTH

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NO_NUL)]


class WebhookInput(BaseModel):
    """A webhook to add, or to replace the values of one."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    url: Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_LENGTH, pattern=NO_NUL)]
    events: tuple[WebhookEvent, ...] = Field(
        tuple(WebhookEvent), min_length=1, max_length=50, description="Kinds of events."
    )
    collections: tuple[Name, ...] = Field(
        (), max_length=10_000, description="Names of collections; empty for all."
    )

    def spec(self) -> WebhookSpec:
        """Return the webhook."""
        return WebhookSpec(**dict(self))


class Pause(BaseModel):
    """A pause of a webhook."""

    reason: Annotated[str, StringConstraints(max_length=500, pattern=NO_NUL)] = ""


class Period(BaseModel):
    """Period whose events are sent again."""

    since: AwareDatetime = Field(description="From then on.")
    until: AwareDatetime | None = Field(None, description="Before then.")


@dataclass(frozen=True)
class NewSecret:
    """Secret of a webhook, which is not shown again."""

    secret: str


@dataclass(frozen=True)
class AddedWebhook:
    """A webhook that was added, with its secret, which is not shown again."""

    webhook: WebhookView
    secret: str


@dataclass(frozen=True)
class TestResult:
    """Result of a test event; `error` is null if the receiver has accepted it."""

    sent: bool
    error: str | None


@dataclass(frozen=True)
class ReplayResult:
    """Number of events that will be sent again."""

    events: int


@router.get("", responses=problem_responses(403))
def list_webhooks(_: Operator) -> list[WebhookView]:
    """List the webhooks, without their secrets."""
    with transaction() as session:
        return webhook_views(session)


@router.post("", status_code=HTTPStatus.CREATED, responses=problem_responses(403, 404, 409))
def create_webhook(administrator: Administrator, new: WebhookInput) -> AddedWebhook:
    """Add a webhook, and return it with its secret."""
    with transaction() as session:
        webhook, secret = add_webhook(session, administrator.actor, new.spec())
        return AddedWebhook(webhook_view(session, webhook.id), secret.get_secret_value())


@router.get("/{webhook_id}", responses=problem_responses(403, 404))
def read_webhook(_: Operator, webhook_id: RowId) -> WebhookView:
    """Return a webhook."""
    with transaction() as session:
        return webhook_view(session, webhook_id)


@router.put("/{webhook_id}", responses=problem_responses(403, 404, 409))
def replace_webhook(administrator: Administrator, webhook_id: RowId, values: WebhookInput) -> WebhookView:
    """Replace name, URL, events and collections of a webhook; pending events are sent to the new URL."""
    with transaction() as session:
        change_webhook(session, administrator.actor, get_webhook(session, webhook_id), values.spec())
        return webhook_view(session, webhook_id)


@router.delete("/{webhook_id}", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(403, 404))
def delete_webhook(administrator: Administrator, webhook_id: RowId) -> None:
    """Remove a webhook with its deliveries; pending events are discarded."""
    with transaction() as session:
        remove_webhook(session, administrator.actor, get_webhook(session, webhook_id))


@router.post("/{webhook_id}/rotate-secret", responses=problem_responses(403, 404))
def replace_secret(administrator: Administrator, webhook_id: RowId) -> NewSecret:
    """Replace the secret; for a day, requests are signed with both."""
    with transaction() as session:
        secret = rotate_secret(session, administrator.actor, get_webhook(session, webhook_id))
    return NewSecret(secret.get_secret_value())


@router.post("/{webhook_id}/test", responses=problem_responses(403, 404, 409))
def check_webhook(operator: Operator, webhook_id: RowId) -> TestResult:
    """Send a test event now."""
    error = send_test(operator.actor, webhook_id)
    return TestResult(error is None, error)


@router.post("/{webhook_id}/pause", responses=problem_responses(403, 404))
def pause(operator: Operator, webhook_id: RowId, values: Pause) -> WebhookView:
    """Send no more events; they wait until the webhook is resumed."""
    with transaction() as session:
        pause_webhook(session, operator.actor, get_webhook(session, webhook_id), values.reason)
        return webhook_view(session, webhook_id)


@router.post("/{webhook_id}/resume", responses=problem_responses(403, 404))
def resume(operator: Operator, webhook_id: RowId) -> WebhookView:
    """Send events again, at once also those that have failed."""
    with transaction() as session:
        resume_webhook(session, operator.actor, get_webhook(session, webhook_id))
        return webhook_view(session, webhook_id)


@router.post("/{webhook_id}/replay", responses=problem_responses(403, 404))
def replay(operator: Operator, webhook_id: RowId, period: Period) -> ReplayResult:
    """Send the events of a period again that were delivered or skipped."""
    with transaction() as session:
        webhook = get_webhook(session, webhook_id)
        return ReplayResult(replay_period(session, operator.actor, webhook, period.since, period.until))


@router.get("/{webhook_id}/deliveries", responses=problem_responses(403, 404))
def list_deliveries(
    _: Operator,
    webhook_id: RowId,
    state: WebhookDeliveryState | None = None,
    event: WebhookEvent | None = None,
    cursor: BigCursorId = None,
    limit: Limit = 50,
) -> Page[DeliveryView]:
    """List the deliveries of a webhook, newest first."""
    filters = DeliveryFilter(webhook_id, state, event)
    with transaction() as session:
        get_webhook(session, webhook_id)
        views = delivery_views(session, filters, before_id=cursor, limit=limit + 1)
    return Page(items=views[:limit], next=str(views[limit - 1].id) if len(views) > limit else None)


@router.get("/deliveries/{delivery_id}", responses=problem_responses(403, 404))
def read_delivery(_: Operator, delivery_id: BigRowId) -> DeliveryView:
    """Return a delivery with the body that was sent."""
    with transaction() as session:
        return delivery_view(session, delivery_id)


@router.post("/deliveries/{delivery_id}/replay", responses=problem_responses(403, 404, 409))
def replay_one(operator: Operator, delivery_id: BigRowId) -> DeliveryView:
    """Send the event of a delivery again."""
    with transaction() as session:
        replay_delivery(session, operator.actor, delivery_id)
        return delivery_view(session, delivery_id)


@router.post("/deliveries/{delivery_id}/skip", responses=problem_responses(403, 404, 409))
def skip(operator: Operator, delivery_id: BigRowId) -> DeliveryView:
    """Do not deliver a pending event, so that those behind it are sent."""
    with transaction() as session:
        skip_delivery(session, operator.actor, delivery_id)
        return delivery_view(session, delivery_id)
