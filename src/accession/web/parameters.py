"""Query and path parameters that several routes of the API and the dashboard share."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from fastapi import Form, Path, Query
from pydantic import BeforeValidator, Field, WithJsonSchema
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection
from accession.core.workflow import Workflow

MAX_ID = 2**31 - 1
MAX_BIG_ID = 2**63 - 1
# PostgreSQL cannot store NUL characters in text.
NO_NUL = r"^[^\x00]*$"

CursorId = Annotated[int | None, Query(ge=1, le=MAX_ID, description="`next` of the previous page.")]
BigCursorId = Annotated[int | None, Query(ge=1, le=MAX_BIG_ID, description="`next` of the previous page.")]
# A cursor can contain the beginning of a title.
MAX_CURSOR_LENGTH = 500
Offset = Annotated[int, Query(ge=0, le=MAX_ID, description="`next` of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=200, description="Maximum number of items.")]
CollectionId = Annotated[int, Field(ge=1, le=MAX_ID)]
RowId = Annotated[int, Path(ge=1, le=MAX_ID)]
BigRowId = Annotated[int, Path(ge=1, le=MAX_BIG_ID)]
TitleId = Annotated[
    str, Path(min_length=1, max_length=100, pattern=NO_NUL, description="The vendor's id of the title.")
]
CollectionFilter = Annotated[int | None, Query(ge=1, le=MAX_ID, description="Only of this collection.")]
WorkflowFilter = Annotated[Workflow | None, Query(description="Only of this workflow.")]
FacetFilter = Annotated[str | None, Query(max_length=50, pattern=NO_NUL)]
Availability = Literal["available", "on_hold", "on_order", "withdrawn"]
OpdsAvailability = Annotated[str | None, Query(pattern="^(available|on_hold|on_order)?$")]
# The number of the page and the cursor of the search, joined by a dot.
OpdsPage = Annotated[str | None, Query(pattern=r"^[1-9][0-9]{0,8}\.[A-Za-z0-9_=-]{1,100}$")]
_MONTH_PATTERN = r"^20[0-9]{2}-(0[1-9]|1[0-2])$"
_DAY_PATTERN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME_PATTERN = _DAY_PATTERN + r"[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?([Zz]|[+-][0-9]{2}:[0-9]{2})"


def _parse_flag(value: Any) -> bool:
    if value not in ("true", "false"):
        raise ValueError("it must be true or false")
    return bool(value == "true")


def _parse_day(value: Any) -> date:
    if not isinstance(value, str) or re.fullmatch(_DAY_PATTERN, value) is None:
        raise ValueError("it must be a day such as 2019-03-31")
    return date.fromisoformat(value)


def _parse_time(value: Any) -> datetime:
    if not isinstance(value, str) or re.fullmatch(_TIME_PATTERN, value) is None:
        raise ValueError("it must be a time with a time zone, such as 2019-03-31T12:00:00Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("it is out of range") from error


def _parse_month(value: Any) -> date:
    if not isinstance(value, str) or re.fullmatch(_MONTH_PATTERN, value) is None:
        raise ValueError("it must be a month such as 2019-03")
    return date(int(value[:4]), int(value[5:]), 1)


# Pydantic would also accept numbers, as seconds since 1970, and `1` or `yes` for true.
Flag = Annotated[bool, BeforeValidator(_parse_flag)]
Day = Annotated[date, BeforeValidator(_parse_day)]
Time = Annotated[datetime, BeforeValidator(_parse_time)]
# The first day of a month that is given as year and month.
Month = Annotated[
    date,
    BeforeValidator(_parse_month),
    WithJsonSchema({"type": "string", "pattern": _MONTH_PATTERN, "examples": ["2019-03"]}),
]

# HTML forms send an empty string for a field that was left empty.
FormCollection = Annotated[str, Query(max_length=10, pattern=r"^\d*$")]
FormText = Annotated[str, Query(max_length=200, pattern=NO_NUL)]
RejectionReason = Annotated[str, Query(max_length=2000, pattern=NO_NUL)]
FormField = Annotated[str, Form(max_length=500)]
FormDate = Annotated[date | Literal[""], BeforeValidator(lambda value: value and _parse_day(value)), Query()]
FormTime = Annotated[
    datetime | Literal[""], BeforeValidator(lambda value: value and _parse_time(value)), Query()
]
FormMonth = Annotated[Month | None, BeforeValidator(lambda value: value or None)]


def parse_collection_id(value: str) -> int | None:
    """Return the id in a form's collection field; None when the field is empty."""
    return int(value) if value else None


def collection_name(session: Session, collection_id: int | None) -> str | None:
    """Return the collection's name, or None for no id.

    Raises:
        NotFound: no collection in use has this id.
    """
    return None if collection_id is None else get_collection(session, collection_id).name
