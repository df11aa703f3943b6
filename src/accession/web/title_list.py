"""Query parameters that select and sort titles, of the API and of the catalogue page."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlencode

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.orm import Session

from accession.accounts.collections import list_collections
from accession.catalog.facet_counts import FacetName, FacetValue, count_facets
from accession.catalog.search import Matches
from accession.catalog.title_filter import Lack, TitleFilter
from accession.catalog.title_order import SortKey, TitleOrder
from accession.core.labels import value_label
from accession.core.vocabulary import Audience
from accession.web.parameters import (
    MAX_CURSOR_LENGTH,
    MAX_ID,
    NO_NUL,
    Availability,
    Day,
    Flag,
    collection_name,
)

Text = Annotated[str, Field(max_length=200, pattern=NO_NUL)]
Id = Annotated[int, Field(ge=1, le=MAX_ID)]


class TitleListParameters(BaseModel):
    """Conditions on titles, and their order."""

    model_config = ConfigDict(frozen=True)

    text: Text = Field("", description="Words of the title or author, an ISBN, or the vendor's id.")
    collection: Id | None = Field(None, description="Only of this collection.")
    format: Text | None = Field(None, description="Only titles in this format, such as `epub`.")
    language: Text | None = Field(
        None, description="Only titles in this language: an ISO 639-2 code such as `eng`."
    )
    audience: Audience | None = Field(
        None, description="Only titles for this audience, by their main BISAC subject."
    )
    availability: Availability | None = Field(
        None,
        description="`available`: a copy is available; `on_hold`: all copies are on loan or there are holds; "
        "`on_order`: it is not on sale yet; `withdrawn`: no copy is left.",
    )
    purchased_from: Day | None = Field(None, description="Only titles purchased on this day or later.")
    purchased_until: Day | None = Field(None, description="Only titles purchased on this day or earlier.")
    with_warnings: Flag = Field(
        False, description="Only titles with a purchase record of which a part was left out."
    )
    subject: Text | None = Field(None, description="Only titles with this subject.")
    lacks: Lack | None = Field(None, description="Only titles without this part, or without a purchase.")
    unused_since: Day | None = Field(
        None, description="Only titles neither borrowed nor first purchased since this day."
    )
    first_purchased_from: Day | None = Field(
        None, description="Only titles first purchased on this day or later."
    )
    first_purchased_until: Day | None = Field(
        None, description="Only titles first purchased on this day or earlier."
    )
    also_in: Id | None = Field(None, description="Only titles that this collection holds too.")

    def to_filter(self, session: Session) -> TitleFilter:
        """Return the conditions.

        Raises:
            NotFound: a collection does not exist.
        """
        fields = {name: getattr(self, name) for name in TitleListParameters.model_fields}
        names = {name: collection_name(session, fields[name]) for name in ("collection", "also_in")}
        return TitleFilter(**{**fields, **names})


class SortedTitleListParameters(TitleListParameters):
    """Conditions on titles, and their order."""

    sort: str = Field(
        "",
        pattern=rf"^(-?({'|'.join(SortKey)}))?$",
        description="Order; with `-` before it, descending. `imported` is that of the first import, which "
        "never changes. By default the best matches of the text come first; without a text, the newest "
        "purchases.",
    )

    @property
    def order(self) -> TitleOrder | None:
        """Return the order; None for the default."""
        return TitleOrder.parse(self.sort) if self.sort else None


class TitleListAddress(SortedTitleListParameters):
    """The address of the catalogue page."""

    view: Literal["cards", "table"] = "cards"
    cursor: str = Field("", max_length=MAX_CURSOR_LENGTH, pattern=NO_NUL)

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> Self:
        """Return the address with these query parameters; a form also sends the empty ones.

        Raises:
            RequestValidationError: a parameter is invalid.
        """
        try:
            return cls.model_validate({name: value for name, value in parameters.items() if value.strip()})
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None

    @property
    def filters(self) -> Mapping[str, Any]:
        """Return the values of the conditions that are set, by name."""
        return {name: getattr(self, name) for name in TitleListParameters.model_fields if getattr(self, name)}

    def parameters(self, **changes: object) -> Mapping[str, str]:
        """Return the query parameters with some of them changed; the cursor only if it is among these."""
        values = {**self.model_dump(), "cursor": "", **changes}
        defaults = type(self)().model_dump()
        return {name: _to_text(value) for name, value in values.items() if value and value != defaults[name]}

    def path(self, **changes: object) -> str:
        """Return the path with these parameters changed; without `cursor` among them, of the first page."""
        parameters = self.parameters(**changes)
        return f"/titles?{urlencode(parameters)}" if parameters else "/titles"


def _to_text(value: Any) -> str:
    return "true" if value is True else value.isoformat() if isinstance(value, date) else str(value)


@dataclass(frozen=True)
class FacetOption:
    """A value that a parameter can have, its label, and the number of titles that match with it.

    The number is null if more than 1,000 titles match the other conditions and there is one besides the
    collection. That of a whole collection can be some minutes old.
    """

    value: str
    label: str
    titles: int | None


@dataclass(frozen=True)
class Facet:
    """A parameter that filters titles, and its values."""

    name: str
    label: str
    options: tuple[FacetOption, ...]


_FACET_LABELS = {
    FacetName.FORMAT: "Format",
    FacetName.LANGUAGE: "Language",
    FacetName.AUDIENCE: "Audience",
    FacetName.AVAILABILITY: "Availability",
    FacetName.COLLECTION: "Collection",
}


def list_facets(session: Session, matches: Matches) -> list[Facet]:
    """Return the facets of the titles that match; collections have their ids as values."""
    facets = count_facets(session, matches)
    # Read afterwards: a collection may have been added meanwhile.
    ids = {each.name: each.id for each in list_collections(session)}

    def option(name: FacetName, each: FacetValue) -> FacetOption:
        value = str(ids[each.value]) if name is FacetName.COLLECTION else each.value
        return FacetOption(value, value_label(name, each.value), each.titles)

    return [
        Facet(name, _FACET_LABELS[name], tuple(option(name, each) for each in values))
        for name, values in facets.items()
    ]
