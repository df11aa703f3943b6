"""Description and result of a report, independent of who shows it."""

from calendar import monthrange
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from math import isfinite
from types import MappingProxyType
from typing import Any

from sqlalchemy.orm import Session

from accession.core.errors import InvalidInput


class ColumnKind(StrEnum):
    """Type of the values of a column; any value may be None."""

    TEXT = "text"
    NUMBER = "number"
    RATIO = "ratio"
    """A number with decimals."""
    SHARE = "share"
    """A fraction of 1, shown in percent."""
    DAY = "day"


@dataclass(frozen=True)
class Column:
    """A column: its name in JSON and CSV, and its label on screens."""

    name: str
    label: str
    kind: ColumnKind = ColumnKind.TEXT
    is_sortable: bool = False


@dataclass(frozen=True)
class Parameter:
    """A number, or one of several choices, that a report can be given.

    `choices` has the label of each value. `minimum` and `maximum` are limits of a number. A number is whole
    if its default is an int.
    """

    name: str
    label: str
    default: int | float | str
    help: str
    choices: Mapping[str, str] = field(default_factory=dict)
    minimum: float = 0
    maximum: float = 0

    def parse(self, text: str) -> int | float | str:
        """Return the value that a text stands for.

        Raises:
            InvalidInput: it is none of the choices, or not a number within the limits.
        """
        if self.choices:
            if text not in self.choices:
                raise InvalidInput(f'"{text}" is no {self.name}: choose one of {", ".join(self.choices)}.')
            return text
        is_whole = isinstance(self.default, int)
        try:
            number = int(text) if is_whole else float(text)
        except ValueError:
            number = -1
        if not isfinite(number) or not self.minimum <= number <= self.maximum:
            kind = "whole number" if is_whole else "number"
            raise InvalidInput(
                f'"{text}" is no {self.name}: enter a {kind} from {self.minimum:g} to {self.maximum:g}.'
            )
        return number


@dataclass(frozen=True)
class ReportRequest:
    """Request for a report: rows of one collection or (None) of all in use, sorted, and which part of them.

    `limit` is None for all rows. `sort` names a sortable column.
    """

    collection: str | None
    parameters: Mapping[str, Any]
    sort: str
    is_descending: bool
    offset: int = 0
    limit: int | None = None


class ListKind(StrEnum):
    """A list of objects to which a number of a report leads."""

    TITLES = "titles"
    REJECTED_RECORDS = "rejected records"


@dataclass(frozen=True)
class ListLink:
    """A list, and its filters by name; collections are given by their names."""

    kind: ListKind
    filters: Mapping[str, str]


def list_link(kind: ListKind, collection: str | None, **filters: str) -> ListLink:
    """Return a list of one collection, or (None) of all in use, with further filters."""
    return ListLink(kind, filters if collection is None else {"collection": collection, **filters})


@dataclass(frozen=True)
class Row:
    """Values by column, and the lists behind some of them.

    `labels` has the labels of codes in columns that are not named after the field that the codes belong to.
    """

    values: Mapping[str, Any]
    links: Mapping[str, ListLink] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Chart:
    """A bar chart, or a line chart, of labelled values. `unit` is the plural of what they count."""

    title: str
    points: tuple[tuple[str, float], ...]
    unit: str
    is_line: bool = False


@dataclass(frozen=True)
class ReportResult:
    """The requested rows, which can be read once, and the number of all.

    `as_of` is the time (UTC) of the statistics that the report uses, or of the report without any; None if
    the statistics have not been computed yet. `list_link` leads to all titles of the report.
    """

    rows: Iterable[Row]
    total: int
    as_of: datetime | None
    charts: tuple[Chart, ...] = ()
    list_link: ListLink | None = None


@dataclass(frozen=True)
class Report:
    """A report. `default_sort` names a column, with a hyphen before it for descending order."""

    name: str
    title: str
    summary: str
    columns: tuple[Column, ...]
    default_sort: str
    read: Callable[[Session, ReportRequest], ReportResult]
    parameters: tuple[Parameter, ...] = ()

    def request(
        self,
        *,
        collection: str | None = None,
        parameters: Mapping[str, str] = MappingProxyType({}),
        sort: str | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> ReportRequest:
        """Return a request with the given values, which are texts, and defaults for the others.

        Raises:
            InvalidInput: the report has no such parameter or sortable column, or a value is invalid.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in parameters:
            if name not in known:
                names = ", ".join(known) or "none"
                raise InvalidInput(f"The report {self.name} has no parameter {name}: it has {names}.")
        order = sort or self.default_sort
        column = order.removeprefix("-")
        sortable = [each.name for each in self.columns if each.is_sortable]
        if column not in sortable:
            raise InvalidInput(
                f'The report {self.name} cannot be sorted by "{column}": choose one of {", ".join(sortable)}.'
            )
        return ReportRequest(
            collection=collection,
            parameters={
                name: parameter.parse(parameters[name]) if name in parameters else parameter.default
                for name, parameter in known.items()
            },
            sort=column,
            is_descending=order.startswith("-"),
            offset=offset,
            limit=limit,
        )


def page_of(rows: Sequence[Row], request: ReportRequest) -> Sequence[Row]:
    """Return the requested part of rows that are all in memory; those without a value come last.

    Codes are sorted by their labels.
    """
    with_value = [row for row in rows if row.values[request.sort] is not None]
    without = [row for row in rows if row.values[request.sort] is None]
    with_value.sort(key=lambda row: _sort_key(row, request.sort), reverse=request.is_descending)
    end = None if request.limit is None else request.offset + request.limit
    return [*with_value, *without][request.offset : end]


def _sort_key(row: Row, column: str) -> Any:
    value = row.labels.get(column, row.values[column])
    return value.casefold() if isinstance(value, str) else value


def months_before(day: date, months: int) -> date:
    """Return the day so many months earlier, or the last day of that month if it is shorter."""
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
