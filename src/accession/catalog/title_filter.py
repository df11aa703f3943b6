"""Filter titles by collection, metadata, availability, purchase date and use."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from accession.accounts.collections import find_collection, is_of_collection
from accession.catalog.availability import has_availability
from accession.catalog.editions import pool_edition_join
from accession.catalog.purchase_records import has_warnings
from accession.core.text import clean_text
from accession.db.models import (
    Classification,
    Edition,
    LicensePool,
    PoolStatus,
    PurchaseRecord,
    Subject,
    TitleStatistics,
)


class Lack(StrEnum):
    """Part of a title that is missing, or the missing purchase."""

    METADATA = "metadata"
    COVER = "cover"
    FORMAT = "format"
    LANGUAGE = "language"
    SUBJECT = "subject"
    PURCHASE = "purchase"


PoolQuery = Select[int]
"""A query for the ids of license pools."""


@dataclass(frozen=True)
class TitleFilter:
    """Conditions on titles; a field left at its default sets none.

    Attributes:
        text: Words of title, subtitle, contributors and publisher, or an ISBN, or the vendor's id. Only
            the first 100 characters are used.
        audience: `children`, `young adult` or `general`, by the title's main BISAC subject.
        availability: `available` (at least one copy), `on_hold` (no copy available, or patrons in the hold
            queue), `on_order` (not on sale yet) or `withdrawn` (no copy owned any more).
        held: Leave out withdrawn titles.
        purchased_from: First day of a purchase. A purchase of which only the month is known matches if the
            month includes the day.
        purchased_until: Last day of a purchase, likewise.
        with_warnings: Only titles with a purchase record that could be stored only in part.
        subject: Name of a subject.
        lacks: Only titles without this. This condition and the next three use the
            statistics of titles (`accession.catalog.title_statistics`), which can be some minutes old.
        unused_since: Only titles with copies that were neither lent nor first purchased since this day.
        first_purchased_from: First day of the first purchase.
        first_purchased_until: Last day of the first purchase.
        also_in: Only titles that this collection holds too.
    """

    text: str = ""
    collection: str | None = None
    format: str | None = None
    language: str | None = None
    audience: str | None = None
    availability: str | None = None
    held: bool = False
    purchased_from: date | None = None
    purchased_until: date | None = None
    with_warnings: bool = False
    subject: str | None = None
    lacks: Lack | None = None
    unused_since: date | None = None
    first_purchased_from: date | None = None
    first_purchased_until: date | None = None
    also_in: str | None = None


def select_pools(session: Session, filters: TitleFilter) -> PoolQuery:
    """Return a query for the pools that match every filter but the text.

    Raises:
        NotFound: a collection does not exist.
        InvalidInput: the availability does not exist.
    """
    query = select_pools_of(session, filters.collection)
    if filters.format:
        query = query.where(Edition.format == clean_text(filters.format))
    if filters.language:
        query = query.where(Edition.language == clean_text(filters.language))
    if filters.audience:
        query = query.where(Edition.audience == clean_text(filters.audience))
    if filters.format or filters.language or filters.audience:
        query = query.where(pool_edition_join())
    if filters.availability:
        query = query.where(has_availability(filters.availability))
    if filters.held:
        query = query.where(LicensePool.status != PoolStatus.EXHAUSTED)
    if filters.purchased_from or filters.purchased_until:
        query = query.where(_is_purchased_between(filters.purchased_from, filters.purchased_until))
    if filters.with_warnings:
        query = query.where(has_warnings())
    if filters.subject:
        query = query.where(_has_subject(clean_text(filters.subject)))
    if filters.also_in:
        query = query.where(_is_held_by(find_collection(session, filters.also_in).id))
    conditions = list(_statistics_conditions(filters))
    if conditions:
        is_same_pool = TitleStatistics.license_pool_id == LicensePool.id
        query = query.join(TitleStatistics, is_same_pool).where(*conditions)
    return query


def select_pools_of(session: Session, collection: str | None) -> PoolQuery:
    """Return a query for the pools of one collection, or of all in use.

    Raises:
        NotFound: the collection does not exist.
    """
    query = select(LicensePool.id)
    if collection is None:
        return query.where(is_of_collection(LicensePool.collection_id, None))
    # With an id instead of a name the database can estimate the number of rows.
    return query.where(LicensePool.collection_id == find_collection(session, collection).id)


def _is_purchased_between(first: date | None, last: date | None) -> ColumnElement[bool]:
    row = PurchaseRecord
    purchase = exists().where(
        row.license_pool_id == LicensePool.id, row.collection_id == LicensePool.collection_id
    )
    if first is not None:
        # A month is stored as its first day.
        in_month = row.month_only & (row.purchased_on >= first.replace(day=1))
        purchase = purchase.where(or_(row.purchased_on >= first, in_month))
    return purchase.where(row.purchased_on <= last) if last is not None else purchase


def _has_subject(name: str) -> ColumnElement[bool]:
    return exists().where(
        pool_edition_join(),
        Classification.edition_id == Edition.id,
        Classification.subject_id == Subject.id,
        Subject.name == name,
    )


def _is_held_by(collection_id: int) -> ColumnElement[bool]:
    other = aliased(LicensePool)
    return exists().where(
        other.collection_id == collection_id,
        other.identifier_id == LicensePool.identifier_id,
        other.data_source == LicensePool.data_source,
    )


_LACKS: Mapping[Lack, Sequence[ColumnElement[bool]]] = {
    Lack.METADATA: [~TitleStatistics.has_metadata],
    Lack.COVER: [~TitleStatistics.has_cover],
    Lack.FORMAT: [TitleStatistics.format.is_(None)],
    Lack.LANGUAGE: [TitleStatistics.language.is_(None)],
    Lack.SUBJECT: [~TitleStatistics.has_subject],
    # See `first_purchase_conditions`.
    Lack.PURCHASE: [],
}


def _statistics_conditions(filters: TitleFilter) -> Iterator[ColumnElement[bool]]:
    row = TitleStatistics
    if filters.lacks is not None:
        yield from _LACKS[filters.lacks]
        # The roll-up of events adds rows without an edition, which the refresh has still to complete.
        yield or_(row.edition_id.is_not(None), ~row.has_metadata)
        if filters.collection is not None:
            # The indexes of these conditions begin with the collection.
            yield row.collection_id == LicensePool.collection_id
    if filters.unused_since is not None:
        yield row.unused_since < filters.unused_since
    yield from first_purchase_conditions(filters, row.first_purchased_on)


def first_purchase_conditions(
    filters: TitleFilter, day: InstrumentedAttribute[Any]
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions on the day of a title's first purchase."""
    if filters.first_purchased_from is not None:
        yield day >= filters.first_purchased_from
    if filters.first_purchased_until is not None:
        yield day <= filters.first_purchased_until
    if filters.lacks == Lack.PURCHASE:
        yield day.is_(None)
