"""A worker applies what was found, whatever is locked and whatever is spoilt."""

from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from accession.db.engine import transaction
from accession.db.models import ApplyOutbox, Collection, LicensePool
from tests.fixtures.factories import make_collection, title_data
from tests.fixtures.workers import Broker, applied_titles, eventually, found, publish, rows_left

pytestmark = pytest.mark.usefixtures("worker", "quick")


def lock_of(session: Session, row_id: int) -> str:
    pool = session.get_one(ApplyOutbox, row_id).license_pool
    name = f"BibliographicApply:{pool.identifier_id}"
    session.rollback()
    return name


def spoil(row_id: int, data: dict[str, Any] | None = None) -> None:
    with transaction() as session:
        spoilt = data or {"no": "title"}
        session.execute(update(ApplyOutbox).where(ApplyOutbox.id == row_id).values(data=spoilt))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accession.tasks.apply._LOCKED_WAIT_SECONDS", 0.05)


def test_titles_are_applied_and_their_outbox_rows_deleted(
    session: Session, collection: Collection, broker: Broker
) -> None:
    publish(found(session, collection, "t1", "t2"))
    broker.settle()
    assert applied_titles() == {"t1", "t2"}
    with transaction() as fresh:
        counts = fresh.query(LicensePool.licenses_owned, LicensePool.status).all()
    assert [tuple(row) for row in counts] == [(2, "active")] * 2
    assert (rows_left(), broker.locks()) == ([], {})


def test_rows_that_are_gone_are_done(session: Session, collection: Collection, broker: Broker) -> None:
    row_ids = found(session, collection, "t1")
    publish([*row_ids, 999])
    publish(row_ids)
    publish([998])
    broker.settle()
    assert (applied_titles(), rows_left()) == ({"t1"}, [])


def test_a_title_that_another_task_has_locked_is_applied_later_and_the_others_at_once(
    session: Session, collection: Collection, broker: Broker
) -> None:
    one, two, three = found(session, collection, "t1", "t2", "t3")
    lock = lock_of(session, two)
    broker.redis.set(lock, "another")
    publish([one, two, three])
    eventually(lambda: applied_titles() == {"t1", "t3"}, "the free titles are applied")
    assert rows_left() == [two]
    eventually(lambda: broker.locks() == {lock: "another"}, "the others' locks are released")
    broker.redis.delete(lock)
    broker.settle()
    assert applied_titles() == {"t1", "t2", "t3"}
    assert (rows_left(), broker.locks()) == ([], {})


def test_a_lock_left_by_a_dead_predecessor_of_the_same_message_is_taken(
    session: Session, collection: Collection, broker: Broker
) -> None:
    from accession.tasks.apply import bibliographic_apply

    row_ids = found(session, collection, "t1")
    broker.redis.set(lock_of(session, row_ids[0]), "the-message")
    bibliographic_apply.apply_async((row_ids,), task_id="the-message")
    broker.settle()
    assert (applied_titles(), broker.locks()) == ({"t1"}, {})


def test_two_collections_may_have_one_title_in_one_message(
    session: Session, collection: Collection, broker: Broker
) -> None:
    birch = make_collection(session, "Birch Library")
    publish([*found(session, collection, "t1"), *found(session, birch, "t1")])
    broker.settle()
    assert (applied_titles(), rows_left(), broker.locks()) == ({"t1"}, [], {})


def test_one_poisonous_title_does_not_keep_the_others_from_being_applied(
    session: Session, collection: Collection, broker: Broker
) -> None:
    """Not even one that was locked when the poison was met."""
    one, poison, locked, four = found(session, collection, "t1", "t2", "t3", "t4")
    spoil(poison)
    lock = lock_of(session, locked)
    broker.redis.set(lock, "another")
    publish([one, poison, locked, four])
    eventually(lambda: rows_left() == [poison, locked], "the sound titles are applied")
    broker.redis.delete(lock)
    broker.settle()
    assert applied_titles() == {"t1", "t3", "t4"}
    assert (rows_left(), broker.locks()) == ([poison], {})


def test_a_locked_title_is_not_forgotten_when_the_only_free_one_is_poisonous(
    session: Session, collection: Collection, broker: Broker
) -> None:
    poison, locked = found(session, collection, "t1", "t2")
    spoil(poison)
    lock = lock_of(session, locked)
    broker.redis.set(lock, "another")
    publish([poison, locked])
    eventually(lambda: len(broker.raw_messages("apply")) == 0, "the message is taken")
    broker.redis.delete(lock)
    broker.settle()
    assert (applied_titles(), rows_left()) == ({"t2"}, [poison])


TOO_LONG = title_data("t25", duration_ms=2**63).model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize("spoilt", [{"no": "title"}, TOO_LONG], ids=["no title", "more than fits its column"])
def test_of_a_page_with_one_poisonous_title_all_the_others_are_applied(
    session: Session, collection: Collection, broker: Broker, spoilt: dict[str, Any]
) -> None:
    names = [f"t{number}" for number in range(50)]
    row_ids = found(session, collection, *names)
    spoil(row_ids[25], spoilt)
    publish(row_ids)
    broker.settle()
    assert applied_titles() == {*names} - {"t25"}
    assert (rows_left(), broker.locks()) == ([row_ids[25]], {})
