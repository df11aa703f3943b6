"""Holds ratio: the titles of which more copies are needed."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Float, Integer, cast, func, select
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.vocabulary import EventType
from accession.db.bulk import in_array
from accession.db.models import CirculationTotal, LicensePool, TitleStatistics
from accession.reports.model import Column, ColumnKind, Parameter, Report, ReportRequest, ReportResult
from accession.reports.title_rows import TITLE_COLUMNS, in_collection, title_rows

_TREND_DAYS = 30


def read_holds_ratio(session: Session, request: ReportRequest) -> ReportResult:
    """Return the titles with more holds per copy than the threshold; titles without copies count as well."""
    pool, threshold = LicensePool, request.parameters["threshold"]
    holds, copies = pool.patrons_in_hold_queue, pool.licenses_owned
    conditions = (
        in_collection(session, pool.collection_id, request.collection),
        holds > 0,
        holds > copies * threshold,
    )
    query = (
        select(
            pool.id.label("pool_id"),
            holds.label("holds"),
            copies.label("copies"),
            # Null without copies, which PostgreSQL sorts as larger than all numbers.
            (cast(holds, Float) / func.nullif(copies, 0)).label("holds_per_copy"),
            cast(func.ceil(cast(holds, Float) / threshold) - copies, Integer).label("copies_to_buy"),
            func.coalesce(TitleStatistics.loans_last_year, 0).label("loans_last_year"),
        )
        .outerjoin(TitleStatistics, TitleStatistics.license_pool_id == pool.id)
        .where(*conditions)
    )
    return ReportResult(
        rows=title_rows(session, query, request, more_values=_trends),
        total=session.scalar(select(func.count()).select_from(pool).where(*conditions)) or 0,
        as_of=utc_now(),
    )


def _trends(session: Session, pool_ids: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
    """Return the numbers of holds placed in the last 30 days and in the 30 days before."""
    row, today = CirculationTotal, utc_now().date()
    middle, start = today - timedelta(days=_TREND_DAYS), today - timedelta(days=2 * _TREND_DAYS)
    query = (
        select(
            row.license_pool_id,
            func.coalesce(func.sum(row.events).filter(row.day > middle), 0),
            func.coalesce(func.sum(row.events).filter(row.day <= middle), 0),
        )
        .where(in_array(row.license_pool_id, pool_ids), row.event_type == EventType.HOLD, row.day > start)
        .group_by(row.license_pool_id)
    )
    placed = {pool_id: (recent, before) for pool_id, recent, before in session.execute(query)}
    return {pool_id: _trend(*placed.get(pool_id, (0, 0))) for pool_id in pool_ids}


def _trend(recent: int, before: int) -> Mapping[str, Any]:
    trend = "steady" if recent == before else "rising" if recent > before else "falling"
    return {"holds_placed": recent, "holds_placed_before": before, "trend": trend}


HOLDS_RATIO = Report(
    name="holds-ratio",
    title="Holds ratio",
    summary="Titles with many holds per copy: what to buy more copies of.",
    columns=(
        *TITLE_COLUMNS,
        Column("holds", "Holds", ColumnKind.NUMBER, is_sortable=True),
        Column("copies", "Copies", ColumnKind.NUMBER, is_sortable=True),
        Column("holds_per_copy", "Holds per copy", ColumnKind.RATIO, is_sortable=True),
        Column("copies_to_buy", "Copies to buy", ColumnKind.NUMBER, is_sortable=True),
        Column("holds_placed", "Holds placed, last 30 days", ColumnKind.NUMBER),
        Column("holds_placed_before", "Holds placed, 30 days before", ColumnKind.NUMBER),
        Column("trend", "Trend"),
        Column("loans_last_year", "Loans, last 12 months", ColumnKind.NUMBER, is_sortable=True),
    ),
    default_sort="-holds_per_copy",
    read=read_holds_ratio,
    parameters=(
        Parameter(
            "threshold",
            "More holds per copy than",
            4.0,
            "Titles with more holds per copy than this.",
            minimum=0.5,
            maximum=100,
        ),
    ),
)
