"""Request and response schemas that several endpoints share."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, Field

from accession.web.errors import PROBLEM_MEDIA_TYPE, Problem

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: str | None = Field(description="Pass it as `cursor` to get the next page; null on the last page.")

    @classmethod
    def at_offset(cls, offset: int, limit: int, rows: Sequence[Item]) -> Self:
        """Return the page of `limit` items from the offset; a further row says that there is a next page."""
        return cls(items=list(rows[:limit]), next=str(offset + limit) if len(rows) > limit else None)


class StartedRuns(BaseModel):
    """Runs that were queued: the id of the first task, by collection id."""

    task_ids: dict[int, str]


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of error responses; every endpoint also has 401 and 422."""
    content: Mapping[str, Any] = {PROBLEM_MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"description": "Why the request failed.", "content": content}
        for status in sorted({*statuses, 401, 422})
    }
