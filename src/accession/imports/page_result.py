"""Result of importing one page of purchase records."""

from dataclasses import dataclass
from datetime import datetime

from accession.imports.windows import ImportCursor, Window
from accession.runs.checkpoints import CheckpointMove
from accession.runs.ledger import RunCounters


@dataclass(frozen=True)
class DayImportResult:
    """The result of importing one page of a day.

    Attributes:
        window: the span that was requested: a day, a calendar month or a probe.
        next_cursor: where the import continues.
        outbox_ids: the outbox rows to apply after the commit.
        records_in_part: number of stored records without a part that is not valid MARC 21.
        repairs: number of documents that were well-formed only after a repair.
        restarts: 1 if the import goes back, because the vendor's pages contradict each other; otherwise 0.
        checkpoint_move: the move of the checkpoint, if it is left to the caller: nothing else was written.
    """

    window: Window
    next_cursor: ImportCursor
    records_fetched: int = 0
    records_stored: int = 0
    records_in_part: int = 0
    records_rejected: int = 0
    titles_new: int = 0
    titles_changed: int = 0
    outbox_ids: tuple[int, ...] = ()
    repairs: int = 0
    restarts: int = 0
    checkpoint_move: CheckpointMove | None = None

    @property
    def day_start(self) -> datetime:
        """Return the inclusive start of the window (UTC)."""
        return self.window.start

    @property
    def day_end(self) -> datetime:
        """Return the exclusive end of the window (UTC)."""
        return self.window.end

    @property
    def next_offset(self) -> int | None:
        """Return the offset of the window's next page; None when this was its last."""
        return None if self.next_cursor.window_end is None else self.next_cursor.offset

    @property
    def counters(self) -> RunCounters:
        """Return what the page adds to the run's counters."""
        return RunCounters(
            records_fetched=self.records_fetched,
            records_stored=self.records_stored,
            records_rejected=self.records_rejected,
            titles_new=self.titles_new,
            titles_changed=self.titles_changed,
            repairs=self.repairs,
            restarts=self.restarts,
        )
