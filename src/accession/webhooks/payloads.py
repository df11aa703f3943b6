"""Requests of webhooks: JSON objects with the type, the time and the data of an event."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.titles import TitleView, titles_of_pools
from accession.db.bulk import in_array
from accession.db.models import Collection, WebhookDelivery

TEST_EVENT = "webhook.test"
"""Type of the event that a person sends to test a webhook."""

_TITLE = TypeAdapter(TitleView)
# The collection has an object of its own, and the warnings are for people.
_LEFT_OUT = {"collection", "warnings"}


def write_bodies(session: Session, deliveries: Sequence[WebhookDelivery]) -> None:
    """Write the bodies of deliveries that have none yet: titles as they are now.

    A body does not change any more, so that an event that arrives twice is the same.
    """
    new = [delivery for delivery in deliveries if delivery.body is None]
    pool_ids = sorted({each.license_pool_id for each in new if each.license_pool_id is not None})
    titles = dict(zip(pool_ids, titles_of_pools(session, pool_ids), strict=True))
    collections = _collection_names(
        session, {each.collection_id for each in new if each.collection_id is not None}
    )
    for delivery in new:
        delivery.body = _write_body(delivery, titles, collections)


def _collection_names(session: Session, collection_ids: set[int]) -> dict[int, str]:
    query = select(Collection.id, Collection.name).where(in_array(Collection.id, collection_ids))
    return dict(session.execute(query).all())


def _write_body(
    delivery: WebhookDelivery, titles: Mapping[int, TitleView], collections: Mapping[int, str]
) -> str:
    data: dict[str, Any] = {}
    if delivery.collection_id is not None:
        data["collection"] = {"id": delivery.collection_id, "name": collections[delivery.collection_id]}
    if delivery.license_pool_id is not None:
        title = titles[delivery.license_pool_id]
        data["title"] = _TITLE.dump_python(title, mode="json", exclude=_LEFT_OUT)
    event = {
        "type": delivery.event,
        "timestamp": to_jsonable_python(delivery.created_at),
        "data": data | delivery.data,
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
