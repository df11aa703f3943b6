"""Query and path parameters that several routes of the API and the dashboard share."""

import re
from datetime import date
from typing import Annotated, Any, Literal

from fastapi import Form, Path, Query
from pydantic import AwareDatetime, BeforeValidator, Field, WithJsonSchema
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection

MAX_ID = 2**31 - 1
MAX_BIG_ID = 2**63 - 1
# PostgreSQL cannot store NUL characters in text.
NO_NUL = r"^[^\x00]*$"

CursorId = Annotated[int | None, Query(ge=1, le=MAX_ID, description="`next` of the previous page.")]
BigCursorId = Annotated[int | None, Query(ge=1, le=MAX_BIG_ID, description="`next` of the previous page.")]
CursorText = Annotated[
    str | None, Query(max_length=200, pattern=NO_NUL, description="`next` of the previous page.")
]
Offset = Annotated[int, Query(ge=0, le=MAX_ID, description="`next` of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=200, description="Maximum number of items.")]
CollectionId = Annotated[int, Field(ge=1, le=MAX_ID)]
RowId = Annotated[int, Path(ge=1, le=MAX_ID)]
BigRowId = Annotated[int, Path(ge=1, le=MAX_BIG_ID)]
TitleId = Annotated[
    str, Path(min_length=1, max_length=100, pattern=NO_NUL, description="The vendor's id of the title.")
]
CollectionFilter = Annotated[int | None, Query(ge=1, le=MAX_ID, description="Only of this collection.")]
FacetFilter = Annotated[str | None, Query(max_length=50, pattern=NO_NUL)]
Availability = Literal["available", "on_hold", "on_order", "withdrawn"]
Lacks = Literal["metadata", "cover"]
OpdsAvailability = Annotated[str | None, Query(pattern="^(available|on_hold|on_order)?$")]
# The number of the page and the cursor of the search, joined by a dot.
OpdsPage = Annotated[str | None, Query(pattern=r"^[1-9][0-9]{0,8}\.[A-Za-z0-9_=-]{1,100}$")]
_MONTH_PATTERN = r"^20[0-9]{2}-(0[1-9]|1[0-2])$"


def _parse_month(value: Any) -> date:
    if not isinstance(value, str) or re.fullmatch(_MONTH_PATTERN, value) is None:
        raise ValueError("it must be a month such as 2019-03")
    return date(int(value[:4]), int(value[5:]), 1)


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
FormDate = Annotated[date | Literal[""], Query()]
FormTime = Annotated[AwareDatetime | Literal[""], Query()]
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
