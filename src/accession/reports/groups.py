"""Reports on groups of titles: turnover by format, language, subject or year, and growth by month."""

from calendar import monthrange
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import ColumnElement, Float, Select, cast, func, select
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.catalog.title_filter import Lack
from accession.catalog.title_statistics import last_refreshed_at
from accession.core.labels import value_label
from accession.db.models import TitleGroup
from accession.reports.loans import last_months, loans_by_month
from accession.reports.model import (
    Chart,
    Column,
    ColumnKind,
    ListKind,
    ListLink,
    Parameter,
    Report,
    ReportRequest,
    ReportResult,
    Row,
    list_link,
    page_of,
)

_MAX_BARS = 12
_YEAR_LENGTH = 4
_GROUPINGS = {
    "format": "Format",
    "language": "Language",
    "subject": "Subject",
    "year": "Year of first purchase",
}


def read_turnover(session: Session, request: ReportRequest) -> ReportResult:
    """Return loans of the last year per copy, by format, language, subject or year of first purchase."""
    by = request.parameters["by"]
    groups = _select_groups(session, request.collection, by).subquery()
    turnover = cast(groups.c.loans_last_year, Float) / func.nullif(groups.c.copies, 0)
    query = select(groups, turnover.label("turnover")).order_by(groups.c.value)
    rows = [_turnover_row(request.collection, by, row) for row in session.execute(query)]
    return ReportResult(
        rows=page_of(rows, request),
        total=len(rows),
        as_of=last_refreshed_at(session),
        charts=_turnover_charts(by, rows),
    )


def _select_groups(session: Session, collection: str | None, by: str) -> Select[*tuple[Any, ...]]:
    group = TitleGroup
    value = func.left(group.value, _YEAR_LENGTH) if by == "year" else group.value
    numbers = (group.titles, group.copies, group.holds, group.loans_last_year)
    owner: ColumnElement[bool] = group.collection_id.is_(None)
    if collection is not None:
        owner = group.collection_id == find_collection(session, collection).id
    return (
        select(value.label("value"), *(func.sum(number).label(number.key) for number in numbers))
        .where(group.kind == ("month" if by == "year" else by), owner)
        .group_by(value)
    )


def _turnover_row(collection: str | None, by: str, row: Any) -> Row:
    value, links = row.value or "(none)", {"titles": _group_link(collection, by, row.value)}
    return Row({**row._mapping, "value": value}, links, {"value": value_label(by, value)})


def _group_link(collection: str | None, by: str, value: str) -> ListLink:
    if not value:
        return list_link(ListKind.TITLES, collection, lacks=Lack.PURCHASE if by == "year" else Lack(by))
    if by != "year":
        return list_link(ListKind.TITLES, collection, **{by: value})
    return _first_purchased(collection, f"{value}-01-01", f"{value}-12-31")


def _first_purchased(collection: str | None, first: str, last: str) -> ListLink:
    return list_link(ListKind.TITLES, collection, first_purchased_from=first, first_purchased_until=last)


def _turnover_charts(by: str, rows: Sequence[Row]) -> tuple[Chart, ...]:
    """Return a chart of the groups with the most loans, or of all years; none of subjects with long names."""
    if by == "subject" or not rows:
        return ()
    shown = rows
    if by != "year":
        shown = sorted(rows, key=lambda row: row.values["loans_last_year"], reverse=True)[:_MAX_BARS]
    points = tuple((row.labels["value"], row.values["turnover"] or 0) for row in shown)
    title = f"Loans per copy in the last 12 months, by {_GROUPINGS[by].lower()}"
    return (Chart(title, points, "loans per copy"),)


def read_growth(session: Session, request: ReportRequest) -> ReportResult:
    """Return titles added, all titles so far and loans by month; titles without a purchase are left out."""
    collection, months = request.collection, last_months(request.parameters["months"])
    groups = session.execute(_select_groups(session, collection, "month"))
    added = {row.value: row.titles for row in groups if row.value}
    titles = sum(number for month, number in added.items() if month < f"{months[0]:%Y-%m}")
    rows = []
    for first_day, loans in loans_by_month(session, collection, len(months)):
        month = f"{first_day:%Y-%m}"
        titles += added.get(month, 0)
        values = {"month": month, "titles_added": added.get(month, 0), "titles": titles, "loans": loans}
        rows.append(Row(values, _growth_links(collection, first_day)))
    return ReportResult(
        rows=page_of(rows, request),
        total=len(rows),
        as_of=last_refreshed_at(session),
        charts=(
            _growth_chart("Titles added per month", "titles_added", rows, "titles"),
            _growth_chart("Titles at the end of each month", "titles", rows, "titles", is_line=True),
            _growth_chart("Loans per month", "loans", rows, "loans"),
        ),
    )


def _growth_links(collection: str | None, first_day: date) -> Mapping[str, ListLink]:
    last_day = first_day.replace(day=monthrange(first_day.year, first_day.month)[1]).isoformat()
    return {
        "titles_added": _first_purchased(collection, first_day.isoformat(), last_day),
        "titles": list_link(ListKind.TITLES, collection, first_purchased_until=last_day),
    }


def _growth_chart(title: str, column: str, rows: list[Row], unit: str, *, is_line: bool = False) -> Chart:
    return Chart(title, tuple((row.values["month"], row.values[column]) for row in rows), unit, is_line)


def _numbers(**labels: str) -> tuple[Column, ...]:
    return tuple(Column(name, label, ColumnKind.NUMBER, is_sortable=True) for name, label in labels.items())


TURNOVER = Report(
    name="turnover",
    title="Turnover",
    summary="Loans of the last 12 months per copy, by format, language, subject or year of purchase.",
    columns=(
        Column("value", "Group", is_sortable=True),
        *_numbers(titles="Titles", copies="Copies", holds="Holds", loans_last_year="Loans, last 12 months"),
        Column("turnover", "Loans per copy", ColumnKind.RATIO, is_sortable=True),
    ),
    default_sort="-loans_last_year",
    read=read_turnover,
    parameters=(
        Parameter(
            "by",
            "By",
            "format",
            "What to group the titles by; year is that of the first purchase.",
            choices=_GROUPINGS,
        ),
    ),
)

GROWTH = Report(
    name="growth",
    title="Growth",
    summary="Titles added, all titles and loans by month.",
    columns=(
        Column("month", "Month", is_sortable=True),
        *_numbers(titles_added="Titles added", titles="Titles at the end", loans="Loans"),
    ),
    default_sort="-month",
    read=read_growth,
    parameters=(
        Parameter("months", "Months", 24, "The last months, with the present one.", minimum=2, maximum=240),
    ),
)
