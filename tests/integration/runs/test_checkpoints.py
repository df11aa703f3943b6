"""Tests of moving a checkpoint, and the time up to which everything is confirmed, in one statement."""

from datetime import datetime

import pytest
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Collection
from accession.runs.checkpoints import CheckpointMove, advance_checkpoint
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.factories import day

MAY_1, MAY_2, MAY_3, MAY_4 = (day(2024, 5, number) for number in range(1, 5))


def advance(
    session: Session, collection: Collection, start: datetime, end: datetime, *confirmed: datetime
) -> tuple[datetime | None, datetime | None]:
    """Advance the checkpoint, and return it with the confirmed time as they are stored."""
    confirmed_before, confirmed_now = confirmed
    move = CheckpointMove(start, end, confirmed_before, confirmed_now)
    advance_checkpoint(session, collection.id, Workflow.PURCHASES, move)
    row = get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    return row.finish, row.confirmed


def test_first_span_creates_the_checkpoint(session: Session, collection: Collection) -> None:
    assert advance(session, collection, MAY_1, MAY_2, MAY_1, MAY_2) == (MAY_2, MAY_2)


def test_first_span_of_an_empty_checkpoint_moves_it(session: Session, collection: Collection) -> None:
    get_or_create_checkpoint(session, collection, Workflow.PURCHASES)
    assert advance(session, collection, MAY_2, MAY_3, MAY_1, MAY_1) == (MAY_3, MAY_1)


@pytest.mark.parametrize(
    ("start", "end", "confirmed", "expected"),
    [
        pytest.param(MAY_3, MAY_4, (MAY_2, MAY_4), (MAY_4, MAY_4), id="next span"),
        pytest.param(MAY_3, MAY_4, (MAY_2, MAY_2), (MAY_4, MAY_2), id="span that proves nothing"),
        pytest.param(MAY_1, MAY_2, (MAY_1, MAY_2), (MAY_3, MAY_2), id="earlier span"),
        pytest.param(
            MAY_2, MAY_3, (MAY_2, MAY_1), (MAY_3, MAY_1), id="vendor contradicts what was confirmed"
        ),
        pytest.param(MAY_3, MAY_4, (MAY_3, MAY_4), (MAY_4, MAY_2), id="time before the span unconfirmed"),
        pytest.param(MAY_4, MAY_4, (MAY_2, MAY_4), (MAY_3, MAY_2), id="gap before the span"),
    ],
)
def test_span_moves_checkpoint_and_confirmed_time(
    session: Session,
    collection: Collection,
    start: datetime,
    end: datetime,
    confirmed: tuple[datetime, datetime],
    expected: tuple[datetime, datetime],
) -> None:
    assert advance(session, collection, MAY_1, MAY_3, MAY_1, MAY_2) == (MAY_3, MAY_2)
    assert advance(session, collection, start, end, *confirmed) == expected


def test_checkpoints_of_others_stay_where_they_are(session: Session, collection: Collection) -> None:
    advance(session, collection, MAY_1, MAY_3, MAY_1, MAY_3)
    assert get_or_create_checkpoint(session, collection, Workflow.EVENTS).finish is None
