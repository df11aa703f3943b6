"""Count the rows of the catalogue tables that have been written since a moment, to show that nothing was."""

from dataclasses import dataclass

from sqlalchemy import BigInteger, ColumnElement, Table, Text, cast, func, literal_column, select
from sqlalchemy.orm import Session

from accession.db.models import Base

_OTHER_TABLES = (
    "api_tokens",
    "audit_log",
    "circulation_months",
    "circulation_totals",
    "collection_overlaps",
    "collections",
    "digest_issues",
    "digest_mails",
    "digests",
    "export_results",
    "listed_records",
    "notification_channels",
    "notification_events",
    "notification_incidents",
    "notification_rules",
    "notifications",
    "oai_repository",
    "process_settings",
    "prunings",
    "run_days",
    "run_log_lines",
    "run_requests",
    "run_retries",
    "run_samples",
    "run_step_totals",
    "run_steps",
    "run_titles",
    "run_totals",
    "runs",
    "statistics_state",
    "swept_batches",
    "table_sizes",
    "timestamps",
    "title_groups",
    "title_statistics",
    "undated_records",
    "users",
    "verification_findings",
    "verified_months",
    "webhook_deliveries",
    "webhooks",
    "workflow_pauses",
    "workflow_schedules",
)
"""Tables of accounts, runs, checkpoints, verification, statistics, messages, feeds and users."""

CATALOGUE_TABLES = [table for name, table in Base.metadata.tables.items() if name not in _OTHER_TABLES]


@dataclass(frozen=True)
class TableState:
    """State of the catalogue tables at a moment: the current transaction's id, and the number of rows."""

    transaction_id: int
    rows: int


def read_table_state(session: Session) -> TableState:
    """Return the present state of the catalogue tables, for `count_rows_written_since`."""
    transaction_id = session.scalar(select(func.txid_current())) or 0
    return TableState(transaction_id, sum(_count(session, table) for table in CATALOGUE_TABLES))


def count_rows_written_since(session: Session, state: TableState) -> int:
    """Return the number of catalogue rows inserted, updated or deleted since `state`.

    PostgreSQL stores in each row the id of the transaction that wrote it (`xmin`). These ids start again
    after four billion transactions, so the count is meant for demonstrations and tests.
    """
    written = 0
    rows = 0
    for table in CATALOGUE_TABLES:
        writer = cast(cast(literal_column(f"{table.name}.xmin"), Text), BigInteger)
        written += _count(session, table, writer >= state.transaction_id % 2**32)
        rows += _count(session, table)
    # Deleted rows leave no trace but a lower number of rows.
    return written + max(0, state.rows - rows)


def _count(session: Session, table: Table, *where: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(*where)) or 0
