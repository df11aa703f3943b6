"""Writing many rows at once without writing any that is already there.

`ON CONFLICT ... WHERE` alone locks and logs every row it leaves unchanged, so what is stored is looked
up first, and only what differs is sent. Rows and keys are sent as arrays, one a column: the text of a
statement is the same for any number of them, and is compiled, parsed and planned once.
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


def one_of(column: InstrumentedAttribute[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """That the column has one of the values."""
    return column == any_(literal(list(values), ARRAY(column.type)))


def among(table: Table, keys: Sequence[Row]) -> ColumnElement[bool]:
    """That a row has one of the keys, at least one, which all have the same columns."""
    return tuple_(*(table.c[name] for name in keys[0])).in_(select(_given(table, keys)))


def insert_of(table: Table, rows: Sequence[Row]) -> Insert:
    """The INSERT of the rows, at least one, which all have the same columns."""
    return insert(table).from_select(list(rows[0]), select(_given(table, rows)))


def update_of(table: Table, rows: Sequence[Row]) -> Update:
    """The UPDATE of the rows, at least one, which all have an `id` and the same columns to be set."""
    given = _given(table, rows)
    new = {name: given.c[name] for name in rows[0] if name != "id"}
    return update(table).where(table.c.id == given.c.id).values(new)


def natural_key_ids(
    session: Session, table: Table, key: Sequence[str], wanted: Iterable[tuple[Any, ...]]
) -> dict[tuple[Any, ...], int]:
    """Natural key to row id, for rows that never change; added where they are new.

    Rows are added in the order of their key, so that two transactions that add the same ones wait for
    each other instead of deadlocking, and what another has added meanwhile is read back.
    """
    keys = sorted(set(wanted))
    ids = _stored_ids(session, table, key, keys)
    if missing := [row for row in keys if row not in ids]:
        statement = insert_of(table, [dict(zip(key, row, strict=True)) for row in missing])
        added = statement.on_conflict_do_nothing().returning(table.c.id, *(table.c[name] for name in key))
        ids |= {tuple(row): row_id for row_id, *row in session.execute(added)}
        ids |= _stored_ids(session, table, key, [row for row in missing if row not in ids])
    return ids


def _stored_ids(
    session: Session, table: Table, key: Sequence[str], keys: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], int]:
    if not keys:
        return {}
    wanted = among(table, [dict(zip(key, row, strict=True)) for row in keys])
    query = select(table.c.id, *(table.c[name] for name in key)).where(wanted)
    return {tuple(row): row_id for row_id, *row in session.execute(query)}


def replace_rows(session: Session, table: Table, owned: ColumnElement[bool], wanted: Collection[Row]) -> None:
    """Make `wanted` all the rows of `table` for which `owned` holds, by deleting and adding only what
    differs.

    Every row of `wanted` has all columns of the table. The caller holds a lock on the owner of these
    rows, so that nobody else writes them meanwhile.
    """
    names = [column.name for column in table.c]
    stored = {tuple(row) for row in session.execute(select(table).where(owned))}
    rows = {tuple(row[name] for name in names) for row in wanted}
    key = [column.name for column in table.primary_key]
    if gone := [{name: row[names.index(name)] for name in key} for row in sorted(stored - rows)]:
        session.execute(delete(table).where(among(table, gone)))
    if new := [dict(zip(names, row, strict=True)) for row in sorted(rows - stored)]:
        session.execute(insert_of(table, new))


def _given(table: Table, rows: Sequence[Row]) -> TableValuedAlias:
    """The rows as a table that a statement can select from and join, in their order."""
    columns = {name: literal([row[name] for row in rows], ARRAY(table.c[name].type)) for name in rows[0]}
    return func.unnest(*columns.values()).table_valued(*columns, name="given").render_derived()
