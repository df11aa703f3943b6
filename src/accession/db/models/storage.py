"""Deletion of old rows, and the growth of the tables."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base


class Pruning(Base):
    """Deletion of one kind of old rows (`accession.runs.retention`): when last, and how many rows in total.

    A transaction that deletes such rows locks its row, so that only one does at a time.
    """

    __tablename__ = "prunings"

    kind: Mapped[str] = mapped_column(primary_key=True)
    pruned_at: Mapped[datetime | None]
    rows: Mapped[int] = mapped_column(BigInteger, default=0)


class TableSize(Base):
    """Size of a table with its indexes, and its estimated number of rows, on one day (UTC)."""

    __tablename__ = "table_sizes"

    day: Mapped[date] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int] = mapped_column(BigInteger)
