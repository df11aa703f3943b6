"""TODO."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from accession.db.models.base import Base


class RunState(StrEnum):
    """How a run stands."""

    QUEUED = "queued"
    """It was asked for, and no worker has begun it yet."""
    RUNNING = "running"
    RETRYING = "retrying"
    """A page met a vendor fault and will be tried again."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """It stopped before its end and will not go on: superseded, or its collection is leaving."""


BEGUN_STATES = (RunState.RUNNING, RunState.RETRYING)


ACTIVE_STATES = (RunState.QUEUED, *BEGUN_STATES)


class Run(Base):
    """The ledger's row for one chain: where it stands and what it has done so far.

    `cursor` holds the arguments of the link that is expected next: the page that commits moves it on,
    in its own transaction, and a link sent with any other cursor has nothing to do here.
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_collection_id_workflow_id", "collection_id", "workflow", "id"),
        Index("ix_runs_collection_id_id", "collection_id", "id"),
        Index("ix_runs_state_id", "state", "id"),
        Index(
            "ix_runs_active",
            "collection_id",
            postgresql_where=text("state IN ('queued', 'running', 'retrying')"),
        ),
        # Nothing that the vendor has told is dropped.
        CheckConstraint("records_fetched = records_stored + records_rejected", name="records_kept"),
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
    started_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    sampled_at: Mapped[datetime | None]
    """When the last of its samples was taken."""
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None]


class Retry(Base):
    """That a page of a run met a fault and was to be tried again, for the nth time (from 1), and why."""

    __tablename__ = "run_retries"
    __table_args__ = (Index("ix_run_retries_run_id_id", "run_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    at: Mapped[datetime]
    retry: Mapped[int]
    reason: Mapped[str]


class Sample(Base):
    """What a run had done at a moment."""

    __tablename__ = "run_samples"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    pages: Mapped[int]
    records_fetched: Mapped[int]


class RunTotals(Base):
    """What all runs of a workflow that have ended have counted: it stays when their rows go."""

    __tablename__ = "run_totals"

    workflow: Mapped[str] = mapped_column(primary_key=True)
    pages: Mapped[int] = mapped_column(BigInteger)
    records_fetched: Mapped[int] = mapped_column(BigInteger)
    records_stored: Mapped[int] = mapped_column(BigInteger)
    records_rejected: Mapped[int] = mapped_column(BigInteger)
    titles_new: Mapped[int] = mapped_column(BigInteger)
    titles_changed: Mapped[int] = mapped_column(BigInteger)
    repairs: Mapped[int] = mapped_column(BigInteger)


class LookedUpTitle(Base):
    """That a run has looked up a title, by the vendor's id, so that it need not do so twice. The rows go with
    the end of the run."""

    __tablename__ = "looked_up_titles"

    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    identifier: Mapped[str] = mapped_column(primary_key=True)


class SweptBatch(Base):
    """When the circulation sweep last asked about a batch of a collection's titles.

    It stands in the ledger, a row a batch, because a sweep writes nothing to pools that are as they
    were. `after_id` is the offset the batch began at, `identifier_ids` those of its titles whose counts
    were told.
    """

    __tablename__ = "swept_batches"

    collection_id: Mapped[int] = mapped_column(
        ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True
    )
    after_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    identifier_ids: Mapped[list[int]]
    swept_at: Mapped[datetime]
