"""Report on the titles that several collections of a consortium hold."""

from typing import Any

from sqlalchemy import Float, Select, cast, func, select
from sqlalchemy.orm import Session, aliased

from accession.accounts.collections import find_collection
from accession.accounts.libraries import vendor_libraries
from accession.catalog.title_statistics import last_refreshed_at
from accession.db.models import Collection, CollectionOverlap
from accession.reports.model import (
    Column,
    ColumnKind,
    ListKind,
    Report,
    ReportRequest,
    ReportResult,
    Row,
    list_link,
)


def read_overlap(session: Session, request: ReportRequest) -> ReportResult:
    """Return each pair of collections that share titles, with the number of these."""
    query = _select_pairs()
    if request.collection is not None:
        holder = find_collection(session, request.collection)
        query = query.where(CollectionOverlap.collection_id == holder.id)
    columns = query.selected_columns
    order = columns[request.sort].desc() if request.is_descending else columns[request.sort]
    in_order = query.order_by(order, columns.collection, columns.other_collection)
    page = session.execute(in_order.offset(request.offset).limit(request.limit))
    libraries = vendor_libraries(session)
    return ReportResult(
        rows=[_row(row, libraries[row.collection_id] == libraries[row.other_id]) for row in page],
        total=session.scalar(select(func.count()).select_from(query.subquery())) or 0,
        as_of=last_refreshed_at(session),
    )


def _row(row: Any, has_same_copies: bool) -> Row:
    values = {
        "collection": row.collection,
        "titles": row.titles,
        "other_collection": row.other_collection,
        "shared": row.shared,
        "share": row.share,
        "same_copies": "yes" if has_same_copies else "no",
    }
    links = {
        "titles": list_link(ListKind.TITLES, row.collection),
        "shared": list_link(ListKind.TITLES, row.collection, also_in=row.other_collection),
    }
    return Row(values, links)


def _select_pairs() -> Select[*tuple[Any, ...]]:
    """Return a query for the pairs of collections in use; one may have been removed since the refresh."""
    pair, own, holder, other = CollectionOverlap, aliased(CollectionOverlap), Collection, aliased(Collection)
    return (
        select(
            pair.collection_id,
            pair.other_id,
            holder.name.label("collection"),
            own.titles.label("titles"),
            other.name.label("other_collection"),
            pair.titles.label("shared"),
            (cast(pair.titles, Float) / own.titles).label("share"),
        )
        .join(holder, (holder.id == pair.collection_id) & holder.marked_for_deletion_at.is_(None))
        .join(other, (other.id == pair.other_id) & other.marked_for_deletion_at.is_(None))
        .join(own, (own.collection_id == pair.collection_id) & (own.other_id == pair.collection_id))
        .where(pair.collection_id != pair.other_id)
    )


OVERLAP = Report(
    name="overlap",
    title="Overlap of collections",
    summary="Titles that two collections of a consortium both hold.",
    columns=(
        Column("collection", "Collection", is_sortable=True),
        Column("titles", "Titles", ColumnKind.NUMBER, is_sortable=True),
        Column("other_collection", "Other collection", is_sortable=True),
        Column("shared", "Titles in both", ColumnKind.NUMBER, is_sortable=True),
        Column("share", "Share of its titles", ColumnKind.SHARE, is_sortable=True),
        Column("same_copies", "Same copies"),
    ),
    default_sort="-shared",
    read=read_overlap,
)
