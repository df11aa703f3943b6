"""Query parameters that select and sort collections, of the API and of the overview page."""

from typing import Literal, Self
from urllib.parse import parse_qsl, urlencode

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError

from accession.runs.overview import CollectionQuery, HealthFilter, SortKey, SortOrder
from accession.web.parameters import MAX_ID, NO_NUL


class CollectionListParameters(BaseModel):
    """Conditions on collections, and their order."""

    filter: HealthFilter | Literal[""] = Field("", description="Only collections in this state.")
    text: str = Field("", max_length=200, pattern=NO_NUL, description="Only collections with it in the name.")
    cause: str = Field(
        "",
        pattern=r"^([0-9a-f]{12})?$",
        description="Only collections with this cause of a failure: its `id`.",
    )
    sort: str = Field(
        str(SortOrder()),
        pattern=rf"^-?({'|'.join(SortKey)})$",
        description="Order; with `-` before it, descending. A workflow stands for its last success.",
    )

    def to_query(self) -> CollectionQuery:
        """Return the parameters as a query."""
        return CollectionQuery(self.filter or None, self.text, self.cause, SortOrder.parse(self.sort))


class OverviewAddress(CollectionListParameters):
    """The address of the overview."""

    page: int = Field(1, ge=1, le=MAX_ID)

    @classmethod
    def parse(cls, query: str) -> Self:
        """Return the address with this query string.

        Raises:
            RequestValidationError: a parameter is invalid.
        """
        try:
            return cls.model_validate(dict(parse_qsl(query)))
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None

    def path(self, **changes: object) -> str:
        """Return the path with some parameters changed; without `page` among them, of the first page."""
        values = {**self.model_dump(), "page": 1, **changes}
        defaults = type(self)().model_dump()
        parameters = {name: value for name, value in values.items() if value != defaults[name]}
        return f"/?{urlencode(parameters)}" if parameters else "/"

    @property
    def own_path(self) -> str:
        """Return the path of this address."""
        return self.path(page=self.page)

    @property
    def query_string(self) -> str:
        """Return the query string of this address, as `parse` reads it."""
        return self.own_path.partition("?")[2]
