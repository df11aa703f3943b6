"""Totals of the run counters, which outlive the runs."""

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.engine import engine, transaction
from accession.db.models import ACTIVE_STATES, Collection, Run, RunState
from accession.runs.ledger import RunCounters, end_run, find_run, open_run, record_step, sum_run_counters
from tests.fixtures.factories import make_collection, run_concurrently
from tests.fixtures.servers import delete_all_rows

NUMBERS = st.integers(0, 50)
COUNTERS = st.builds(
    lambda stored, rejected, new, changed, repairs, pages: RunCounters(
        stored + rejected, stored, rejected, new, changed, repairs, pages
    ),
    *[NUMBERS] * 5,
    st.integers(0, 2),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(Workflow),
        st.sampled_from(["page", "last page", RunState.FAILED, RunState.INTERRUPTED, "newer run"]),
        COUNTERS,
    ),
    max_size=12,
)


def sums_over_all_runs(session: Session) -> dict[Workflow, RunCounters]:
    names = list(vars(RunCounters()))
    query = select(Run.workflow, *(func.sum(getattr(Run, name)) for name in names)).group_by(Run.workflow)
    totals = {
        row[0]: RunCounters(**dict(zip(names, map(int, row[1:]), strict=True)))
        for row in session.execute(query)
    }
    return {workflow: totals.get(workflow.value, RunCounters(pages=0)) for workflow in Workflow}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_totals_equal_sums_over_all_runs_in_any_order(
    database: None, steps: list[tuple[Workflow, str, RunCounters]]
) -> None:
    delete_all_rows()
    active: dict[Workflow, str] = {}
    with Session(engine()) as session:
        collection = make_collection(session, "Alder Library")
        for number, (workflow, action, counters) in enumerate(steps):
            if action == "newer run" or workflow not in active:
                active[workflow] = f"task-{number}"
                open_run(session, collection.id, workflow, active[workflow], {})
            run = find_run(session, active[workflow])
            assert run is not None
            if action in ("page", "newer run", "last page"):
                record_step(
                    run, counters, since=None, next_cursor=None if action == "last page" else {"offset": 2}
                )
            else:
                end_run(run, RunState(action), "why")
            if action not in ("page", "newer run"):
                del active[workflow]
            session.commit()
            assert sum_run_counters(session) == sums_over_all_runs(session)


def test_totals_survive_deletion_of_ended_runs(session: Session, collection: Collection) -> None:
    for number, last in enumerate((False, True)):
        open_run(session, collection.id, Workflow.EVENTS, f"task-{number}", {})
        run = find_run(session, f"task-{number}")
        assert run is not None
        counters = RunCounters(records_fetched=10, records_stored=10)
        record_step(run, counters, since=None, next_cursor=None if last else {"start": "later"})
    session.commit()
    before = sum_run_counters(session)
    session.execute(delete(Run).where(Run.state.not_in(ACTIVE_STATES)))
    session.commit()

    assert before[Workflow.EVENTS] == RunCounters(records_fetched=20, records_stored=20, pages=2)
    assert sum_run_counters(session) == before


def test_run_ended_twice_is_counted_once(session: Session, collection: Collection) -> None:
    open_run(session, collection.id, Workflow.EVENTS, "task", {})
    run = find_run(session, "task")
    assert run is not None
    record_step(run, RunCounters(), since=None, next_cursor=None)
    end_run(run, RunState.FAILED, "why")
    session.commit()

    assert sum_run_counters(session)[Workflow.EVENTS].pages == 1


def test_rolled_back_end_is_not_counted(session: Session, collection: Collection) -> None:
    open_run(session, collection.id, Workflow.EVENTS, "task", {})
    session.commit()
    run = find_run(session, "task")
    assert run is not None
    record_step(run, RunCounters(), since=None, next_cursor=None)
    session.rollback()

    assert sum_run_counters(session)[Workflow.EVENTS].pages == 0


def test_concurrently_ended_runs_are_all_counted(session: Session) -> None:
    def prepare_end(collection: Collection) -> Callable[[], None]:
        open_run(session, collection.id, Workflow.EVENTS, collection.name, {})
        name = collection.name

        def end() -> None:
            with transaction() as other:
                run = find_run(other, name)
                assert run is not None
                record_step(run, RunCounters(), since=None, next_cursor=None)

        return end

    ends = [prepare_end(make_collection(session, f"Library {number}")) for number in range(8)]
    session.commit()
    run_concurrently(*ends)

    assert sum_run_counters(session)[Workflow.EVENTS].pages == 8
