"""Writing many rows at once without writing any that is already there.

`ON CONFLICT ... WHERE` alone locks and logs every row it leaves unchanged, so what is stored is looked
up first, and only what differs is sent.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Table, and_, delete, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session


def natural_key_ids(
    session: Session, table: Table, key: Sequence[str], wanted: Iterable[tuple[Any, ...]]
) -> dict[tuple[Any, ...], int]:
    """Natural key to row id, for rows that never change; added where they are new.

    Rows are added in the order of their key, so that two transactions that add the same ones wait for
    each other instead of deadlocking, and what another has added meanwhile is read back.
    """
    keys = sorted(set(wanted))
    ids = _stored_ids(session, table, key, keys)
    missing = [row for row in keys if row not in ids]
    if missing:
        rows = [dict(zip(key, row, strict=True)) for row in missing]
        session.execute(insert(table).values(rows).on_conflict_do_nothing())
        ids |= _stored_ids(session, table, key, missing)
    return ids


def _stored_ids(
    session: Session, table: Table, key: Sequence[str], keys: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], int]:
    if not keys:
        return {}
    columns = [table.c[name] for name in key]
    arrays = [literal([row[at] for row in keys], ARRAY(column.type)) for at, column in enumerate(columns)]
    wanted = func.unnest(*arrays).table_valued(*key, name="wanted").render_derived()
    same = and_(*(column == wanted.c[column.name] for column in columns))
    return {
        tuple(row[1:]): row[0] for row in session.execute(select(table.c.id, *columns).join(wanted, same))
    }


def replace_rows(
    session: Session, table: Table, owned: ColumnElement[bool], wanted: Collection[dict[str, Any]]
) -> None:
    """Make `wanted` all the rows of `table` for which `owned` holds, by deleting and adding only what
    differs.

    Every row of `wanted` has all columns of the table. The caller holds a lock on the owner of these
    rows, so that nobody else writes them meanwhile.
    """
    names = [column.name for column in table.c]
    stored = {tuple(row) for row in session.execute(select(table).where(owned))}
    rows = {tuple(row[name] for name in names) for row in wanted}
    key = [column.name for column in table.primary_key]
    gone = [tuple(row[names.index(name)] for name in key) for row in sorted(stored - rows)]
    if gone:
        session.execute(delete(table).where(tuple_(*(table.c[name] for name in key)).in_(gone)))
    if new := sorted(rows - stored):
        session.execute(insert(table), [dict(zip(names, row, strict=True)) for row in new])
