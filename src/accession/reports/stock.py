"""Reports on what is missing: copies that have run out, and titles without metadata or cover."""

from datetime import date
from typing import Any

from sqlalchemy import ColumnElement, Select, Subquery, case, func, literal, select, union_all
from sqlalchemy.orm import Session

from accession.catalog.title_statistics import last_refreshed_at
from accession.core.clock import utc_now
from accession.core.vocabulary import EventType
from accession.db.models import CirculationTotal, LicensePool, PoolStatus, TitleStatistics
from accession.reports.model import (
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


def read_exhausted(session: Session, request: ReportRequest) -> ReportResult:
    """Return the titles without copies, and those that have few left after the loss of some."""
    pool, statistics, show = LicensePool, TitleStatistics, request.parameters["show"]
    since = months_before(utc_now().date(), request.parameters["months"])
    removed = _select_removed(since).subquery("removed")
    of_collection = in_collection(session, pool.collection_id, request.collection)
    was_removed = removed.c.license_pool_id == pool.id
    few_left = pool.licenses_owned.between(1, request.parameters["copies"])
    # In two parts, because the database has an index for each.
    parts = {
        "exhausted": _select_stock("exhausted", removed)
        .outerjoin(removed, was_removed)
        .where(of_collection, pool.status == PoolStatus.EXHAUSTED),
        "low": _select_stock("low", removed).join(removed, was_removed).where(of_collection, few_left),
    }
    shown = union_all(*(part for name, part in parts.items() if show in ("all", name))).subquery("shown")
    query = select(shown, func.coalesce(statistics.loans_last_year, 0).label("loans_last_year")).outerjoin(
        statistics, statistics.license_pool_id == shown.c.pool_id
    )
    is_withdrawn_only = show == "exhausted"
    return ReportResult(
        rows=title_rows(session, query, request, shown.c.pool_id),
        total=session.scalar(select(func.count()).select_from(shown)) or 0,
        as_of=utc_now(),
        list_link=list_link(ListKind.TITLES, request.collection, availability="withdrawn")
        if is_withdrawn_only
        else None,
    )


def _select_stock(state: str, removed: Subquery) -> Select[*tuple[Any, ...]]:
    """Return a query, without conditions, for titles in this state with copies, removed copies and holds."""
    pool = LicensePool
    return select(
        pool.id.label("pool_id"),
        literal(state).label("state"),
        pool.licenses_owned.label("copies"),
        func.coalesce(removed.c.copies, 0).label("removed"),
        removed.c.last_day.label("last_removed_on"),
        pool.patrons_in_hold_queue.label("holds"),
    ).select_from(pool)


def _select_removed(since: date) -> Select[*tuple[Any, ...]]:
    """Return a query for the copies that were removed since a day, by title."""
    row = CirculationTotal
    # With a literal the database can use the index of removals.
    is_removal = row.event_type == literal(EventType.REMOVED.value, literal_execute=True)
    return (
        select(
            row.license_pool_id,
            func.sum(row.events).label("copies"),
            func.max(row.day).label("last_day"),
        )
        .where(is_removal, row.day >= since)
        .group_by(row.license_pool_id)
    )


def read_incomplete(session: Session, request: ReportRequest) -> ReportResult:
    """Return the titles without metadata or without a cover."""
    row, lacks = TitleStatistics, request.parameters["lacks"]
    conditions: list[ColumnElement[bool]] = [
        in_collection(session, row.collection_id, request.collection),
        ~(row.has_metadata & row.has_cover),
    ]
    if lacks == "metadata":
        conditions.append(~row.has_metadata)
    elif lacks == "cover":
        conditions.append(~row.has_cover)
    missing = case((~row.has_metadata, "metadata and cover"), else_="cover").label("missing")
    query = select(
        row.license_pool_id.label("pool_id"),
        missing,
        row.first_purchased_on.label("first_purchased_on"),
        row.loans_last_year.label("loans_last_year"),
    ).where(*conditions)
    return ReportResult(
        rows=title_rows(session, query, request, row.license_pool_id),
        total=session.scalar(select(func.count()).select_from(row).where(*conditions)) or 0,
        as_of=last_refreshed_at(session),
        list_link=None if lacks == "any" else list_link(ListKind.TITLES, request.collection, lacks=lacks),
    )


_LOANS_LAST_YEAR = Column("loans_last_year", "Loans, last 12 months", ColumnKind.NUMBER, is_sortable=True)

EXHAUSTED = Report(
    name="exhausted",
    title="Copies exhausted",
    summary="Titles without any copy left, or with few left after copies were removed.",
    columns=(
        *TITLE_COLUMNS,
        Column("state", "State", is_sortable=True),
        Column("copies", "Copies left", ColumnKind.NUMBER, is_sortable=True),
        Column("removed", "Copies removed", ColumnKind.NUMBER, is_sortable=True),
        Column("last_removed_on", "Last removed", ColumnKind.DAY),
        Column("holds", "Holds", ColumnKind.NUMBER, is_sortable=True),
        _LOANS_LAST_YEAR,
    ),
    default_sort="-loans_last_year",
    read=read_exhausted,
    parameters=(
        Parameter(
            "show",
            "Show",
            "all",
            "Exhausted titles, those that are low on copies, or both.",
            choices={
                "all": "Exhausted or low on copies",
                "exhausted": "Exhausted",
                "low": "Low on copies",
            },
        ),
        Parameter(
            "copies",
            "Low: copies left at most",
            1,
            "A title is low on copies if it has at most so many.",
            minimum=1,
            maximum=100,
        ),
        Parameter(
            "months",
            "Low: removed in months",
            12,
            "A title is low on copies only if some were removed in so many months.",
            minimum=1,
            maximum=120,
        ),
    ),
)

INCOMPLETE = Report(
    name="incomplete",
    title="Incomplete titles",
    summary="Titles without metadata or without a cover.",
    columns=(
        *TITLE_COLUMNS,
        Column("missing", "Missing"),
        Column("first_purchased_on", "First purchased", ColumnKind.DAY, is_sortable=True),
        _LOANS_LAST_YEAR,
    ),
    default_sort="-loans_last_year",
    read=read_incomplete,
    parameters=(
        Parameter(
            "lacks",
            "Without",
            "any",
            "What the titles lack: any of the two, metadata, or a cover.",
            choices={"any": "Metadata or cover", "metadata": "Metadata", "cover": "Cover"},
        ),
    ),
)
