"""Record the details of runs in this process: steps, requests to the vendor, and log lines.

They are stored about once a second (`accession.runs.detail_store`), and not with each step. A process that is
killed loses those of its last second.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from accession.bibliotheca.outcomes import Endpoint, RequestOutcome
from accession.core.clock import utc_now
from accession.core.sanitize import sanitize
from accession.db.engine import transaction
from accession.runs.detail_store import RecordedDetails, store_run_details
from accession.runs.run_details import RunLogLineView, RunStepView
from accession.tasks.write_buffer import WriteBuffer

log = structlog.get_logger(__name__)

MAX_TEXT_LENGTH = 500
# While the database is unavailable, the newest are kept.
_MAX_UNSTORED = 1000

# They are columns of the line, or those of its run.
_OWN_FIELDS = frozenset(
    {
        "event",
        "level",
        "logger",
        "timestamp",
        "run",
        "collection",
        "workflow",
        "page",
        "exc_info",
        "exception",
    }
)


@dataclass(frozen=True)
class RecordedRequest:
    """A request to the vendor, and its duration in seconds."""

    endpoint: Endpoint
    outcome: RequestOutcome
    seconds: float


@dataclass(frozen=True)
class SlotWait:
    """The time in seconds that a request waited for a slot."""

    seconds: float


Detail: TypeAlias = RunStepView | RunLogLineView | RecordedRequest | SlotWait


def record_run_detail(task_id: str, detail: Detail) -> None:
    """Record a detail of the run with this task id; any thread may call it."""
    _buffer.add((task_id, detail))


def store_recorded_details() -> None:
    """Store what this process has recorded."""
    _buffer.store()


def _store(items: Sequence[tuple[str, Detail]]) -> None:
    recorded: dict[str, RecordedDetails] = {}
    for task_id, detail in items:
        _add_detail(recorded.setdefault(task_id, RecordedDetails()), detail)
    try:
        try:
            _store_details(recorded)
        except IntegrityError:
            # A run was deleted between reading its id and storing its details; now its id is not found.
            _store_details(recorded)
    except OperationalError:
        _buffer.add(*items[-_MAX_UNSTORED:])
    except SQLAlchemyError:
        log.exception("details of runs not stored")


def _store_details(recorded: Mapping[str, RecordedDetails]) -> None:
    with transaction() as session:
        store_run_details(session, recorded)


_buffer = WriteBuffer(_store)


def _add_detail(recorded: RecordedDetails, detail: Detail) -> None:
    match detail:
        case RunStepView():
            recorded.steps.append(detail)
        case RunLogLineView():
            recorded.lines.append(detail)
        case RecordedRequest(endpoint, outcome, seconds):
            recorded.requests.append((endpoint, outcome, seconds))
        case SlotWait(seconds):
            recorded.slot_seconds += seconds


class RunLogHandler(logging.Handler):
    """A handler that records the log lines about runs: those with the field `run`, from level INFO."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Record the line if it is about a run."""
        # structlog leaves the fields of a line here until it is formatted.
        line = record.msg
        if isinstance(line, dict) and isinstance(task_id := line.get("run"), str):
            try:
                record_run_detail(task_id, _log_line(line))
            except Exception:
                # As other handlers do: a line that cannot be recorded must not fail the step.
                self.handleError(record)


def _log_line(line: Mapping[str, Any]) -> RunLogLineView:
    fields = {name: _field(value) for name, value in line.items() if name not in _OWN_FIELDS}
    if {"exc_info", "exception"} & line.keys() and (error := sys.exception()) is not None:
        fields["exception"] = _field(f"{type(error).__name__}: {error}")
    return RunLogLineView(utc_now(), line["level"], _field(line["event"]), line.get("page"), fields)


def _field(value: Any) -> Any:
    """Return a value for JSON, with text on one line of limited length."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = sanitize(str(value))
    return text if len(text) <= MAX_TEXT_LENGTH else f"{text[: MAX_TEXT_LENGTH - 1]}…"
