"""Storing and reading the details of runs, of which a limited number is kept."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from accession.core.workflow import Workflow
from accession.db.engine import engine, transaction
from accession.db.models import (
    Collection,
    Run,
    RunLogLine,
    RunRequests,
    RunStep,
    RunStepTotals,
    StepOutcome,
)
from accession.runs.detail_store import (
    MAX_FIRST_LINES,
    MAX_FIRST_WARNINGS,
    MAX_LAST_LINES,
    MAX_LAST_WARNINGS,
    MAX_LATEST_STEPS,
    MAX_SLOWEST_STEPS,
    MAX_UNSTORED_STEPS,
    RecordedDetails,
    store_run_details,
)
from accession.runs.ledger import find_run, lock_run, lock_unchanged_run, open_run
from accession.runs.run_details import (
    LineOrder,
    LogLevel,
    RunLogLineView,
    RunRequestsView,
    RunStepView,
    RunTotalsView,
    StepOrder,
    run_log,
    run_requests,
    run_steps,
    run_totals,
)
from tests.fixtures.factories import NOON, day, record_statements

SECOND = timedelta(seconds=1)
TASK = "task-1"


def open_new_run(session: Session, collection: Collection, task_id: str) -> Run:
    open_run(session, collection.id, Workflow.PURCHASES, task_id, {"offset": 1})
    run = find_run(session, task_id)
    assert run is not None
    session.commit()
    return run


@pytest.fixture
def run(session: Session, collection: Collection) -> Run:
    return open_new_run(session, collection, TASK)


def step(number: int, *, seconds: float = 0.5, outcome: StepOutcome = StepOutcome.STORED) -> RunStepView:
    return RunStepView(number, NOON + number * SECOND, outcome, seconds, seconds / 2, records=number)


def line(number: int, *, level: str = "info", event: str = "page imported") -> RunLogLineView:
    return RunLogLineView(NOON + number * SECOND, level, event, number, {"records": number})


def store(session: Session, *batches: RecordedDetails, task_id: str = TASK) -> None:
    for batch in batches:
        store_run_details(session, {task_id: batch})
        session.commit()


def test_runs_without_a_step_are_stored_together_with_others(
    session: Session, collection: Collection, run: Run
) -> None:
    """The sum of no durations is a number of seconds, too."""
    other = open_new_run(session, collection, "task-2")
    details = {TASK: RecordedDetails([step(1)], slot_seconds=0.5), "task-2": RecordedDetails(lines=[line(1)])}
    store_run_details(session, details)
    assert [run_totals(session, each.id).steps for each in (run, other)] == [1, 0]


def in_batches(number: int, size: int) -> Sequence[range]:
    return [range(start, min(start + size, number + 1)) for start in range(1, number + 1, size)]


def numbers_of(steps: Sequence[RunStepView]) -> list[int]:
    return [each.number for each in steps]


def pages_of(lines: Sequence[RunLogLineView]) -> list[int | None]:
    return [each.page for each in lines]


def test_details_of_two_batches_are_added(session: Session, run: Run) -> None:
    window = RunStepView(
        2, NOON, StepOutcome.RETRIED, 2.5, 2.0, 3, 50, day(2024, 5, 1), day(2024, 5, 2), offset=51
    )
    store(
        session,
        RecordedDetails([step(1)], [line(1)], [("marc", "ok", 0.25), ("marc", "ok", 0.75)], 0.5),
        RecordedDetails([window], [line(2)], [("marc", "ok", 0.5), ("items", "timeout", 60.0)], 0.25),
    )

    assert run_totals(session, run.id) == RunTotalsView(2, 2.25, 0.75, 0.75, 2)
    assert run_steps(session, run.id) == [window, step(1)]
    assert run_log(session, run.id) == [line(1), line(2)]
    requests = run_requests(session, run.id)
    assert requests == [
        RunRequestsView("items", "timeout", 1, 60.0, 60.0),
        RunRequestsView("marc", "ok", 3, 1.5, 0.75),
    ]
    assert [each.mean_seconds for each in requests] == [60.0, 0.5]


def test_any_number_of_details_needs_five_statements(
    session: Session, run: Run, collection: Collection
) -> None:
    other = open_new_run(session, collection, "task-2")
    details = [
        RecordedDetails(list(map(step, range(100))), list(map(line, range(100))), [("marc", "ok", 0.1)] * 100)
        for _ in range(2)
    ]
    with record_statements(engine()) as statements:
        store_run_details(session, dict(zip((TASK, "task-2"), details, strict=True)))
    assert [statement.split()[0] for statement in statements] == ["SELECT", *["INSERT"] * 4]
    assert [run_totals(session, each.id).steps for each in (run, other)] == [100, 100]


def test_run_without_details_has_zeros(session: Session, run: Run) -> None:
    assert run_totals(session, run.id) == RunTotalsView()
    assert [read(session, run.id) for read in (run_steps, run_log, run_requests)] == [[], [], []]


def test_step_stored_twice_is_kept_once(session: Session, run: Run) -> None:
    store(session, *[RecordedDetails([step(1)])] * 2)
    assert run_steps(session, run.id) == [step(1)]


def test_details_of_unknown_run_are_left_out(session: Session, run: Run) -> None:
    store_run_details(session, {"gone": RecordedDetails([step(1)]), TASK: RecordedDetails([step(2)])})
    assert run_steps(session, run.id) == [step(2)]
    store_run_details(session, {"gone": RecordedDetails([step(1)])})
    assert session.scalar(select(func.count()).select_from(RunStep)) == 1


def test_long_run_keeps_latest_slowest_and_failed_steps(session: Session, run: Run) -> None:
    """A run of 3,000 steps has at most 150 rows."""
    retried = range(1, 300, 3)
    slowest = range(1000, 1000 + MAX_SLOWEST_STEPS)

    def nth(number: int) -> RunStepView:
        outcome = StepOutcome.RETRIED if number in retried else StepOutcome.STORED
        return step(number, seconds=2.0 if number in slowest else 0.5, outcome=outcome)

    store(session, *(RecordedDetails(list(map(nth, numbers))) for numbers in in_batches(3000, 100)))

    latest = range(3001 - MAX_LATEST_STEPS, 3001)
    expected = {*latest, *slowest, *retried[-MAX_UNSTORED_STEPS:]}
    assert set(numbers_of(run_steps(session, run.id))) == expected
    assert len(expected) == 150
    assert run_totals(session, run.id).steps == 3000
    assert set(
        numbers_of(run_steps(session, run.id, order=StepOrder.SLOWEST, limit=MAX_SLOWEST_STEPS))
    ) == set(slowest)
    assert numbers_of(run_steps(session, run.id, outcome=StepOutcome.RETRIED, limit=2)) == [298, 295]
    assert numbers_of(run_steps(session, run.id, offset=1, limit=2)) == [2999, 2998]


def test_long_log_keeps_its_ends_and_warnings(session: Session, run: Run) -> None:
    warnings = range(200, 900, 2)

    def nth(number: int) -> RunLogLineView:
        return line(number, level="warning" if number in warnings else "info")

    store(session, *(RecordedDetails(lines=list(map(nth, numbers))) for numbers in in_batches(3000, 250)))

    expected = {
        *range(1, MAX_FIRST_LINES + 1),
        *range(3001 - MAX_LAST_LINES, 3001),
        *warnings[:MAX_FIRST_WARNINGS],
        *warnings[-MAX_LAST_WARNINGS:],
    }
    assert pages_of(run_log(session, run.id)) == sorted(expected)
    assert len(expected) == 200
    assert run_totals(session, run.id).log_lines == 3000


def test_short_run_loses_nothing_beside_a_long_one(
    session: Session, run: Run, collection: Collection
) -> None:
    other = open_new_run(session, collection, "task-2")
    for numbers in in_batches(500, 100):
        many = RecordedDetails([step(number) for number in numbers], [line(number) for number in numbers])
        few = RecordedDetails([step(numbers[0])], [line(numbers[0])])
        store_run_details(session, {TASK: many, "task-2": few})
        session.commit()

    assert numbers_of(run_steps(session, other.id)) == [401, 301, 201, 101, 1]
    assert pages_of(run_log(session, other.id)) == [1, 101, 201, 301, 401]
    assert len(run_steps(session, run.id)) == MAX_LATEST_STEPS, "the slowest of equal steps are the latest"


@pytest.fixture
def log_of_three(session: Session, run: Run) -> None:
    lines = [
        line(1),
        RunLogLineView(NOON + SECOND, "warning", "retry scheduled", 2, {"reason": "100% of_the Moon"}),
        RunLogLineView(NOON, "error", "run failed", None, {}),
    ]
    store(session, RecordedDetails(lines=lines))


@pytest.mark.parametrize(
    ("level", "text", "events"),
    [
        (LogLevel.INFO, "", ["run failed", "page imported", "retry scheduled"]),
        (LogLevel.WARNING, "", ["run failed", "retry scheduled"]),
        (LogLevel.ERROR, "", ["run failed"]),
        (LogLevel.CRITICAL, "", []),
        (LogLevel.INFO, "RETRY", ["retry scheduled"]),
        (LogLevel.INFO, "100% of_the moon", ["retry scheduled"]),
        (LogLevel.INFO, "10_% of", []),
        (LogLevel.INFO, "reason", ["retry scheduled"]),
    ],
)
@pytest.mark.usefixtures("log_of_three")
def test_log_is_filtered_by_level_and_text(
    session: Session, run: Run, level: LogLevel, text: str, events: list[str]
) -> None:
    assert [each.event for each in run_log(session, run.id, min_level=level, text=text)] == events


@pytest.mark.usefixtures("log_of_three")
def test_log_is_read_in_either_order_and_in_parts(session: Session, run: Run) -> None:
    latest = run_log(session, run.id, order=LineOrder.LATEST)
    assert [each.event for each in latest] == ["retry scheduled", "page imported", "run failed"]
    assert run_log(session, run.id, order=LineOrder.LATEST, offset=1, limit=1) == latest[1:2]


def test_details_are_deleted_with_their_run(session: Session, run: Run) -> None:
    store(session, RecordedDetails([step(1)], [line(1)], [("marc", "ok", 0.1)], 0.1))
    session.execute(delete(Run))
    for table in (RunStep, RunStepTotals, RunLogLine, RunRequests):
        assert session.scalar(select(func.count()).select_from(table)) == 0


def test_details_are_stored_while_a_step_is_stored(session: Session, run: Run) -> None:
    """Neither waits for the other, although both transactions lock the run."""
    with transaction() as step_of_run:
        locked = lock_run(step_of_run, TASK)
        assert locked is not None
        assert lock_unchanged_run(step_of_run, locked)
        with transaction() as details:
            details.execute(select(func.set_config("lock_timeout", "1s", True)))
            store_run_details(details, {TASK: RecordedDetails([step(1)])})
    assert run_steps(session, run.id) == [step(1)]
