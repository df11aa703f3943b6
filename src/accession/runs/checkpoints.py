"""Move the checkpoint of a workflow forward, step by step."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, case, func, or_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Timestamp, table_of
from accession.runs.ledger import checkpoint_key

_TABLE = table_of(Timestamp)
_COLUMNS = _TABLE.c

# Built once, and sent without loading the row: each step of a run executes it.
ADVANCE = (
    update(_TABLE)
    .where(
        *(
            _COLUMNS[name] == bindparam(f"key_{name}")
            for name in ("collection_id", "service", "service_type")
        ),
        or_(_COLUMNS.finish.is_(None), bindparam("start", type_=_COLUMNS.finish.type) <= _COLUMNS.finish),
    )
    .values(
        finish=func.greatest(_COLUMNS.finish, bindparam("end", type_=_COLUMNS.finish.type)),
        confirmed=case(
            (
                _COLUMNS.confirmed < bindparam("confirmed_before", type_=_COLUMNS.confirmed.type),
                _COLUMNS.confirmed,
            ),
            else_=bindparam("new_confirmed", type_=_COLUMNS.confirmed.type),
        ),
    )
)


@dataclass(frozen=True)
class CheckpointMove:
    """A move of a workflow's checkpoint to `end`, after the span from `start` (UTC) has been imported.

    The checkpoint never moves back. It stays where it is when the span begins after it: what lies between
    has not been imported. `confirmed` is the time (UTC) up to which everything is confirmed, if it was up to
    `confirmed_before`. It moves back when the vendor contradicts what was confirmed.
    """

    start: datetime
    end: datetime
    confirmed_before: datetime
    confirmed: datetime


def advance_checkpoint(
    session: Session, collection_id: int, workflow: Workflow, move: CheckpointMove
) -> None:
    """Move the checkpoint. Changes to a loaded checkpoint must have been flushed."""
    parameters = advance_parameters(collection_id, workflow, move)
    if not session.connection().execute(ADVANCE, parameters).rowcount:
        # There is no checkpoint yet, or it stays where it is.
        key = checkpoint_key(collection_id, workflow)
        new_row = insert(_TABLE).values(**key, finish=move.end, confirmed=move.confirmed)
        session.execute(new_row.on_conflict_do_nothing())


def advance_parameters(collection_id: int, workflow: Workflow, move: CheckpointMove) -> dict[str, Any]:
    """Return the parameters of the statement `ADVANCE`."""
    key = checkpoint_key(collection_id, workflow)
    return {
        **{f"key_{name}": value for name, value in key.items()},
        "start": move.start,
        "end": move.end,
        "confirmed_before": move.confirmed_before,
        "new_confirmed": move.confirmed,
    }
