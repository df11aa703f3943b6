"""Messages in tables, which are sent when they are due: claim one, and find out how many wait.

A message is claimed by committing a later due time. If its process dies before it can record the result, the
message is due again after that time.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, Select
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.db.models import DigestMail, Notification

Other = TypeVar("Other")
Message = TypeVar("Message", Notification, DigestMail)

# Both kinds of messages have this state.
_PENDING = "pending"


@dataclass(frozen=True)
class WaitingMessages:
    """The messages that wait to be sent: their number, and when the oldest was stored; None without any."""

    number: int = 0
    oldest: datetime | None = None

    @property
    def age_seconds(self) -> float:
        """Return the age of the oldest message; 0 without any."""
        return 0.0 if self.oldest is None else (utc_now() - self.oldest).total_seconds()


def is_due(model: type[Notification | DigestMail], now: datetime) -> ColumnElement[bool]:
    """Return the condition of messages that may be claimed."""
    return (model.state == _PENDING) & (model.due_at <= now)


def claim_first_due(
    session: Session, query: Select[Message, Other], model: type[Message], duration: timedelta
) -> Row[Message, Other] | None:
    """Claim the message that is due for the longest time; return its row of the query, None if none is due.

    Args:
        session: session whose transaction is committed before the message is sent.
        query: the messages that may be claimed, each with another row.
        model: table of the messages.
        duration: time for which no other process claims it, longer than it takes to be sent.
    """
    now = utc_now()
    first = query.where(is_due(model, now)).order_by(model.due_at, model.id).limit(1)
    row = session.execute(first.with_for_update(of=model, skip_locked=True)).one_or_none()
    if row is not None:
        message: Any = row[0]
        message.tries += 1
        message.due_at = now + duration
    return row


def retry_delay(tries: int, first: timedelta = timedelta(minutes=1)) -> timedelta:
    """Return the delay after the given number of failed tries: the first one, doubled up to an hour."""
    return min(first * (1 << min(tries - 1, 10)), timedelta(hours=1))
