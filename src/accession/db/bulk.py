"""Bulk statements: read and write many rows at once, without writing rows that are already stored.

`ON CONFLICT ... WHERE` alone locks and logs every row it leaves unchanged, so the stored rows are read first,
and only the differences are sent. Rows and keys are sent as arrays, one per column: the text of a statement
is the same for any number of rows, and is compiled, parsed and planned once. The statement is also built
only once, because SQLAlchemy takes longer to build it than to execute it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    CompoundSelect,
    Delete,
    Result,
    Select,
    Table,
    TableValuedAlias,
    Update,
    any_,
    bindparam,
    delete,
    false,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.sql.dml import ReturningInsert

Row = Mapping[str, Any]

# Of the names of parameters.
_PREFIX = "new"


def in_array(column: InstrumentedAttribute[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Return the condition that the column has one of the values."""
    return column == any_(literal(list(values), ARRAY(column.type)))


def in_array_parameter(column: InstrumentedAttribute[Any], name: str) -> ColumnElement[bool]:
    """Return the condition that the column has one of the values of the statement's parameter `name`."""
    return column == any_(bindparam(name, type_=ARRAY(column.type)))


@cache
def insert_statement(table: Table, *columns: str) -> Insert:
    """Return the INSERT of rows with these columns, whose parameters are `array_parameters` of the rows."""
    return insert(table).from_select(list(columns), select(_unnested(table, columns)))


@cache
def insert_missing_statement(table: Table, *columns: str) -> Insert:
    """Return the INSERT of those of the rows that do not exist yet."""
    return insert_statement(table, *columns).on_conflict_do_nothing()


@cache
def update_statement(table: Table, *columns: str) -> Update:
    """Return the UPDATE of the other columns by `id`, whose parameters are `array_parameters` of the rows."""
    source = _unnested(table, columns)
    new_values = {name: source.c[name] for name in columns if name != "id"}
    return update(table).where(table.c.id == source.c.id).values(new_values)


def array_parameters(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the parameters of a statement on rows: at least one, all with the same columns."""
    return {_parameter(name): [row[name] for row in rows] for name in rows[0]}


def insert_rows(session: Session, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows: at least one, all with the same columns."""
    session.execute(insert_statement(table, *rows[0]), array_parameters(rows))


def insert_missing_rows(
    session: Session, table: Table, rows: Sequence[Row], returning: tuple[str, ...] = ()
) -> Result[*tuple[Any, ...]]:
    """Insert those of the rows that do not exist yet, and return the columns `returning` of them."""
    statement = _insert_missing_returning(table, tuple(rows[0]), returning)
    return session.execute(statement, array_parameters(rows))


def update_rows(session: Session, table: Table, rows: Sequence[Row]) -> None:
    """Update rows: at least one, each with an `id` and the same columns to set."""
    session.execute(update_statement(table, *rows[0]), array_parameters(rows))


@dataclass(frozen=True)
class NaturalKeys:
    """The natural keys of rows that never change: a table, the key's columns, and their values."""

    table: Table
    columns: tuple[str, ...]
    values: Iterable[tuple[Any, ...]]


def get_or_create_ids(session: Session, *keys: NaturalKeys) -> list[dict[tuple[Any, ...], int]]:
    """Return the row ids by natural key, for each table, adding the rows that are missing.

    The keys of all tables have columns of the same types. Rows are added in the order of the tables and of
    their keys, so that two transactions adding the same keys wait for each other instead of deadlocking. Rows
    that another transaction has added meanwhile are read back.
    """
    values = [sorted(set(each.values)) for each in keys]
    ids: list[dict[tuple[Any, ...], int]] = [{} for _ in keys]
    if not any(values):
        return ids
    parameters: dict[str, Sequence[Any]] = {}
    for each, of_table in zip(keys, values, strict=True):
        parameters |= _key_parameters(each.columns, of_table, prefix=each.table.name)
    statement = _get_or_create_ids(*((each.table, each.columns) for each in keys))
    for number, row_id, *key in session.execute(statement, parameters):
        ids[number][tuple(key)] = row_id
    for each, of_table, known in zip(keys, values, ids, strict=True):
        if missing := [key for key in of_table if key not in known]:
            query = _select_by_key(each.table, ("id", *each.columns), each.columns)
            rows = session.execute(query, _key_parameters(each.columns, missing))
            known |= {tuple(key): row_id for row_id, *key in rows}
    return ids


@dataclass(frozen=True)
class Replacement:
    """Rows that replace those of some owners. Each has all columns of the table.

    Attributes:
        table: the table.
        owner: the columns that state to which owner a row belongs.
        owners: the values of these columns for each owner that may have rows; new ones have none.
        new_rows: the rows of these and of new owners.
    """

    table: Table
    owner: Sequence[str]
    owners: Sequence[tuple[Any, ...]]
    new_rows: Collection[Row]


def replace_rows(session: Session, *replacements: Replacement) -> None:
    """Replace rows, each of another table; only differences are written.

    The caller holds a lock on the owners, so that no other transaction writes their rows meanwhile.
    """
    parameters: dict[str, Sequence[Any]] = {}
    tables: list[Table] = []
    for each in replacements:
        if added := _delete_replaced_rows(session, each):
            tables.append(each.table)
            parameters |= _key_parameters(_columns(each.table), added, prefix=each.table.name)
    if tables:
        session.execute(_insert_into_each(*tables), parameters)


def _delete_replaced_rows(session: Session, replacement: Replacement) -> list[tuple[Any, ...]]:
    """Delete the rows that are not among the new rows, and return the new rows that are to be inserted."""
    table, columns = replacement.table, _columns(replacement.table)
    stored: set[tuple[Any, ...]] = set()
    if replacement.owners:
        query = _select_by_key(table, columns, tuple(replacement.owner))
        keys = _key_parameters(replacement.owner, replacement.owners)
        stored = {tuple(row) for row in session.execute(query, keys)}
    rows = {tuple(row[name] for name in columns) for row in replacement.new_rows}
    primary_key = tuple(column.name for column in table.primary_key)
    if deleted := [tuple(row[columns.index(name)] for name in primary_key) for row in sorted(stored - rows)]:
        session.execute(_delete_by_key(table, primary_key), _key_parameters(primary_key, deleted))
    return sorted(rows - stored)


def _columns(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.c)


@cache
def _insert_into_each(*tables: Table) -> Insert:
    """Return one INSERT of rows into each table; the parameters' prefix is the table's name."""
    first, *others = (
        insert(table).from_select(
            list(_columns(table)), select(_unnested(table, _columns(table), prefix=table.name))
        )
        for table in tables
    )
    return first.add_cte(*(statement.cte(f"into_{statement.table.name}") for statement in others))


@cache
def _insert_missing_returning(
    table: Table, columns: tuple[str, ...], returning: tuple[str, ...]
) -> ReturningInsert[*tuple[Any, ...]]:
    statement = insert_missing_statement(table, *columns)
    return statement.returning(*(table.c[name] for name in returning))


@cache
def _get_or_create_ids(*keys: tuple[Table, tuple[str, ...]]) -> CompoundSelect[*tuple[Any, ...]]:
    """Return one statement for the natural keys of several tables.

    The parameters' prefix is the table's name. It returns the table's number, the id and the key of each row.
    """
    parts: list[Select[*tuple[Any, ...]]] = []
    for number, (table, columns) in enumerate(keys):
        for rows in _stored_and_added(table, columns, columns, ("id", *columns), prefix=table.name):
            parts.append(select(literal_column(f"{number}"), rows))
    return union_all(*parts)


@cache
def get_or_create_statement(
    table: Table, key: tuple[str, ...], columns: tuple[str, ...], returning: tuple[str, ...]
) -> CompoundSelect[*tuple[Any, ...]]:
    """Return the statement that reads the rows with the keys of new rows, and adds those that are missing.

    Its parameters are `array_parameters` of the new rows, with these `columns`. They are added in their
    order. It returns the columns `returning` of each row, and in `is_new` whether the row was added; nothing
    of a row that another transaction adds at the same time.
    """
    stored, added = _stored_and_added(table, key, columns, returning, prefix=_PREFIX)
    return union_all(
        select(stored, false().label("is_new")),
        select(added, true().label("is_new")),
    )


def _stored_and_added(
    table: Table, key: tuple[str, ...], columns: tuple[str, ...], returning: tuple[str, ...], *, prefix: str
) -> tuple[CTE, CTE]:
    """Return the columns `returning` of the rows with the keys of new rows: stored ones, and those added."""
    new_rows = select(_unnested(table, columns, position="position", prefix=prefix)).cte(f"{prefix}_rows")
    new_keys = [new_rows.c[name] for name in key]
    returned = [table.c[name] for name in returning]
    has_new_key = tuple_(*(table.c[name] for name in key)).in_(select(*new_keys))
    stored = select(*returned).where(has_new_key).cte(f"{prefix}_stored")
    is_missing = tuple_(*new_keys).not_in(select(*(stored.c[name] for name in key)))
    missing = select(*(new_rows.c[name] for name in columns)).where(is_missing).order_by(new_rows.c.position)
    insertion = insert(table).from_select(list(columns), missing).on_conflict_do_nothing()
    return stored, insertion.returning(*returned).cte(f"{prefix}_added")


@cache
def _select_by_key(table: Table, columns: tuple[str, ...], key: tuple[str, ...]) -> Select[Any]:
    return select(*(table.c[name] for name in columns)).where(_has_key(table, key))


@cache
def _delete_by_key(table: Table, key: tuple[str, ...]) -> Delete:
    return delete(table).where(_has_key(table, key))


def _has_key(table: Table, key: tuple[str, ...]) -> ColumnElement[bool]:
    return tuple_(*(table.c[name] for name in key)).in_(select(_unnested(table, key)))


def _key_parameters(
    columns: Sequence[str], keys: Sequence[tuple[Any, ...]], prefix: str = _PREFIX
) -> dict[str, Sequence[Any]]:
    """Return the parameters of a statement on keys with these columns."""
    return {
        _parameter(name, prefix): [key[position] for key in keys] for position, name in enumerate(columns)
    }


def _unnested(
    table: Table, columns: Sequence[str], *, position: str | None = None, prefix: str = _PREFIX
) -> TableValuedAlias:
    """Return the rows of the parameters, in their order, as a table to select from and join.

    `position` is the name of a further column: the number of the row.
    """
    # With one dimension a list is a value, of a JSON column for example, and not a part of the array.
    arrays = [
        bindparam(_parameter(name, prefix), type_=ARRAY(table.c[name].type, dimensions=1)) for name in columns
    ]
    rows = func.unnest(*arrays).table_valued(*columns, with_ordinality=position, name="new_rows")
    return rows.render_derived()


def _parameter(column: str, prefix: str = _PREFIX) -> str:
    # SQLAlchemy reserves the column's own name for its value in an INSERT or UPDATE.
    return f"{prefix}_{column}"
