"""Record a step that stores nothing but its progress, in one statement.

Most steps of an import are about a window without purchases. The statement checks that the run is unchanged,
saves it and moves the checkpoint. It is a transaction of its own, so nothing else has to be sent.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Run
from accession.runs.checkpoints import CheckpointMove, advance_parameters, advance_statements
from accession.runs.ledger import (
    SAVED_UNCHANGED_RUN,
    RunCounters,
    add_counters,
    move_cursor,
    parameters_as_read,
    take_changes,
)

_SAVED = SAVED_UNCHANGED_RUN.cte("saved")
# Built once: each step of an empty window executes it.
_RECORD = select(_SAVED.c.id).add_cte(*advance_statements(exists(select(_SAVED.c.id))))


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
