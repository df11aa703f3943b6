"""Arithmetic of schedules: which runs start, whenever the scheduler looks."""

from datetime import UTC, datetime, timedelta
from itertools import takewhile

from hypothesis import example, given
from hypothesis import strategies as st

from accession.core.cron import Cron
from accession.core.workflow import Workflow
from accession.runs.schedules import Schedule, ScheduleOverride

MINUTE = timedelta(minutes=1)
# The nights of daylight saving time, and others.
begins = st.sampled_from([datetime(2024, 3, 30, 12, tzinfo=UTC), datetime(2024, 10, 26, 12, tzinfo=UTC)])
expressions = st.sampled_from(["30 2 * * *", "0 * * * *", "*/20 * * * *", "0 2,3 * * *", "15 */2 * * *"])
delays = st.integers(0, 90).map(lambda minutes: minutes * MINUTE)


def schedule(expression: str, delay: timedelta, begin: datetime) -> Schedule:
    return Schedule(
        collection_id=1,
        workflow=Workflow.EVENTS,
        cron=Cron(expression, "Europe/Berlin"),
        jitter_minutes=91,
        delay=delay,
        override=ScheduleOverride(),
        started_until=begin - delay,
    )


def starts_between(schedule: Schedule, begin: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda start: start <= end, schedule.starts_after(begin)))


@given(expressions, delays, begins, st.lists(st.integers(1, 400), min_size=1, max_size=15))
@example("30 2 * * *", timedelta(0), datetime(2024, 10, 26, 12, tzinfo=UTC), [740, 60, 60])
@example("0 * * * *", timedelta(0), datetime(2024, 10, 26, 23, tzinfo=UTC), [60, 60, 60])
def test_each_look_starts_what_came_due_since_the_last(
    expression: str, delay: timedelta, begin: datetime, waits: list[int]
) -> None:
    """One run is started however many starts came due, and none if there was no start."""
    current, looked_at = schedule(expression, delay, begin), begin
    for wait in waits:
        now = looked_at + wait * MINUTE
        is_due = current.next_start <= now
        assert is_due == bool(starts_between(current, looked_at, now))
        current = current.after_starting(now) if is_due else current
        looked_at = now


@given(expressions, delays, st.integers(0, 90), begins)
def test_changed_delay_neither_repeats_nor_omits_a_start(
    expression: str, delay: timedelta, new_minutes: int, begin: datetime
) -> None:
    """Another collection of the account changes the delays; each occurrence still starts one run."""
    first = schedule(expression, delay, begin)
    now = first.next_start
    changed = schedule(expression, new_minutes * MINUTE, begin)
    occurrences = first.cron.occurrences(now - delay)
    following = next(occurrences)
    moved = Schedule(**{**vars(changed), "started_until": first.after_starting(now).started_until})
    assert moved.next_start == following + changed.delay


@given(expressions, delays, begins)
def test_delay_moves_every_start_alike(expression: str, delay: timedelta, begin: datetime) -> None:
    end = begin + timedelta(days=2)
    undelayed = starts_between(schedule(expression, timedelta(0), begin), begin, end)
    delayed = starts_between(schedule(expression, delay, begin), begin + delay, end + delay)
    assert delayed == [start + delay for start in undelayed]
