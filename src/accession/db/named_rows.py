"""Find a row that a person names, by its name or its id."""

from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.errors import NotFound
from accession.db.models import NotificationChannel, Webhook

NamedRow = TypeVar("NamedRow", NotificationChannel, Webhook)


def find_by_name(session: Session, model: type[NamedRow], name: str, *, noun: str, listing: str) -> NamedRow:
    """Return the row with this name.

    Args:
        session: session that reads it.
        model: table of the row.
        name: name of the row.
        noun: what the row is called, such as "webhook".
        listing: command that lists all names.

    Raises:
        NotFound: there is none.
    """
    row = session.scalars(select(model).filter_by(name=name)).one_or_none()
    if row is None:
        raise NotFound(f'No {noun} is named "{name}": see `{listing}`.')
    return row


def get_by_id(session: Session, model: type[NamedRow], row_id: int, *, noun: str) -> NamedRow:
    """Return the row with this id.

    Raises:
        NotFound: there is none.
    """
    row = session.get(model, row_id)
    if row is None:
        raise NotFound(f"There is no {noun} {row_id}.")
    return row
