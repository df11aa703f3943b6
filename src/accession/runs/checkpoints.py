"""Move the checkpoint of a workflow forward, step by step."""

from datetime import datetime

from sqlalchemy import bindparam, case, func, or_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.models import Collection, Timestamp, table_of
from accession.runs.ledger import checkpoint_key

_TABLE = table_of(Timestamp)
_COLUMNS = _TABLE.c

# Built once, and sent without loading the row: each step of a run executes it.
_ADVANCE = (
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


def advance_checkpoint(
    session: Session,
    collection: Collection,
    workflow: Workflow,
    *,
    start: datetime,
    end: datetime,
    confirmed_before: datetime,
    confirmed: datetime,
) -> None:
    """Move the checkpoint to `end` after the span from `start` (UTC) has been imported up to there.

    The checkpoint never moves back. It stays where it is when the span begins after it: what lies between
    has not been imported. `confirmed` is the time (UTC) up to which everything is confirmed, if it was up to
    `confirmed_before`. It moves back when the vendor contradicts what was confirmed.

    Changes to a loaded checkpoint must have been flushed.
    """
    key = checkpoint_key(collection, workflow)
    values = {"start": start, "end": end, "confirmed_before": confirmed_before, "new_confirmed": confirmed}
    result = session.connection().execute(
        _ADVANCE, {f"key_{name}": value for name, value in key.items()} | values
    )
    if not result.rowcount:
        # There is no checkpoint yet, or it stays where it is.
        new_row = insert(_TABLE).values(**key, finish=end, confirmed=confirmed)
        session.execute(new_row.on_conflict_do_nothing())
