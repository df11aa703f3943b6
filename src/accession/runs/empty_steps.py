"""Record a step that stores nothing but its progress, in one statement.

Most steps of an import are about a window without purchases. The statement checks that the run is unchanged,
saves it and moves the checkpoint. It is a transaction of its own, so nothing else has to be sent.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, exists, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Run, Timestamp, table_of
from accession.runs.checkpoints import ADVANCE, CheckpointMove, advance_parameters
from accession.runs.ledger import (
    SAVED_UNCHANGED_RUN,
    RunCounters,
    add_counters,
    move_cursor,
    parameters_as_read,
    take_changes,
)

_COLUMNS = table_of(Timestamp).c
_SAVED = SAVED_UNCHANGED_RUN.cte("saved")
_IS_SAVED = exists(select(_SAVED.c.id))
_MOVED = ADVANCE.where(_IS_SAVED).returning(_COLUMNS.id).cte("moved")
# Names of the columns of a new checkpoint, and of the parameters of `ADVANCE` with their values.
_NEW_CHECKPOINT = {
    "collection_id": "key_collection_id",
    "service": "key_service",
    "service_type": "key_service_type",
    "finish": "end",
    "confirmed": "new_confirmed",
}
_ADDED = (
    insert(table_of(Timestamp))
    .from_select(
        list(_NEW_CHECKPOINT),
        select(
            *(bindparam(value, type_=_COLUMNS[name].type) for name, value in _NEW_CHECKPOINT.items())
        ).where(_IS_SAVED, ~exists(select(_MOVED.c.id))),
    )
    .on_conflict_do_nothing()
    .cte("added")
)
# Built once: each step of an empty window executes it.
_RECORD = select(_SAVED.c.id).add_cte(_MOVED, _ADDED)


def record_empty_step(
    session: Session,
    run: Run,
    counters: RunCounters,
    move: CheckpointMove,
    *,
    since: datetime | None,
    next_cursor: Mapping[str, Any],
) -> bool:
    """Add the counters of a step to an unchanged run, move its cursor, and move the checkpoint.

    Returns False, and writes nothing, if the run is not as it was when it was read: see
    `accession.runs.ledger.lock_unchanged_run`. The session has no open transaction.
    """
    read = parameters_as_read(run)
    add_counters(run, counters, since)
    move_cursor(run, next_cursor)
    parameters = read | take_changes(run)
    parameters |= advance_parameters(run.collection_id, Workflow(run.workflow), move)
    return session.connection().scalar(_RECORD, parameters) is not None
