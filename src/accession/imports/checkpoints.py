"""Move the checkpoint of a workflow forward, step by step."""

from datetime import datetime

from accession.db.models import Timestamp


def advance_checkpoint(
    checkpoint: Timestamp,
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
    """
    if checkpoint.finish is None or start <= checkpoint.finish:
        if checkpoint.confirmed is None or confirmed_before <= checkpoint.confirmed:
            checkpoint.confirmed = confirmed
        checkpoint.finish = max(end, checkpoint.finish or end)
