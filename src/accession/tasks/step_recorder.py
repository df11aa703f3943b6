"""Measure the steps of runs, and record how long each took and what it requested."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter

from accession.bibliotheca.outcomes import Endpoint, RequestOutcome
from accession.core.clock import utc_now
from accession.db.models import StepOutcome
from accession.runs.run_details import RunStepView
from accession.tasks.metrics import count_request
from accession.tasks.outages import UNAVAILABLE_ERRORS
from accession.tasks.run_details import RecordedRequest, SlotWait, record_run_detail
from accession.tasks.workflow_task import RETRIED_ERRORS

RequestSlot = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class StepSpan:
    """The time span (UTC) of a step, and the position of its first record or title."""

    start: datetime | None = None
    end: datetime | None = None
    offset: int | None = None


NO_SPAN = StepSpan()


@dataclass
class StepRecording:
    """An attempt at a step, while it is being processed.

    Set `records` and `span` when they are known, and `is_discarded` if nothing may be stored.
    """

    task_id: str
    number: int = 0
    records: int = 0
    span: StepSpan = NO_SPAN
    is_discarded: bool = False
    started_at: datetime = field(default_factory=utc_now)
    _started: float = field(default_factory=perf_counter)
    _fetched: float | None = None
    _request_starts: list[float] = field(default_factory=list)

    def begin(self, number: int) -> None:
        """Begin the step with this number, from 1; one that does not begin is not recorded."""
        self.number, self.started_at, self._started = number, utc_now(), perf_counter()

    def begin_storing(self) -> None:
        """Note that everything has been fetched."""
        self._fetched = perf_counter()

    def measured(self, request_slot: RequestSlot) -> RequestSlot:
        """Return `request_slot`, so that it records how long each request waits for its slot."""

        @contextmanager
        def hold() -> Iterator[None]:
            start = perf_counter()
            self._request_starts.append(start)
            with request_slot():
                record_run_detail(self.task_id, SlotWait(perf_counter() - start))
                yield

        return hold

    def count_request(self, endpoint: Endpoint, outcome: RequestOutcome, seconds: float) -> None:
        """Count a request that took so many seconds, for the run and for the metrics."""
        record_run_detail(self.task_id, RecordedRequest(endpoint, outcome, seconds))
        count_request(endpoint, outcome, seconds)

    def record(self, outcome: StepOutcome) -> None:
        """Record the step, which has ended."""
        ended = perf_counter()
        step = RunStepView(
            number=self.number,
            started_at=self.started_at,
            outcome=outcome,
            seconds=ended - self._started,
            fetch_seconds=(self._fetched or ended) - self._started,
            requests=len(self._request_starts),
            records=self.records,
            window_start=self.span.start,
            window_end=self.span.end,
            offset=self.span.offset,
        )
        record_run_detail(self.task_id, step)


@contextmanager
def recorded_step(task_id: str, *, is_last_attempt: bool) -> Iterator[StepRecording]:
    """Record an attempt at a step of the run with this task id.

    `is_last_attempt`: an error of the vendor ends the run.
    """
    recording = StepRecording(task_id)
    outcome = StepOutcome.FAILED
    try:
        yield recording
        outcome = StepOutcome.STORED
    except UNAVAILABLE_ERRORS:
        outcome = StepOutcome.RETRIED
        raise
    except RETRIED_ERRORS:
        outcome = StepOutcome.FAILED if is_last_attempt else StepOutcome.RETRIED
        raise
    finally:
        if recording.number:
            recording.record(StepOutcome.DISCARDED if recording.is_discarded else outcome)
