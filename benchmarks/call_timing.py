"""Time calls that use the database: total, in SQL statements, and in requests to the vendor."""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
from sqlalchemy import event
from sqlalchemy.orm import Session

from accession.db.engine import engine

REPETITIONS = 20
SLOW_CALL_MS = 50
_SLOW_STATEMENT_MS = 5
_MAX_LINE_LENGTH = 250


@dataclass(frozen=True)
class CallTiming:
    """Duration of one call in milliseconds: best, median and worst of several repetitions.

    Attributes:
        database_ms: Part of the median call that was spent in statements.
        vendor_ms: Part of the median call that was spent on vendor requests and parsing the responses.
        statements: Number of statements of the median call.
        plans: Plans of its slow statements, if the call is slow.
    """

    name: str
    best_ms: float
    median_ms: float
    worst_ms: float
    database_ms: float
    vendor_ms: float
    statements: int
    plans: tuple[str, ...] = ()


@dataclass
class Stopwatch:
    """Sum of the seconds spent in its `running` contexts."""

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the duration of the context."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


VENDOR_STOPWATCH = Stopwatch()


def time_call(name: str, call: Callable[[Session], object], repetitions: int = REPETITIONS) -> CallTiming:
    """Time a call, each repetition in a transaction that is rolled back, after one that is not counted."""
    _call_once(call)
    measured = sorted((_call_once(call) for _ in range(repetitions)), key=lambda each: each.seconds)
    median = measured[repetitions // 2]
    timing = CallTiming(
        name=name,
        best_ms=_to_ms(measured[0].seconds),
        median_ms=_to_ms(statistics.median(each.seconds for each in measured)),
        worst_ms=_to_ms(measured[-1].seconds),
        database_ms=_to_ms(sum(statement.seconds for statement in median.statements)),
        vendor_ms=_to_ms(median.vendor_seconds),
        statements=len(median.statements),
    )
    if timing.median_ms <= SLOW_CALL_MS:
        return timing
    return replace(timing, plans=tuple(_explain(median.statements)))


def page_request(transport: httpx.ASGITransport, path: str) -> Callable[[Session], object]:
    """Return a call, for `time_call`, that requests a page of the web app."""

    async def get() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8642") as client:
            (await client.get(path)).raise_for_status()

    return lambda _: asyncio.run(get())


@dataclass
class _Statement:
    sql: str
    parameters: Any
    start: float
    seconds: float = 0.0


@dataclass(frozen=True)
class _MeasuredCall:
    seconds: float
    vendor_seconds: float
    statements: list[_Statement]


def _call_once(call: Callable[[Session], object]) -> _MeasuredCall:
    with Session(engine()) as session, _recording_statements() as statements:
        session.connection()
        VENDOR_STOPWATCH.seconds, start = 0.0, time.perf_counter()
        call(session)
        session.flush()
        seconds = time.perf_counter() - start
        session.rollback()
    return _MeasuredCall(seconds, VENDOR_STOPWATCH.seconds, statements)


@contextmanager
def _recording_statements() -> Iterator[list[_Statement]]:
    statements: list[_Statement] = []

    def before(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        statements.append(_Statement(sql, parameters, time.perf_counter()))

    def after(*_: Any) -> None:
        statements[-1].seconds = time.perf_counter() - statements[-1].start

    event.listen(engine(), "before_cursor_execute", before)
    event.listen(engine(), "after_cursor_execute", after)
    try:
        yield statements
    finally:
        event.remove(engine(), "before_cursor_execute", before)
        event.remove(engine(), "after_cursor_execute", after)


def _explain(statements: Iterable[_Statement]) -> Iterator[str]:
    """Yield the plans of slow statements but inserts and plans; what these write is rolled back."""
    with engine().connect() as connection:
        for statement in statements:
            if 1000 * statement.seconds < _SLOW_STATEMENT_MS or statement.sql.startswith(
                ("INSERT", "EXPLAIN")
            ):
                continue
            explain = f"EXPLAIN (ANALYZE, BUFFERS) {statement.sql}"
            with connection.begin_nested() as savepoint:
                rows = connection.exec_driver_sql(explain, statement.parameters).scalars()
                yield "\n".join(line[:_MAX_LINE_LENGTH] for line in [*statement.sql.splitlines(), *rows])
                savepoint.rollback()


def _to_ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
