"""What lists in the API and in the dashboard have in common."""

from typing import Annotated

from fastapi import Query
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection

Chosen = Annotated[str, Query(max_length=10, pattern=r"^\d*$")]
"""A collection's id as a form sends it, empty for all."""


def chosen(collection: str) -> int | None:
    """The collection's id that a form names, or none."""
    return int(collection) if collection else None


def name_of(session: Session, collection_id: int | None) -> str | None:
    """The collection's name; raises `NotFound` when there is none of this id."""
    return None if collection_id is None else get_collection(session, collection_id).name
