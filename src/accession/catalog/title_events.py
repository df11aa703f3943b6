"""Events of titles for webhooks: which change of a license pool or an edition is reported, and as what.

A collection has a title while it owns copies of it. Loans and holds alone are not reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Integer, Text, all_, bindparam, func, literal, select, union_all
from sqlalchemy.dialects.postgresql import JSONB, Insert
from sqlalchemy.orm import Session

from accession.catalog.editions import WrittenEditions, pool_edition_join
from accession.catalog.title_changes import filled_fields
from accession.core.clock import utc_now
from accession.db.models import CopyCounts, Edition, LicensePool, PoolStatus, WebhookEvent
from accession.db.webhook_outbox import has_webhooks, store_events_statement

_HELD = (PoolStatus.ACTIVE, PoolStatus.ON_ORDER)
_NO_EDITIONS = WrittenEditions(0)


@dataclass(frozen=True)
class TitleEvent:
    """An event of a title of a collection; `changed` are the names of the fields of a changed title."""

    pool_id: int
    event: WebhookEvent
    changed: tuple[str, ...] = ()


def pool_events(pool: LicensePool, counts: CopyCounts, status: str) -> list[TitleEvent]:
    """Return the event of a pool that is about to change to these counts and this status, if it is one."""
    if pool.status not in _HELD:
        return [TitleEvent(pool.id, WebhookEvent.TITLE_ADDED)] if status in _HELD else []
    if status not in _HELD:
        return [TitleEvent(pool.id, WebhookEvent.TITLE_REMOVED)]
    after = {"licenses_owned": counts.owned, "status": status}
    changed = tuple(name for name, value in after.items() if getattr(pool, name) != value)
    return [TitleEvent(pool.id, WebhookEvent.TITLE_CHANGED, changed)] if changed else []


def store_title_events(
    session: Session, events: Sequence[TitleEvent], editions: WrittenEditions = _NO_EDITIONS
) -> None:
    """Store the events for the webhooks that subscribe to them, with one statement besides a check.

    Metadata that was written is reported for each collection that has the title. If a collection adds the
    title at the same time, it is part of that event.
    """
    if not (events or editions.written) or not has_webhooks(session):
        return
    metadata = {edition_id: filled_fields(data) for edition_id, data in editions.added.items()}
    metadata |= {change["edition_id"]: tuple(change["changes"]) for change in editions.changes}
    added = [each.pool_id for each in events if each.event == WebhookEvent.TITLE_ADDED]
    session.execute(
        _store_statement(),
        {
            "pools": [each.pool_id for each in events],
            "events": [each.event.value for each in events],
            "changes": [_data(each.changed) for each in events],
            "editions": list(metadata),
            "edition_changes": [_data(changed) for changed in metadata.values()],
            "added": added,
            "stored_at": utc_now(),
        },
    )


def _data(changed: Sequence[str]) -> dict[str, Any]:
    return {"changed": list(changed)} if changed else {}


@cache
def _store_statement() -> Insert:
    pools = _unnested(
        "of_pools", license_pool_id=("pools", Integer()), event=("events", Text()), data=("changes", JSONB())
    )
    editions = _unnested("of_editions", edition_id=("editions", Integer()), data=("edition_changes", JSONB()))
    of_pools = select(
        LicensePool.collection_id, LicensePool.id.label("license_pool_id"), pools.c.event, pools.c.data
    )
    of_pools = of_pools.join(pools, pools.c.license_pool_id == LicensePool.id)
    of_editions = (
        select(
            LicensePool.collection_id,
            LicensePool.id,
            literal(WebhookEvent.TITLE_CHANGED.value, Text()),
            editions.c.data,
        )
        .join(Edition, pool_edition_join())
        .join(editions, editions.c.edition_id == Edition.id)
        .where(LicensePool.status.in_(_HELD))
        .where(LicensePool.id != all_(bindparam("added", type_=ARRAY(Integer))))
    )
    return store_events_statement(union_all(of_pools, of_editions).subquery("events"))


def _unnested(name: str, **columns: tuple[str, Any]) -> Any:
    arrays = [bindparam(parameter, type_=ARRAY(type_, dimensions=1)) for parameter, type_ in columns.values()]
    return func.unnest(*arrays).table_valued(*columns, name=name).render_derived()
