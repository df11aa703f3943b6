"""Request and response schemas that several endpoints share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, model_validator

from accession.web.errors import HTTPProblem

Item = TypeVar("Item")

# JSON has neither enumerations nor tuples, so that strict validation would refuse all values.
Choice = Annotated[Item, Strict(False)]
Items = Annotated[tuple[Item, ...], Strict(False)]


class Body(BaseModel):
    """The JSON body of a request, without unknown fields.

    Its values have the documented types: `0` is no boolean, and `"1"` no number.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _require_json(cls, value: Any) -> Any:
        # FastAPI leaves a body of another media type as it is.
        if isinstance(value, bytes):
            raise HTTPProblem(415, "The body has no JSON media type: send Content-Type: application/json.")
        return value


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: str | None = Field(description="Pass it as `cursor` to get the next page; null on the last page.")

    @classmethod
    def at_offset(cls, offset: int, limit: int, rows: Sequence[Item]) -> Self:
        """Return the page of `limit` items from the offset; a further row says that there is a next page."""
        return cls(items=list(rows[:limit]), next=str(offset + limit) if len(rows) > limit else None)

    @classmethod
    def in_id_order(cls, limit: int, rows: Sequence[Any]) -> Self:
        """Return the page of `limit` items in the order of their ids; a further row as for `at_offset`."""
        return cls(items=list(rows[:limit]), next=str(rows[limit - 1].id) if len(rows) > limit else None)


class StartedRuns(BaseModel):
    """Runs that were queued: the id of the first task, by collection id."""

    task_ids: dict[int, str]


@dataclass(frozen=True)
class TestResult:
    """Result of a test message; `error` is null if it was sent and accepted."""

    sent: bool
    error: str | None
