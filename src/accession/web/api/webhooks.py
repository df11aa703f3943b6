"""API of webhooks: the webhooks, and the deliveries of events."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints

from accession.db.engine import transaction
from accession.db.models import WebhookDeliveryState, WebhookEvent
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body, Choice, Items, Page, TestResult
from accession.web.parameters import NO_NUL, BigCursorId, BigRowId, Limit, RowId, Time
from accession.web.principal import Administrator, Operator
from accession.webhooks import registry
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
    remove_webhook,
    rotate_secret,
    webhook_view,
    webhook_views,
)
from accession.webhooks.sender import MAX_URL_LENGTH

router = APIRouter(prefix="/webhooks", tags=["webhooks"])

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NO_NUL)]


class NewWebhook(Body):
    """A webhook to add, or to replace the values of one."""

    name: Name
    url: Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_LENGTH, pattern=NO_NUL)]
    events: Items[Choice[WebhookEvent]] = Field(
        tuple(WebhookEvent), min_length=1, max_length=50, description="Kinds of events."
    )
    collections: Items[Name] = Field(
        (), max_length=10_000, description="Names of collections; empty for all."
    )

    def spec(self) -> WebhookSpec:
        """Return the webhook."""
        return WebhookSpec(**dict(self))


class NewWebhookPause(Body):
    """A pause of a webhook."""

    reason: Annotated[str, StringConstraints(max_length=500, pattern=NO_NUL)] = ""


class ReplayPeriod(Body):
    """Period whose events are sent again."""

    since: Time = Field(description="From then on.")
    until: Time | None = Field(None, description="Before then.")


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
class ReplayResult:
    """Number of events that will be sent again."""

    events: int


@router.get("")
def list_webhooks(_: Operator) -> list[WebhookView]:
    """List the webhooks, without their secrets."""
    with transaction() as session:
        return webhook_views(session)


@router.post("", status_code=HTTPStatus.CREATED, responses=problem_responses(404, 409))
def create_webhook(administrator: Administrator, new: NewWebhook) -> AddedWebhook:
    """Add a webhook, and return it with its secret."""
    with transaction() as session:
        webhook, secret = add_webhook(session, administrator.actor, new.spec())
        return AddedWebhook(webhook_view(session, webhook.id), secret.get_secret_value())


@router.get("/{webhook_id:int}", responses=problem_responses(404))
def show_webhook(_: Operator, webhook_id: RowId) -> WebhookView:
    """Return a webhook."""
    with transaction() as session:
        return webhook_view(session, webhook_id)


@router.put("/{webhook_id:int}", responses=problem_responses(404, 409))
def replace_webhook(administrator: Administrator, webhook_id: RowId, values: NewWebhook) -> WebhookView:
    """Replace name, URL, events and collections of a webhook; pending events are sent to the new URL."""
    with transaction() as session:
        change_webhook(session, administrator.actor, get_webhook(session, webhook_id), values.spec())
        return webhook_view(session, webhook_id)


@router.delete("/{webhook_id:int}", status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(404))
def delete_webhook(administrator: Administrator, webhook_id: RowId) -> None:
    """Remove a webhook with its deliveries; pending events are discarded."""
    with transaction() as session:
        remove_webhook(session, administrator.actor, get_webhook(session, webhook_id))


@router.post("/{webhook_id:int}/rotate-secret", responses=problem_responses(404))
def rotate_webhook_secret(administrator: Administrator, webhook_id: RowId) -> NewSecret:
    """Replace the secret; for a day, requests are signed with both."""
    with transaction() as session:
        secret = rotate_secret(session, administrator.actor, get_webhook(session, webhook_id))
    return NewSecret(secret.get_secret_value())


@router.post("/{webhook_id:int}/test", responses=problem_responses(404, 409))
def test_webhook(operator: Operator, webhook_id: RowId) -> TestResult:
    """Send a test event now."""
    error = send_test(operator.actor, webhook_id)
    return TestResult(error is None, error)


@router.post("/{webhook_id:int}/pause", responses=problem_responses(404))
def pause_webhook(operator: Operator, webhook_id: RowId, values: NewWebhookPause) -> WebhookView:
    """Send no more events; they wait until the webhook is resumed."""
    with transaction() as session:
        registry.pause_webhook(session, operator.actor, get_webhook(session, webhook_id), values.reason)
        return webhook_view(session, webhook_id)


@router.post("/{webhook_id:int}/resume", responses=problem_responses(404))
def resume_webhook(operator: Operator, webhook_id: RowId) -> WebhookView:
    """Send events again, at once also those that have failed."""
    with transaction() as session:
        registry.resume_webhook(session, operator.actor, get_webhook(session, webhook_id))
        return webhook_view(session, webhook_id)


@router.post("/{webhook_id:int}/replay", responses=problem_responses(404))
def replay_webhook_events(operator: Operator, webhook_id: RowId, period: ReplayPeriod) -> ReplayResult:
    """Send the events of a period again that were delivered or skipped."""
    with transaction() as session:
        webhook = get_webhook(session, webhook_id)
        return ReplayResult(replay_period(session, operator.actor, webhook, period.since, period.until))


@router.get("/{webhook_id:int}/deliveries", responses=problem_responses(404))
def list_webhook_deliveries(
    _: Operator,
    webhook_id: RowId,
    state: Annotated[WebhookDeliveryState | None, Query(description="Only in this state.")] = None,
    event: Annotated[WebhookEvent | None, Query(description="Only of this kind.")] = None,
    cursor: BigCursorId = None,
    limit: Limit = 50,
) -> Page[DeliveryView]:
    """List the deliveries of a webhook, newest first."""
    filters = DeliveryFilter(webhook_id, state, event)
    with transaction() as session:
        get_webhook(session, webhook_id)
        views = delivery_views(session, filters, before_id=cursor, limit=limit + 1)
    return Page.in_id_order(limit, views)


@router.get("/deliveries/{delivery_id:int}", responses=problem_responses(404))
def show_webhook_delivery(_: Operator, delivery_id: BigRowId) -> DeliveryView:
    """Return a delivery with the body that was sent."""
    with transaction() as session:
        return delivery_view(session, delivery_id)


@router.post("/deliveries/{delivery_id:int}/replay", responses=problem_responses(404, 409))
def replay_webhook_delivery(operator: Operator, delivery_id: BigRowId) -> DeliveryView:
    """Send the event of a delivery again."""
    with transaction() as session:
        replay_delivery(session, operator.actor, delivery_id)
        return delivery_view(session, delivery_id)


@router.post("/deliveries/{delivery_id:int}/skip", responses=problem_responses(404, 409))
def skip_webhook_delivery(operator: Operator, delivery_id: BigRowId) -> DeliveryView:
    """Do not deliver a pending event, so that those behind it are sent."""
    with transaction() as session:
        skip_delivery(session, operator.actor, delivery_id)
        return delivery_view(session, delivery_id)
