"""TODO."""

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Table,
    Text,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.orm import Session

from accession.db.models import Base


@dataclass(frozen=True)
class WriteMark:
    """A moment in the life of the catalogue tables: a transaction, and how many rows they had."""

    transaction_id: int
    rows: int


def write_mark(session: Session) -> WriteMark:
    """Note where the catalogue tables stand, for `rows_written_since`."""
    transaction_id = session.scalar(select(func.txid_current())) or 0
    return WriteMark(transaction_id, sum(_count(session, table) for table in _CATALOGUE_TABLES))


def rows_written_since(session: Session, mark: WriteMark) -> int:
    """How many rows of the catalogue tables were inserted, updated or deleted since `mark`.

    Every row carries the transaction that wrote it. Meant for a demonstration: within two thousand
    million transactions, after which the server's counter begins anew.
    """
    written = 0
    rows = 0
    for table in _CATALOGUE_TABLES:
        writer = cast(cast(literal_column(f"{table.name}.xmin"), Text), BigInteger)
        written += _count(session, table, writer >= mark.transaction_id % 2**32)
        rows += _count(session, table)
    # An update leaves as many rows as before: only a loss of rows shows a deletion.
    return written + max(0, mark.rows - rows)


def _count(session: Session, table: Table, *where: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(*where)) or 0


# Ledger, checkpoints and accounts, and who may use all this; the others say what the library holds.
_BESIDE_THE_CATALOGUE = (
    "api_tokens",
    "collections",
    "looked_up_titles",
    "run_retries",
    "run_samples",
    "run_totals",
    "runs",
    "swept_batches",
    "timestamps",
    "users",
)


_CATALOGUE_TABLES = [
    table for name, table in Base.metadata.tables.items() if name not in _BESIDE_THE_CATALOGUE
]
