"""The shapes that answers of several endpoints have in common."""

from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, Field

from accession.web.problems import MEDIA_TYPE, Problem

Item = TypeVar("Item")

LARGEST_ID = 2**31 - 1
# The database stores and finds text without it.
NO_NUL = r"^[^\x00]*$"

Limit = Annotated[int, Query(ge=1, le=200, description="At most this many.")]
Id = Annotated[int, Path(ge=1, le=LARGEST_ID)]
CollectionId = Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="Only of this collection.")]


class Page(BaseModel, Generic[Item]):
    """A part of a long list."""

    items: list[Item]
    next: str | None = Field(
        description="The `cursor` with which to ask for what comes after; null at the end."
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an endpoint's documentation says of these statuses, beside those that every one may have."""
    content: Mapping[str, Any] = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": "Why not.", "content": content} for status in sorted({*statuses, 401, 422})
    }


class Started(BaseModel):
    """Runs that wait for a worker: of each collection, by its id, the id of the task that begins it."""

    task_ids: dict[int, str]


def started(task_ids: Mapping[int, str]) -> Started:
    """What was started."""
    return Started(task_ids=dict(task_ids))
