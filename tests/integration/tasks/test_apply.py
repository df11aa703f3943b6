"""A worker applies outbox rows, whatever titles are locked or invalid."""

from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from accession.db.engine import transaction
from accession.db.models import ApplyOutbox, Collection, LicensePool
from tests.fixtures.broker import Broker
from tests.fixtures.factories import make_collection, title_data
from tests.fixtures.stored import add_outbox_rows, outbox_row_ids, publish, titles_with_metadata
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.usefixtures("worker", "short_lock_wait")


def lock_of(session: Session, row_id: int) -> str:
    pool = session.get_one(ApplyOutbox, row_id).license_pool
    name = f"BibliographicApply:{pool.identifier_id}"
    session.rollback()
    return name


def corrupt(row_id: int, data: dict[str, Any] | None = None) -> None:
    with transaction() as session:
        invalid = data or {"no": "title"}
        session.execute(update(ApplyOutbox).where(ApplyOutbox.id == row_id).values(data=invalid))


@pytest.fixture
def short_lock_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accession.tasks.apply._LOCKED_WAIT_SECONDS", 0.05)


def test_apply_writes_titles_and_deletes_outbox_rows(
    session: Session, collection: Collection, broker: Broker
) -> None:
    publish(add_outbox_rows(session, collection, "t1", "t2"))
    broker.wait_until_idle()
    assert titles_with_metadata() == {"t1", "t2"}
    with transaction() as fresh:
        counts = fresh.query(LicensePool.licenses_owned, LicensePool.status).all()
    assert [tuple(row) for row in counts] == [(2, "active")] * 2
    assert (outbox_row_ids(), broker.locks()) == ([], {})


def test_apply_ignores_deleted_outbox_rows(session: Session, collection: Collection, broker: Broker) -> None:
    row_ids = add_outbox_rows(session, collection, "t1")
    publish([*row_ids, 999])
    publish(row_ids)
    publish([998])
    broker.wait_until_idle()
    assert (titles_with_metadata(), outbox_row_ids()) == ({"t1"}, [])


def test_locked_title_is_applied_later_than_the_others(
    session: Session, collection: Collection, broker: Broker
) -> None:
    one, two, three = add_outbox_rows(session, collection, "t1", "t2", "t3")
    lock = lock_of(session, two)
    broker.redis.set(lock, "other-task")
    publish([one, two, three])
    wait_until(lambda: titles_with_metadata() == {"t1", "t3"}, "the titles that are not locked are applied")
    assert outbox_row_ids() == [two]
    wait_until(lambda: broker.locks() == {lock: "other-task"}, "the locks of the applied titles are released")
    broker.redis.delete(lock)
    broker.wait_until_idle()
    assert titles_with_metadata() == {"t1", "t2", "t3"}
    assert (outbox_row_ids(), broker.locks()) == ([], {})


def test_leftover_lock_of_same_message_is_reused(
    session: Session, collection: Collection, broker: Broker
) -> None:
    from accession.tasks.apply import bibliographic_apply

    row_ids = add_outbox_rows(session, collection, "t1")
    broker.redis.set(lock_of(session, row_ids[0]), "the-message")
    bibliographic_apply.apply_async((row_ids,), task_id="the-message")
    broker.wait_until_idle()
    assert (titles_with_metadata(), broker.locks()) == ({"t1"}, {})


def test_one_message_with_one_title_of_two_collections(
    session: Session, collection: Collection, broker: Broker
) -> None:
    birch = make_collection(session, "Birch Library")
    publish([*add_outbox_rows(session, collection, "t1"), *add_outbox_rows(session, birch, "t1")])
    broker.wait_until_idle()
    assert (titles_with_metadata(), outbox_row_ids(), broker.locks()) == ({"t1"}, [], {})


def test_invalid_title_does_not_block_other_titles(
    session: Session, collection: Collection, broker: Broker
) -> None:
    """Not even a title that was locked when the apply failed."""
    one, invalid, locked, four = add_outbox_rows(session, collection, "t1", "t2", "t3", "t4")
    corrupt(invalid)
    lock = lock_of(session, locked)
    broker.redis.set(lock, "other-task")
    publish([one, invalid, locked, four])
    wait_until(lambda: outbox_row_ids() == [invalid, locked], "the valid titles are applied")
    broker.redis.delete(lock)
    broker.wait_until_idle()
    assert titles_with_metadata() == {"t1", "t3", "t4"}
    assert (outbox_row_ids(), broker.locks()) == ([invalid], {})


def test_locked_title_is_applied_despite_an_invalid_title(
    session: Session, collection: Collection, broker: Broker
) -> None:
    invalid, locked = add_outbox_rows(session, collection, "t1", "t2")
    corrupt(invalid)
    lock = lock_of(session, locked)
    broker.redis.set(lock, "other-task")
    publish([invalid, locked])
    wait_until(lambda: len(broker.raw_messages("apply")) == 0, "the message is taken")
    broker.redis.delete(lock)
    broker.wait_until_idle()
    assert (titles_with_metadata(), outbox_row_ids()) == ({"t2"}, [invalid])


TOO_LONG = title_data("t25", duration_ms=2**63).model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize("data", [{"no": "title"}, TOO_LONG], ids=["no title", "value exceeds its column"])
def test_page_with_one_invalid_title_applies_all_others(
    session: Session, collection: Collection, broker: Broker, data: dict[str, Any]
) -> None:
    names = [f"t{number}" for number in range(50)]
    row_ids = add_outbox_rows(session, collection, *names)
    corrupt(row_ids[25], data)
    publish(row_ids)
    broker.wait_until_idle()
    assert titles_with_metadata() == {*names} - {"t25"}
    assert (outbox_row_ids(), broker.locks()) == ([row_ids[25]], {})
