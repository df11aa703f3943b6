"""Titles that a run has met: those that it has looked up, and those that it has still to look up (pending).

A run looks up each title once. It may collect pending titles to look up many together. They are committed
with the page that they were on, so that the next run finds those that a run has left.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import cache

from sqlalchemy import ColumnElement, Select, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.orm import Session

from accession.db.bulk import array_parameters, in_array, in_array_parameter, insert_statement
from accession.db.models import ACTIVE_STATES, Run, RunTitle, table_of


def filter_new_to_run(session: Session, run: Run | None, identifiers: Sequence[str]) -> list[str]:
    """Return the identifiers that the run has not met before; all of them without a run."""
    if run is None or not identifiers:
        return list(identifiers)
    parameters = {"run": run.id, "identifiers": list(identifiers)}
    known = set(session.scalars(_select_known(), parameters))
    return [identifier for identifier in identifiers if identifier not in known]


@cache
def _select_known() -> Select[str]:
    of_run = RunTitle.run_id == bindparam("run")
    return select(RunTitle.identifier).where(of_run, in_array_parameter(RunTitle.identifier, "identifiers"))


def find_pending_titles(session: Session, run: Run) -> dict[str, bool]:
    """Return, by the identifier of each pending title of the run, whether it was counted as new."""
    return dict(session.execute(_select_pending(), {"run": run.id}).all())


@cache
def _select_pending() -> Select[str, bool]:
    query = select(RunTitle.identifier, RunTitle.is_new).order_by(RunTitle.identifier)
    return query.where(RunTitle.run_id == bindparam("run"), RunTitle.is_pending)


def find_left_titles(session: Session, run: Run) -> dict[str, bool]:
    """Return the titles that ended runs of the collection have left pending: see `find_pending_titles`."""
    query = select(RunTitle.identifier, func.bool_or(RunTitle.is_new)).join(Run, Run.id == RunTitle.run_id)
    query = query.where(_is_left(run)).group_by(RunTitle.identifier).order_by(RunTitle.identifier)
    return dict(session.execute(query).all())


def delete_left_titles(session: Session, run: Run, identifiers: Collection[str]) -> None:
    """Delete titles that ended runs of the collection have left pending, because the run takes them over."""
    if identifiers:
        statement = delete(RunTitle).where(RunTitle.run_id == Run.id, _is_left(run))
        session.execute(statement.where(in_array(RunTitle.identifier, identifiers)))


def _is_left(run: Run) -> ColumnElement[bool]:
    is_ended_run = (Run.collection_id == run.collection_id) & Run.state.not_in(ACTIVE_STATES)
    return RunTitle.is_pending & is_ended_run


def record_looked_up(
    session: Session, run: Run | None, identifiers: Sequence[str], pending: Mapping[str, bool] | None = None
) -> None:
    """Record that the run has looked up the identifiers; do nothing without a run.

    `pending` are titles that it has still to look up, each with whether it was counted as new.
    """
    titles = [(identifier, False, False) for identifier in identifiers]
    titles += [(identifier, True, is_new) for identifier, is_new in (pending or {}).items()]
    if run is None or not titles:
        return
    rows = [
        {"run_id": run.id, "identifier": identifier, "is_pending": is_pending, "is_new": is_new}
        for identifier, is_pending, is_new in titles
    ]
    session.execute(_record_statement(), array_parameters(rows))


@cache
def _record_statement() -> Insert:
    """Return the INSERT of titles, which changes whether a stored one is pending."""
    key = ("run_id", "identifier")
    statement = insert_statement(table_of(RunTitle), *key, "is_pending", "is_new")
    new_values = {"is_pending": statement.excluded.is_pending}
    return statement.on_conflict_do_update(index_elements=key, set_=new_values)
