"""The task that makes titles available on the day from which they are on sale."""

from datetime import timedelta

import time_machine
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.db.models import Collection, LicensePool
from tests.fixtures.broker import Broker, Message
from tests.fixtures.factories import NOON, store_title


def deliver_update(broker: Broker) -> object:
    from accession.tasks.on_order import update_titles_on_order as task

    return broker.deliver(Message(task.name, "task-id", [], {}, 0, None))


def test_titles_on_order_become_active_on_their_day(
    session: Session, collection: Collection, broker: Broker
) -> None:
    with time_machine.travel(NOON, tick=False):
        for name, on_sale in {"a": "2024-05-02", "b": "2024-05-03", "c": None}.items():
            store_title(session, collection, name, on_sale=on_sale)
        assert deliver_update(broker) == 0
    assert statuses(session) == ["on order", "on order", "active"]

    with time_machine.travel(NOON + timedelta(days=1), tick=False):
        assert deliver_update(broker) == 1
        assert deliver_update(broker) == 0
    assert statuses(session) == ["active", "on order", "active"]


def statuses(session: Session) -> list[str]:
    session.expire_all()
    return list(session.scalars(select(LicensePool.status).order_by(LicensePool.id)))
