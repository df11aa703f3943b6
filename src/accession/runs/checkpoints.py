"""Move the checkpoint of a workflow forward, step by step."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Timestamp, table_of
from accession.runs.ledger import checkpoint_key

_TABLE = table_of(Timestamp)
_COLUMNS = _TABLE.c

# The columns of a new checkpoint, and the parameters with their values.
_NEW_CHECKPOINT = {
    "collection_id": "key_collection_id",
    "service": "key_service",
    "service_type": "key_service_type",
    "finish": "end",
    "confirmed": "new_confirmed",
}


def _parameter(column: str, name: str) -> BindParameter[Any]:
    return bindparam(name, type_=_COLUMNS[column].type)


def advance_statements(*conditions: ColumnElement[bool]) -> tuple[CTE, CTE]:
    """Return the parts of a statement that move a checkpoint, or add it if there is none.

    They do nothing unless all conditions hold. Their parameters are `advance_parameters`.
    """
    moved = (
        update(_TABLE)
        .where(
            *(
                _COLUMNS[name] == bindparam(f"key_{name}")
                for name in ("collection_id", "service", "service_type")
            ),
            or_(_COLUMNS.finish.is_(None), _parameter("finish", "start") <= _COLUMNS.finish),
            *conditions,
        )
        .values(
            finish=func.greatest(_COLUMNS.finish, _parameter("finish", "end")),
            confirmed=case(
                (_COLUMNS.confirmed < _parameter("confirmed", "confirmed_before"), _COLUMNS.confirmed),
                else_=_parameter("confirmed", "new_confirmed"),
            ),
        )
        .returning(_COLUMNS.id)
        .cte("moved")
    )
    new_row = select(*(_parameter(column, name) for column, name in _NEW_CHECKPOINT.items()))
    added = (
        insert(_TABLE)
        .from_select(list(_NEW_CHECKPOINT), new_row.where(~exists(select(moved.c.id)), *conditions))
        # There is one that stays where it is.
        .on_conflict_do_nothing()
        .cte("added")
    )
    return moved, added


# Built once, and sent without loading the row: each step of a run executes it.
_ADVANCE = select(literal(1)).add_cte(*advance_statements())


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
    session.connection().execute(_ADVANCE, advance_parameters(collection_id, workflow, move))


def advance_parameters(collection_id: int, workflow: Workflow, move: CheckpointMove) -> dict[str, Any]:
    """Return the parameters of `advance_statements`."""
    key = checkpoint_key(collection_id, workflow)
    return {
        **{f"key_{name}": value for name, value in key.items()},
        "start": move.start,
        "end": move.end,
        "confirmed_before": move.confirmed_before,
        "new_confirmed": move.confirmed,
    }
