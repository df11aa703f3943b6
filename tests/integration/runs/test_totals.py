"""What runs have counted, in all: it adds up whatever becomes of them, and outlives their rows."""

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
from tests.fixtures.servers import truncate_all_tables

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
    found = {
        row[0]: RunCounters(**dict(zip(names, map(int, row[1:]), strict=True))) for row in session.execute(query)
    }
    return {workflow: found.get(workflow.value, RunCounters(pages=0)) for workflow in Workflow}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_the_totals_are_the_sums_over_all_runs_in_whatever_order_they_work_and_end(
    database: None, steps: list[tuple[Workflow, str, RunCounters]]
) -> None:
    truncate_all_tables()
    at_work: dict[Workflow, str] = {}
    with Session(engine()) as session:
        collection = make_collection(session, "Alder Library")
        for number, (workflow, what, counters) in enumerate(steps):
            if what == "newer run" or workflow not in at_work:
                at_work[workflow] = f"task-{number}"
                open_run(session, collection.id, workflow, at_work[workflow], {})
            run = find_run(session, at_work[workflow])
            assert run is not None
            if what in ("page", "newer run", "last page"):
                record_step(
                    run, counters, since=None, next_cursor=None if what == "last page" else {"offset": 2}
                )
            else:
                end_run(run, RunState(what), "why")
            if what not in ("page", "newer run"):
                del at_work[workflow]
            session.commit()
            assert sum_run_counters(session) == sums_over_all_runs(session)


def test_totals_stay_when_the_rows_of_runs_that_have_ended_go(
    session: Session, collection: Collection
) -> None:
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


def test_a_run_that_is_ended_twice_counts_once(session: Session, collection: Collection) -> None:
    open_run(session, collection.id, Workflow.EVENTS, "task", {})
    run = find_run(session, "task")
    assert run is not None
    record_step(run, RunCounters(), since=None, next_cursor=None)
    end_run(run, RunState.FAILED, "why")
    session.commit()

    assert sum_run_counters(session)[Workflow.EVENTS].pages == 1


def test_an_end_that_is_rolled_back_has_not_counted(session: Session, collection: Collection) -> None:
    open_run(session, collection.id, Workflow.EVENTS, "task", {})
    session.commit()
    run = find_run(session, "task")
    assert run is not None
    record_step(run, RunCounters(), since=None, next_cursor=None)
    session.rollback()

    assert sum_run_counters(session)[Workflow.EVENTS].pages == 0


def test_runs_that_end_at_once_all_count(session: Session) -> None:
    def ending(collection: Collection) -> Callable[[], None]:
        open_run(session, collection.id, Workflow.EVENTS, collection.name, {})
        name = collection.name

        def end() -> None:
            with transaction() as own:
                run = find_run(own, name)
                assert run is not None
                record_step(run, RunCounters(), since=None, next_cursor=None)

        return end

    ends = [ending(make_collection(session, f"Library {number}")) for number in range(8)]
    session.commit()
    run_concurrently(*ends)

    assert sum_run_counters(session)[Workflow.EVENTS].pages == 8
