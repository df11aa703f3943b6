"""Reports on the use of titles: the most borrowed ones, and those that nobody borrows."""

from typing import Any

from sqlalchemy import ColumnElement, Float, Select, cast, func, select
from sqlalchemy.orm import Session

from accession.catalog.title_statistics import last_refreshed_at
from accession.core.clock import utc_now
from accession.db.models import LicensePool, TitleStatistics
from accession.reports.loans import loans_by_month
from accession.reports.model import (
    Chart,
    Column,
    ColumnKind,
    ListKind,
    Parameter,
    Report,
    ReportRequest,
    ReportResult,
    list_link,
    months_before,
)
from accession.reports.title_rows import TITLE_COLUMNS, in_collection, title_rows

_MONTHS_OF_CHART = 24


def read_most_borrowed(session: Session, request: ReportRequest) -> ReportResult:
    """Return the titles that were borrowed in the last year, or ever if sorted by that."""
    row = TitleStatistics
    loans = row.loans if request.sort == "loans" else row.loans_last_year
    conditions = (in_collection(session, row.collection_id, request.collection), loans > 0)
    copies = LicensePool.licenses_owned
    per_copy = cast(row.loans_last_year, Float) / func.nullif(copies, 0)
    query = _select(copies.label("copies"), per_copy.label("loans_per_copy")).where(*conditions)
    months = loans_by_month(session, request.collection, _MONTHS_OF_CHART)
    points = tuple((f"{month:%Y-%m}", number) for month, number in months)
    return ReportResult(
        rows=title_rows(session, query, request, row.license_pool_id),
        total=_count(session, *conditions),
        as_of=utc_now(),
        charts=(Chart("Loans per month", points, "loans"),),
    )


def read_unused(session: Session, request: ReportRequest) -> ReportResult:
    """Return the titles with copies that have not been borrowed, nor first purchased, for some months."""
    row = TitleStatistics
    until = months_before(utc_now().date(), request.parameters["months"])
    conditions = (in_collection(session, row.collection_id, request.collection), row.unused_since < until)
    query = _select(
        LicensePool.licenses_owned.label("copies"),
        row.first_purchased_on.label("first_purchased_on"),
        row.last_loan_on.label("last_loan_on"),
        row.unused_since.label("unused_since"),
    )
    return ReportResult(
        rows=title_rows(session, query.where(*conditions), request, row.license_pool_id),
        total=_count(session, *conditions),
        as_of=last_refreshed_at(session),
        list_link=list_link(ListKind.TITLES, request.collection, unused_since=until.isoformat()),
    )


def _select(*values: ColumnElement[Any]) -> Select[*tuple[Any, ...]]:
    row = TitleStatistics
    loans = (row.loans_last_year.label("loans_last_year"), row.loans.label("loans"))
    return (
        select(row.license_pool_id.label("pool_id"), *loans, *values)
        .select_from(row)
        .join(LicensePool, LicensePool.id == row.license_pool_id)
    )


def _count(session: Session, *conditions: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(TitleStatistics).where(*conditions)) or 0


_LOANS_LAST_YEAR = Column("loans_last_year", "Loans, last 12 months", ColumnKind.NUMBER, is_sortable=True)
_LOANS = Column("loans", "Loans, all time", ColumnKind.NUMBER, is_sortable=True)
_COPIES = Column("copies", "Copies", ColumnKind.NUMBER)

BORROWED = Report(
    name="most-borrowed",
    title="Most borrowed",
    summary="Titles in the order of their loans in the last 12 months, or of all time.",
    columns=(
        *TITLE_COLUMNS,
        _LOANS_LAST_YEAR,
        _LOANS,
        _COPIES,
        Column("loans_per_copy", "Loans per copy, last 12 months", ColumnKind.RATIO),
    ),
    default_sort="-loans_last_year",
    read=read_most_borrowed,
)

UNUSED = Report(
    name="unused",
    title="Never borrowed",
    summary="Titles with copies that nobody has borrowed for a number of months.",
    columns=(
        *TITLE_COLUMNS,
        _COPIES,
        Column("first_purchased_on", "First purchased", ColumnKind.DAY, is_sortable=True),
        Column("last_loan_on", "Last loan", ColumnKind.DAY),
        Column("unused_since", "Unused since", ColumnKind.DAY, is_sortable=True),
        _LOANS,
    ),
    default_sort="unused_since",
    read=read_unused,
    parameters=(
        Parameter(
            "months",
            "Months without a loan",
            12,
            "Titles that were purchased earlier, and not borrowed in so many months.",
            minimum=1,
            maximum=240,
        ),
    ),
)
