"""The tasks that roll up events and refresh the statistics of titles."""

from datetime import timedelta

import pytest
import time_machine
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.catalog import circulation_totals
from accession.catalog.circulation import record_events
from accession.catalog.title_statistics import last_refreshed_at
from accession.db.models import CirculationTotal, Collection, CollectionOverlap, TitleStatistics
from tests.fixtures.broker import Broker, Message
from tests.fixtures.factories import NOON, event_data, make_collection, make_pool, store_title


def deliver(broker: Broker, name: str) -> object:
    from accession.tasks import statistics

    return broker.deliver(Message(getattr(statistics, name).name, "task-id", [], {}, 0, None))


def test_all_events_are_rolled_up_in_batches(
    session: Session, collection: Collection, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession.tasks import statistics

    for module in (circulation_totals, statistics):
        monkeypatch.setattr(module, "BATCH_SIZE", 2)
    pool = make_pool(session, collection, "a")
    events = [event_data(str(number), "CHECKOUT", "a", at=NOON) for number in range(5)]
    record_events(session, collection, {"a": pool}, events)
    session.commit()

    assert deliver(broker, "roll_up_circulation_events") == 5
    assert deliver(broker, "roll_up_circulation_events") == 0
    assert session.scalar(select(func.sum(CirculationTotal.events))) == 5


def test_statistics_of_all_collections_are_refreshed(
    session: Session, collection: Collection, broker: Broker
) -> None:
    for holder in (collection, make_collection(session, "Birch Library")):
        store_title(session, holder, "a")
    with time_machine.travel(NOON, tick=False):
        assert deliver(broker, "refresh_statistics") is True
    assert session.scalar(select(func.count()).select_from(TitleStatistics)) == 2
    assert session.scalar(select(func.count()).select_from(CollectionOverlap)) == 4
    assert last_refreshed_at(session) == NOON


def test_recent_statistics_are_not_refreshed(
    session: Session, collection: Collection, broker: Broker
) -> None:
    with time_machine.travel(NOON, tick=False):
        deliver(broker, "refresh_statistics")
        store_title(session, collection, "a")
        deliver(broker, "refresh_statistics")
    with time_machine.travel(NOON + timedelta(hours=9), tick=False):
        assert deliver(broker, "refresh_statistics") is True
    row = session.scalars(select(TitleStatistics)).one()
    assert row.first_purchased_on is None
