"""Counts of the catalogue rows that were written since a moment."""

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from accession.catalog.written_rows import TableState, count_rows_written_since, read_table_state
from accession.core.workflow import Workflow
from accession.db.models import Collection, LicensePool
from accession.runs.ledger import open_run
from tests.fixtures.factories import apply_titles, make_pool, title_data


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    """A pool with metadata."""
    pool = make_pool(session, collection, "abc")
    apply_titles(session, {pool.id: title_data("abc")})
    session.commit()
    return pool


def committed_state(session: Session) -> TableState:
    state = read_table_state(session)
    session.commit()
    return state


def test_unchanged_title_and_run_write_no_catalogue_rows(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    state = committed_state(session)

    apply_titles(session, {pool.id: title_data("abc")})
    open_run(session, collection.id, Workflow.PURCHASES, "task-1", {"offset": 1})
    session.commit()

    assert count_rows_written_since(session, state) == 0


def test_added_changed_and_deleted_rows_are_counted(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    state = committed_state(session)
    make_pool(session, collection, "other")
    assert count_rows_written_since(session, state) == 2
    session.commit()

    state = committed_state(session)
    apply_titles(session, {pool.id: title_data("abc", licenses_owned=9)})
    # The pool and the change in its history.
    assert count_rows_written_since(session, state) == 2
    session.commit()

    state = committed_state(session)
    session.execute(text("DELETE FROM links"))
    assert count_rows_written_since(session, state) == 1
