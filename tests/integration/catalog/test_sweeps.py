"""Batches of the circulation sweep: when each title was last swept."""

import random
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.catalog.sweeps import last_swept_at, record_swept
from accession.db.models import Collection, SweptBatch
from tests.fixtures.factories import NOON, make_collection


def test_swept_batch_replaces_batches_starting_in_it(session: Session, collection: Collection) -> None:
    def sweep(after_id: int, last_id: int | None, identifier_ids: list[int], at: datetime) -> None:
        record_swept(
            session, collection, after_id=after_id, last_id=last_id, identifier_ids=identifier_ids, at=at
        )

    sweep(0, 3, [1, 2, 3], NOON)
    sweep(3, 6, [4, 5, 6], NOON)
    sweep(6, None, [7], NOON)

    later = NOON + timedelta(days=1)
    sweep(0, 4, [1, 2, 4], later)  # No counts for 3 this time.
    assert last_swept_at(session, collection, range(1, 9)) == {1: later, 2: later, 4: later, 7: NOON}
    sweep(4, None, [5, 7], later)

    assert last_swept_at(session, collection, range(1, 9)) == dict.fromkeys((1, 2, 4, 5, 7), later)
    assert session.scalars(select(SweptBatch.after_id).order_by(SweptBatch.after_id)).all() == [0, 4]


def test_swept_batch_keeps_next_and_other_collections(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    for owner in (collection, other):
        record_swept(session, owner, after_id=0, last_id=3, identifier_ids=[1, 2, 3], at=NOON)
        record_swept(session, owner, after_id=3, last_id=None, identifier_ids=[4], at=NOON)

    later = NOON + timedelta(days=1)
    record_swept(session, collection, after_id=0, last_id=3, identifier_ids=[1, 2, 3], at=later)

    assert last_swept_at(session, collection, range(1, 5)) == {1: later, 2: later, 3: later, 4: NOON}
    assert last_swept_at(session, other, range(1, 5)) == dict.fromkeys(range(1, 5), NOON)
    record_swept(session, collection, after_id=0, last_id=None, identifier_ids=[1], at=later)
    assert last_swept_at(session, collection, range(1, 5)) == {1: later}
    assert last_swept_at(session, other, range(1, 5)) == dict.fromkeys(range(1, 5), NOON)


@pytest.mark.parametrize("seed", range(5))
def test_latest_sweep_of_title_is_returned(session: Session, collection: Collection, seed: int) -> None:
    """Between sweeps titles are added, which moves others to other batches; some titles get no response."""
    rng = random.Random(seed)
    held, batches = set[int](), dict[int, dict[int, datetime]]()
    for days in range(6):
        held |= set(rng.sample(range(1, 40), 8))
        at, after_id = NOON + timedelta(days=days), 0
        last_id: int | None = 0
        while last_id is not None:
            batch = sorted(title for title in held if title > after_id)[:5]
            last_id = batch[-1] if len(batch) == 5 else None
            answered = [title for title in batch if rng.random() < 0.8]
            record_swept(
                session, collection, after_id=after_id, last_id=last_id, identifier_ids=answered, at=at
            )
            replaced = [
                begun for begun in batches if after_id <= begun and (last_id is None or begun < last_id)
            ]
            for begun in replaced:
                del batches[begun]
            batches[after_id] = dict.fromkeys(answered, at)

            known = sorted((at, title) for batch in batches.values() for title, at in batch.items())
            assert last_swept_at(session, collection, range(45)) == {title: at for at, title in known}
            after_id = last_id or 0


def test_last_swept_of_no_title_is_empty(session: Session, collection: Collection) -> None:
    record_swept(session, collection, after_id=0, last_id=None, identifier_ids=[1], at=NOON)

    assert last_swept_at(session, collection, []) == {}
