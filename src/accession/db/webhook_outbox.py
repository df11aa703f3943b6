"""Store events for the webhooks that subscribe to them, in the transaction of the change they report.

One statement stores an event for each of the webhooks. It is left out while there are none.
"""

from sqlalchemy import any_, bindparam, exists, select
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Session
from sqlalchemy.sql.selectable import FromClause

from accession.db.models import Webhook, WebhookDelivery, table_of

_COLUMNS = ("collection_id", "license_pool_id", "event", "data")
_HAS_WEBHOOKS = select(exists().select_from(table_of(Webhook)))


def has_webhooks(session: Session) -> bool:
    """Return whether there is a webhook, also one that is paused."""
    return bool(session.connection().scalar(_HAS_WEBHOOKS))


def store_events_statement(events: FromClause) -> Insert:
    """Return the INSERT of events for the webhooks that subscribe to them.

    Its parameter `stored_at` is the present time (UTC).

    Args:
        events: rows with the columns `collection_id`, `license_pool_id`, `event` and `data`.
    """
    webhooks, deliveries = table_of(Webhook), table_of(WebhookDelivery)
    now = bindparam("stored_at", type_=deliveries.c.created_at.type)
    is_subscribed = events.c.event == any_(webhooks.c.events)
    is_of_collection = webhooks.c.collection_ids.is_(None) | (
        events.c.collection_id == any_(webhooks.c.collection_ids)
    )
    rows = (
        select(webhooks.c.id, *(events.c[name] for name in _COLUMNS), now, now)
        .select_from(events.join(webhooks, is_subscribed & is_of_collection))
        # A webhook that is removed meanwhile is left out.
        .with_for_update(of=webhooks, key_share=True, read=True)
    )
    columns = ["webhook_id", *_COLUMNS, "created_at", "due_at"]
    return insert(deliveries).from_select(columns, rows)
