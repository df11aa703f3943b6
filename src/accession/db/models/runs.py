"""Run ledger: runs, their samples and retries, and what sweeps have covered."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Identity,
    Index,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base


class RunState(StrEnum):
    """State of a run."""

    QUEUED = "queued"
    """Requested, but no worker has started it yet."""
    RUNNING = "running"
    RETRYING = "retrying"
    """A step failed with a vendor error and will be retried."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Ended by a person before its end; the next run continues at the checkpoint."""
    INTERRUPTED = "interrupted"
    """Stopped before its end for good: replaced by a newer run, or its collection is marked for deletion."""


BEGUN_STATES = (RunState.RUNNING, RunState.RETRYING)


ACTIVE_STATES = (RunState.QUEUED, *BEGUN_STATES)


class Run(Base):
    """A run: one execution of a workflow for one collection, with its state and counters.

    `cursor` holds the arguments of the next step. Each step moves it in the transaction in which it stores
    its records; a step that was sent with another cursor is a redelivery and does nothing. `since` is the
    time (UTC) from which the run imports. `pending_lookups` is the number of its pending titles (`RunTitle`),
    and `pending_since_page` the page (from 1) that the first of them was on. `worker` is the name of the
    worker that processed the latest step.
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_collection_id_workflow_id", "collection_id", "workflow", "id"),
        Index("ix_runs_collection_id_id", "collection_id", "id"),
        Index("ix_runs_state_id", "state", "id"),
        Index("ix_runs_collection_id_workflow_state_id", "collection_id", "workflow", "state", "id"),
        Index("ix_runs_finished_at", "finished_at"),
        Index(
            "ix_runs_active",
            "collection_id",
            postgresql_where=text("state IN ('queued', 'running', 'retrying')"),
        ),
        # Every record that the vendor returned is accounted for.
        CheckConstraint("records_fetched = records_stored + records_rejected", name="records_accounted_for"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(ForeignKey("collections.id", ondelete="CASCADE"))
    workflow: Mapped[str]
    task_id: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    cursor: Mapped[dict[str, Any]]
    since: Mapped[datetime | None]
    pages: Mapped[int] = mapped_column(default=0)
    records_fetched: Mapped[int] = mapped_column(default=0)
    records_stored: Mapped[int] = mapped_column(default=0)
    records_rejected: Mapped[int] = mapped_column(default=0)
    titles_new: Mapped[int] = mapped_column(default=0)
    titles_changed: Mapped[int] = mapped_column(default=0)
    repairs: Mapped[int] = mapped_column(default=0)
    restarts: Mapped[int] = mapped_column(default=0)
    pending_lookups: Mapped[int] = mapped_column(default=0)
    pending_since_page: Mapped[int] = mapped_column(default=0)
    worker: Mapped[str | None]
    started_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    sampled_at: Mapped[datetime | None]
    """Time of the latest sample."""
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None]


class RunRetry(Base):
    """A retry of a step: the `retry`-th (from 1) was scheduled at this time for this reason."""

    __tablename__ = "run_retries"
    __table_args__ = (Index("ix_run_retries_run_id_id", "run_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    retry: Mapped[int]
    reason: Mapped[str]


class RunSample(Base):
    """A sample of a run's counters at one time."""

    __tablename__ = "run_samples"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    pages: Mapped[int]
    records_fetched: Mapped[int]


class StepOutcome(StrEnum):
    """Outcome of a step of a run, or of an attempt at it."""

    STORED = "stored"
    RETRIED = "retried"
    """It failed with an error of the vendor or of a server, and was attempted again."""
    FAILED = "failed"
    """It failed, and ended the run."""
    DISCARDED = "discarded"
    """The run had ended or moved on when the vendor had responded, so that nothing was stored."""


class RunStep(Base):
    """A step of a run, or an attempt at one; only some steps of a long run are kept (`runs.run_details`).

    `number` is that of the page, slice or batch within the run, from 1. `fetch_seconds` is the part of
    `seconds` before the first write: requests to the vendor, and waiting for them. `window_start` and
    `window_end` are the time span (UTC), `offset` the position in it of the first record, from 1, or the id
    of the last title before a batch; None where there is none, or the step failed before.
    """

    __tablename__ = "run_steps"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str]
    seconds: Mapped[float] = mapped_column(REAL)
    fetch_seconds: Mapped[float] = mapped_column(REAL)
    requests: Mapped[int]
    records: Mapped[int]
    window_start: Mapped[datetime | None]
    window_end: Mapped[datetime | None]
    offset: Mapped[int | None]


class RunStepTotals(Base):
    """Sums over all steps of a run, and the number of its log lines, also of those that are not kept.

    `slot_seconds` is the sum of the times that requests waited for a slot of the account's limits.
    """

    __tablename__ = "run_step_totals"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    steps: Mapped[int]
    fetch_seconds: Mapped[float] = mapped_column(Double)
    store_seconds: Mapped[float] = mapped_column(Double)
    slot_seconds: Mapped[float] = mapped_column(Double)
    log_lines: Mapped[int]


class RunRequests(Base):
    """The requests of a run to one of the vendor's endpoints with one outcome."""

    __tablename__ = "run_requests"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int]
    seconds: Mapped[float] = mapped_column(Double)
    max_seconds: Mapped[float] = mapped_column(REAL)


class RunLogLine(Base):
    """A line of the log about a run; only some lines of a long log are kept (`runs.run_details`).

    `page` is the number of the step that it is about, None if it is about none.
    """

    __tablename__ = "run_log_lines"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime]
    level: Mapped[str]
    event: Mapped[str]
    page: Mapped[int | None]
    fields: Mapped[dict[str, Any]]


class RunSums:
    """Columns with the counters of several runs, summed."""

    pages: Mapped[int] = mapped_column(BigInteger)
    records_fetched: Mapped[int] = mapped_column(BigInteger)
    records_stored: Mapped[int] = mapped_column(BigInteger)
    records_rejected: Mapped[int] = mapped_column(BigInteger)
    titles_new: Mapped[int] = mapped_column(BigInteger)
    titles_changed: Mapped[int] = mapped_column(BigInteger)
    repairs: Mapped[int] = mapped_column(BigInteger)
    restarts: Mapped[int] = mapped_column(BigInteger)


class RunTotals(RunSums, Base):
    """Counters of all ended runs of a workflow, summed; they outlive the rows of the runs."""

    __tablename__ = "run_totals"

    workflow: Mapped[str] = mapped_column(primary_key=True)


class RunDay(RunSums, Base):
    """Counters of a collection's runs of a workflow that ended on a day (UTC); they outlive the runs' rows.

    `succeeded`, `failed`, `interrupted` and `cancelled` are numbers of runs, `seconds` the sum of their
    durations.
    """

    __tablename__ = "run_days"
    __table_args__ = (Index("ix_run_days_collection_id_day", "collection_id", "day"),)

    day: Mapped[date] = mapped_column(primary_key=True)
    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    workflow: Mapped[str] = mapped_column(primary_key=True)
    succeeded: Mapped[int]
    failed: Mapped[int]
    interrupted: Mapped[int]
    cancelled: Mapped[int]
    seconds: Mapped[float] = mapped_column(Double)


class RunTitle(Base):
    """A title, by the vendor's id, whose metadata a run has looked up or has still to look up (pending).

    When the run ends, the titles that it has looked up are deleted. Pending ones stay for the next run.
    `is_new` tells whether a pending title was counted as new, so that it will not count as changed.
    """

    __tablename__ = "run_titles"
    __table_args__ = (Index("ix_run_titles_pending", "run_id", postgresql_where=text("is_pending")),)

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    identifier: Mapped[str] = mapped_column(primary_key=True)
    is_pending: Mapped[bool]
    is_new: Mapped[bool]


class WorkflowPause(Base):
    """A pause of one workflow of a collection: until its end, or until a person resumes it, no run starts.

    `until` is the end (UTC), None without one. `has_stopped_run`: the pause has cancelled a run, so that
    another one starts as soon as it is over.
    """

    __tablename__ = "workflow_pauses"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    workflow: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    paused_at: Mapped[datetime]
    until: Mapped[datetime | None]
    has_stopped_run: Mapped[bool]


class SweptBatch(Base):
    """The time when the circulation sweep last requested a batch of a collection's titles.

    Kept per batch, because a sweep writes nothing to pools that have not changed. `after_id` is the offset at
    which the batch started, `identifier_ids` those of its titles for which the vendor returned counts.
    """

    __tablename__ = "swept_batches"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    after_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    identifier_ids: Mapped[list[int]]
    swept_at: Mapped[datetime]
