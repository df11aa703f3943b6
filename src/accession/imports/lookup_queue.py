"""Queue of the titles that a run has still to look up, stored in the transactions of its steps."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from accession.catalog.run_titles import (
    delete_left_titles,
    filter_new_to_run,
    find_left_titles,
    find_pending_titles,
    record_looked_up,
)
from accession.db.models import Run
from accession.imports.lookup_plan import PendingLookups


@dataclass(frozen=True)
class DueTitles:
    """The titles that are to be looked up now, and those that are to wait.

    Attributes:
        identifiers: the titles to look up.
        waiting: the titles that are pending after the page.
        counted_as_new: titles of earlier pages among both that were counted as new there.
        left: titles among both that earlier runs have left.
        remaining: the number of waiting titles, and since when the first of them waits.
    """

    identifiers: Sequence[str]
    waiting: Sequence[str] = ()
    counted_as_new: AbstractSet[str] = frozenset()
    left: Sequence[str] = ()
    remaining: PendingLookups = field(default_factory=PendingLookups)

    @property
    def has_changes(self) -> bool:
        """Return whether there is anything to look up or to record for later pages."""
        return bool(self.identifiers or self.waiting or self.left)


class LookupQueue:
    """The titles that a run has still to look up, stored in the transactions of its steps.

    Without a run there are no further pages to wait for: all titles of a page are due with it.
    """

    def __init__(self, session: Session, run: Run | None) -> None:
        self._session = session
        self._run = run

    def select_due(self, title_ids: Sequence[str], *, is_last: bool) -> DueTitles:
        """Return which titles to look up after a page with these titles; nothing is written.

        Those that the run has met before are left out. With its first page a run takes over the titles that
        earlier runs have left.
        """
        run = self._run
        if run is None:
            return DueTitles(title_ids)
        left = {} if run.pages else find_left_titles(self._session, run)
        new_ids = filter_new_to_run(self._session, run, [each for each in title_ids if each not in left])
        queue = PendingLookups(run.pending_lookups + len(left), run.pending_since_page)
        plan = queue.plan(run.pages + 1, len(new_ids), is_last=is_last)
        is_due = run.pending_lookups > 0 and plan.due > 0
        pending = find_pending_titles(self._session, run) if is_due else left
        ids = [*pending, *new_ids]
        return DueTitles(
            ids[: plan.due],
            waiting=ids[plan.due :],
            counted_as_new={title_id for title_id, is_new in pending.items() if is_new},
            left=tuple(left),
            remaining=plan.remaining,
        )

    def record(self, due: DueTitles, new_title_ids: AbstractSet[str]) -> None:
        """Record that the due titles have been looked up and the others wait.

        `new_title_ids` are the titles that the page has counted as new.
        """
        run = self._run
        if run is None:
            return
        delete_left_titles(self._session, run, due.left)
        counted_as_new = due.counted_as_new | new_title_ids
        waiting = {title_id: title_id in counted_as_new for title_id in due.waiting}
        record_looked_up(self._session, run, due.identifiers, waiting)
        run.pending_lookups, run.pending_since_page = due.remaining.titles, due.remaining.since_page
