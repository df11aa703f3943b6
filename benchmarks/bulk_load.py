"""Fast loading of large tables with PostgreSQL's COPY."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from sqlalchemy import Connection, func, select, text

from accession.db.models import Base

Row: TypeAlias = tuple[Any, ...]


@contextmanager
def without_keys_and_indexes(connection: Connection) -> Iterator[None]:
    """Drop all keys and indexes, and create them again when the context ends, as a restore does."""
    definitions = _drop_keys_and_indexes(connection)
    yield
    for definition in definitions:
        connection.execute(text(definition))


def copy_rows(connection: Connection, table: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Copy rows into an empty table, as if they had been vacuumed."""
    # COPY with FREEZE requires that the same transaction has truncated the table.
    connection.execute(text(f"TRUNCATE {table}"))
    driver_connection: Any = connection.connection.dbapi_connection
    # Only MARC records are bytes, which are half as long in the binary format.
    copy_format = "binary" if "marc" in columns else "text"
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT {copy_format}, FREEZE)"
    with driver_connection.cursor() as cursor, cursor.copy(statement) as copy:
        if copy_format == "binary":
            copy.set_types(["int4", "int4", "date", "bytea", "text"])
        for row in rows:
            copy.write_row(row)


def advance_sequences(connection: Connection) -> dict[str, int]:
    """Let new rows get ids after the existing ones; return the last id of each table."""
    last_ids = {
        name: connection.scalar(select(func.max(table.c.id)))
        for name, table in Base.metadata.tables.items()
        if "id" in table.c
    }
    for name, last_id in last_ids.items():
        if last_id is not None:
            connection.execute(select(func.setval(func.pg_get_serial_sequence(name, "id"), last_id)))
    return {name: last_id or 0 for name, last_id in last_ids.items()}


def _drop_keys_and_indexes(connection: Connection) -> list[str]:
    """Drop all keys and indexes; return the statements that create them again, in order."""
    # Foreign keys are last, because they need the primary keys.
    keys = connection.execute(
        text(
            "SELECT conrelid::regclass AS owner, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u', 'f')"
            " AND conrelid != 'alembic_version'::regclass ORDER BY contype = 'f'"
        )
    ).all()
    for table, name, _ in reversed(keys):
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    indexes = connection.execute(
        text(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
            " AND tablename != 'alembic_version'"
        )
    ).all()
    for name, _ in indexes:
        connection.execute(text(f"DROP INDEX {name}"))
    return [
        *(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}" for table, name, definition in keys),
        *(definition for _, definition in indexes),
    ]
