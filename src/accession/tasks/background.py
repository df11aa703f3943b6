"""Threads of the scheduler and of the web server that do something again and again."""

import threading
from collections.abc import Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

log = structlog.get_logger(__name__)


def run_in_background(name: str, work: Callable[[], object], interval_seconds: float) -> None:
    """Call a function again and again in a thread of this name, which ends with the process."""
    threading.Thread(target=_repeat, name=name, args=(name, work, interval_seconds), daemon=True).start()


def _repeat(name: str, work: Callable[[], object], interval_seconds: float) -> None:
    pause = threading.Event()
    while True:
        log_errors(name, work)
        pause.wait(interval_seconds)


def log_errors(name: str, work: Callable[[], object]) -> None:
    """Call a function of the thread with this name, and log its errors, so that the thread continues."""
    try:
        work()
    except SQLAlchemyError as error:
        # The statement is left out: its parameters are data.
        log.warning("thread waits for the database", thread=name, reason=type(error).__name__)
    except Exception:
        log.exception("thread failed", thread=name)
