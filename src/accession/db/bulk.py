"""Bulk statements: read and write many rows at once, without writing rows that are already stored.

`ON CONFLICT ... WHERE` alone locks and logs every row it leaves unchanged, so the stored rows are read first,
and only the differences are sent. Rows and keys are sent as arrays, one per column: the text of a statement
is the same for any number of rows, and is compiled, parsed and planned once.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Table,
    TableValuedAlias,
    Update,
    any_,
    delete,
    func,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = Mapping[str, Any]


def in_array(column: InstrumentedAttribute[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Return the condition that the column has one of the values."""
    return column == any_(literal(list(values), ARRAY(column.type)))


def in_keys(table: Table, keys: Sequence[Row]) -> ColumnElement[bool]:
    """Return the condition that a row has one of the keys: at least one, all with the same columns."""
    return tuple_(*(table.c[name] for name in keys[0])).in_(select(_unnested(table, keys)))


def insert_statement(table: Table, rows: Sequence[Row]) -> Insert:
    """Return the INSERT of the rows: at least one, all with the same columns."""
    return insert(table).from_select(list(rows[0]), select(_unnested(table, rows)))


def update_statement(table: Table, rows: Sequence[Row]) -> Update:
    """Return the UPDATE of the rows: at least one, each with an `id` and the same columns to set."""
    source = _unnested(table, rows)
    new_values = {name: source.c[name] for name in rows[0] if name != "id"}
    return update(table).where(table.c.id == source.c.id).values(new_values)


def get_or_create_ids(
    session: Session, table: Table, columns: Sequence[str], keys: Iterable[tuple[Any, ...]]
) -> dict[tuple[Any, ...], int]:
    """Return the row id of each natural key, adding the rows that are missing. Such rows never change.

    Rows are added in the order of their keys, so that two transactions adding the same keys wait for each
    other instead of deadlocking. Rows that another transaction has added meanwhile are read back.
    """
    unique_keys = sorted(set(keys))
    ids = _stored_ids(session, table, columns, unique_keys)
    if missing := [key for key in unique_keys if key not in ids]:
        statement = insert_statement(table, [dict(zip(columns, key, strict=True)) for key in missing])
        returning = (table.c.id, *(table.c[name] for name in columns))
        added = statement.on_conflict_do_nothing().returning(*returning)
        ids |= {tuple(key): row_id for row_id, *key in session.execute(added)}
        ids |= _stored_ids(session, table, columns, [key for key in missing if key not in ids])
    return ids


def _stored_ids(
    session: Session, table: Table, columns: Sequence[str], keys: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], int]:
    if not keys:
        return {}
    condition = in_keys(table, [dict(zip(columns, key, strict=True)) for key in keys])
    query = select(table.c.id, *(table.c[name] for name in columns)).where(condition)
    return {tuple(key): row_id for row_id, *key in session.execute(query)}


def replace_rows(
    session: Session, table: Table, owned: ColumnElement[bool], new_rows: Collection[Row]
) -> None:
    """Replace the rows of `table` that meet the condition `owned`; only differences are written.

    Each new row has all columns of the table. The caller holds a lock on the owner of these rows, so that
    no other transaction writes them meanwhile.
    """
    columns = [column.name for column in table.c]
    stored = {tuple(row) for row in session.execute(select(table).where(owned))}
    rows = {tuple(row[name] for name in columns) for row in new_rows}
    primary_key = [column.name for column in table.primary_key]
    if deleted := [{name: row[columns.index(name)] for name in primary_key} for row in sorted(stored - rows)]:
        session.execute(delete(table).where(in_keys(table, deleted)))
    if added := [dict(zip(columns, row, strict=True)) for row in sorted(rows - stored)]:
        session.execute(insert_statement(table, added))


def _unnested(table: Table, rows: Sequence[Row]) -> TableValuedAlias:
    """Return the rows, in their order, as a table that a statement can select from and join."""
    # With one dimension a list is a value, of a JSON column for example, and not a part of the array.
    columns = {
        name: literal([row[name] for row in rows], ARRAY(table.c[name].type, dimensions=1))
        for name in rows[0]
    }
    return func.unnest(*columns.values()).table_valued(*columns, name="new_rows").render_derived()
