"""Bulk statements: stored rows are not written again."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.core.vocabulary import IdentifierType
from accession.db.bulk import (
    NaturalKeys,
    Replacement,
    get_or_create_ids,
    insert_missing_rows,
    replace_rows,
    update_rows,
)
from accession.db.engine import engine, transaction
from accession.db.models import (
    Classification,
    Collection,
    Contributor,
    Edition,
    Identifier,
    Subject,
    table_of,
)
from tests.fixtures.factories import (
    NOON,
    TIMEOUT_SECONDS,
    record_statements,
    run_concurrently,
    store_title,
)

CONTRIBUTORS = table_of(Contributor)
WRITES = ("INSERT", "UPDATE", "DELETE")

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
people = st.lists(st.tuples(names, names), max_size=12)
on_one_database = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def contributors(values: Sequence[tuple[str, str]]) -> NaturalKeys:
    return NaturalKeys(CONTRIBUTORS, ("sort_name", "display_name"), values)


def subjects(values: Sequence[tuple[str, str]]) -> NaturalKeys:
    return NaturalKeys(table_of(Subject), ("scheme", "name"), values)


def write_statements(statements: list[str]) -> list[str]:
    return [statement for statement in statements if statement.startswith(WRITES)]


@on_one_database
@given(first=people, second=people)
def test_each_key_has_one_permanent_row(
    session: Session, first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    (ids,) = get_or_create_ids(session, contributors(first))
    (all_ids,) = get_or_create_ids(session, contributors(first[::-1] + second))

    assert (set(ids), set(all_ids)) == (set(first), {*first, *second})
    assert all_ids | ids == all_ids
    stored = session.execute(select(Contributor.id, Contributor.sort_name, Contributor.display_name))
    assert {(sort_name, name): row_id for row_id, sort_name, name in stored} == all_ids
    session.rollback()


@on_one_database
@given(people=people, headings=people, isbns=st.lists(names, max_size=12))
def test_keys_of_several_tables_are_kept_separate(
    session: Session, people: list[tuple[str, str]], headings: list[tuple[str, str]], isbns: list[str]
) -> None:
    """The same texts may be keys in all tables, and some tables may have none."""
    known = get_or_create_ids(session, contributors(people[::2]), subjects(headings[::2]))
    tables = (contributors(people), subjects(headings), Identifier.keys(IdentifierType.ISBN, isbns))

    with record_statements(engine()) as statements:
        ids = get_or_create_ids(session, *tables)

    assert len(statements) == (1 if people or headings or isbns else 0)
    assert [set(each) for each in ids] == [set(people), set(headings), {("ISBN", isbn) for isbn in isbns}]
    assert all(first.items() <= second.items() for first, second in zip(known, ids, strict=False))
    for keys, of_table in zip(tables, ids, strict=True):
        columns = [keys.table.c[name] for name in ("id", *keys.columns)]
        stored = {tuple(key): row_id for row_id, *key in session.execute(select(*columns))}
        assert stored == of_table
    session.rollback()


def test_known_keys_cost_one_query_and_no_keys_none(session: Session) -> None:
    keys = [(f"Name {n}", "x") for n in range(50)]
    get_or_create_ids(session, contributors(keys))

    with record_statements(engine()) as statements:
        get_or_create_ids(session, contributors(keys))
        assert (len(statements), write_statements(statements)) == (1, [])
        assert get_or_create_ids(session, contributors([])) == [{}]
        assert len(statements) == 1


def test_transactions_adding_same_keys_in_opposite_order_agree(session: Session) -> None:
    keys = [(f"Name {n}", "x") for n in range(200)]
    both_started = threading.Barrier(2, timeout=TIMEOUT_SECONDS)
    results: list[dict[tuple[Any, ...], int]] = []

    def add(order: list[tuple[str, str]]) -> None:
        with transaction() as other:
            other.execute(select(1))
            both_started.wait()
            results.extend(get_or_create_ids(other, contributors(order)))

    run_concurrently(lambda: add(keys), lambda: add(keys[::-1]))

    assert results[0] == results[1]
    assert session.scalar(select(func.count()).select_from(Contributor)) == 200


texts = st.one_of(st.none(), names, st.sampled_from(['"', "\\", "{a,b}", "NULL", "null", " "]))
numbers = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
editions = st.lists(st.tuples(texts, numbers), min_size=1, max_size=12)


@on_one_database
@given(first=editions, second=editions)
def test_rows_are_inserted_and_updated_unchanged(
    session: Session,
    first: list[tuple[str | None, int | None]],
    second: list[tuple[str | None, int | None]],
) -> None:
    table = table_of(Edition)
    identifier_ids = Identifier.ids(session, IdentifierType.ISBN, [f"{n}" for n in range(len(first))])
    rows = [
        {"data_source": "x", "identifier_id": row_id, "created_at": NOON, "updated_at": NOON}
        | {"title": title, "duration_ms": number}
        for row_id, (title, number) in zip(sorted(identifier_ids.values()), first, strict=True)
    ]
    row_ids = insert_missing_rows(session, table, rows, ("id",)).scalars().all()
    stored = select(table.c.title, table.c.duration_ms).order_by(table.c.id)
    assert [tuple(row) for row in session.execute(stored)] == first

    changes = list(zip(row_ids, second, strict=False))
    changed = [{"id": row_id, "title": title, "duration_ms": n} for row_id, (title, n) in changes]
    update_rows(session, table, changed)
    assert [tuple(row) for row in session.execute(stored)] == [*second[: len(first)], *first[len(second) :]]
    session.rollback()


def test_statement_text_is_same_for_any_number_of_rows(session: Session) -> None:
    with record_statements(engine()) as statements:
        for count in (1, 7, 50):
            get_or_create_ids(session, contributors([(f"Name {count} {n}", "x") for n in range(count)]))

    assert (len(statements), len(set(statements))) == (3, 1)


@pytest.fixture
def edition_ids(session: Session, collection: Collection) -> list[int]:
    """Ids of three committed editions with a subject each."""
    for name in "abc":
        store_title(session, collection, name)
    return list(session.scalars(select(Edition.id).order_by(Edition.id)))


contents = st.dictionaries(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from(range(5))), st.integers(0, 3), max_size=10
)


@on_one_database
@given(before=contents, after=contents)
def test_replace_rows_keeps_rows_of_other_owners(
    session: Session,
    edition_ids: list[int],
    before: dict[tuple[int, int], int],
    after: dict[tuple[int, int], int],
) -> None:
    table = table_of(Classification)
    *owners, other = edition_ids
    owned = [(edition_id,) for edition_id in owners]
    (subject_ids,) = get_or_create_ids(session, subjects([("label", f"{n}") for n in range(5)]))

    def rows(content: dict[tuple[int, int], int]) -> list[dict[str, int]]:
        return [
            {"edition_id": owners[owner], "subject_id": subject_ids["label", f"{n}"], "position": position}
            for (owner, n), position in content.items()
        ]

    replace_rows(session, Replacement(table, ("edition_id",), owned, rows(before)))
    replace_rows(session, Replacement(table, ("edition_id",), owned, rows(after)))
    with record_statements(engine()) as statements:
        replace_rows(session, Replacement(table, ("edition_id",), owned, rows(after)))

    assert write_statements(statements) == []
    stored = [dict(row) for row in session.execute(select(table)).mappings()]
    replaced = [row for row in stored if row["edition_id"] != other]
    assert sorted(map(repr, replaced)) == sorted(map(repr, rows(after)))
    assert len(stored) == len(replaced) + 1
    session.rollback()
