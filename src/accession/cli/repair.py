"""Checks of `accession doctor` that can repair what they find: locks, runs, checkpoints, metadata, outbox.

Copy counts are checked here as well; only the vendor can repair them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from accession.accounts.collections import find_collection, list_collections
from accession.accounts.views import collection_names
from accession.auth.audit import AuditAction, record
from accession.bibliotheca.client import MAX_ITEMS
from accession.catalog.outbox import count_stale_changes
from accession.cli.actor import command_actor
from accession.cli.checks import Check, expected_errors, format_error
from accession.cli.connect import open_catalogue, require_broker
from accession.cli.output import count_noun
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.engine import late_transaction, transaction
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.vendor_api import vendor_api_for
from accession.runs.diagnostics import (
    FutureCheckpoint,
    find_future_checkpoints,
    find_impossible_counts,
    find_titles_without_metadata,
    has_active_run,
    reset_checkpoint,
)

_MAX_TITLES_SHOWN = 5


@dataclass(frozen=True)
class _Problem:
    """A problem that can be repaired.

    `repair` returns a description of what it did, or raises an expected error.
    """

    name: str
    finding: str
    repair: Callable[[], str]
    advice: str = "run `accession doctor --fix`"

    def check(self, *, fix: bool) -> Check:
        if not fix:
            return Check(self.name, False, f"{self.finding}: {self.advice}")
        try:
            with transaction() as session:
                details = {"finding": self.finding}
                record(session, command_actor(), AuditAction.DATABASE_REPAIR, self.name, details)
            return Check(self.name, True, self.finding, repaired=self.repair())
        except expected_errors() as error:
            return Check(self.name, False, f"{self.finding}; not repaired: {format_error(error)}")


def repair_checks(*, fix: bool) -> Iterator[Check]:
    """Check locks, runs, checkpoints, metadata, counts and outbox; with `fix`, repair the problems.

    Without a usable database there are no results, and without a broker none about locks: other checks
    report those.
    """
    if not _succeeds(_open_catalogue):
        return
    if _succeeds(require_broker):
        yield from _results("locks", "none is orphaned", _orphaned_locks, fix=fix)
        yield from _results("stalled runs", "none has lost its lock", _stalled_runs, fix=fix)
    yield from _results("checkpoints", "none is in the future", _future_checkpoints, fix=fix)
    yield from _results("metadata", "all titles have metadata", _missing_metadata, fix=fix)
    yield from _results("copy counts", "no title has more available than owned", _impossible_counts, fix=fix)
    yield from _results("outbox", "no stale rows", _stale_outbox_rows, fix=fix)


def _succeeds(probe: Callable[[], object]) -> bool:
    try:
        probe()
    except expected_errors():
        return False
    return True


def _open_catalogue() -> None:
    with open_catalogue():
        pass


def _results(
    name: str, ok_finding: str, find: Callable[[], Iterable[_Problem | Check]], *, fix: bool
) -> Iterator[Check]:
    try:
        results = list(find())
    except expected_errors() as error:
        yield Check(name, False, format_error(error))
        return
    if not results:
        yield Check(name, True, ok_finding)
    for result in results:
        yield result if isinstance(result, Check) else result.check(fix=fix)


def _orphaned_locks() -> Iterator[_Problem]:
    from accession.tasks.diagnostics import OrphanedLock, find_orphaned_locks

    def release(orphaned: OrphanedLock) -> str:
        # False if a run has taken the lock meanwhile: that run keeps it.
        return "released" if orphaned.lock.release() else "not released: a run has taken it since"

    names = _collection_names()
    for orphaned in find_orphaned_locks():
        yield _Problem(
            f"lock of {_run_label(orphaned.workflow, orphaned.collection_id, names)}",
            f"orphaned lock: its holder {orphaned.lock.holder} is no active run, and no other run can start",
            partial(release, orphaned),
        )


def _stalled_runs() -> Iterator[_Problem]:
    from accession.tasks.diagnostics import find_runs_without_lock
    from accession.tasks.recovery import resume_run

    def resume(task_id: str) -> str:
        return "its next step is queued" if resume_run(task_id) else "it has ended since"

    names = _collection_names()
    for run in find_runs_without_lock():
        yield _Problem(
            f"run of {_run_label(run.workflow, run.collection_id, names)}",
            f"stalled run: it has lost its lock, and its last step ended at {run.updated_at:%Y-%m-%d %H:%M}",
            partial(resume, run.task_id),
        )


def _future_checkpoints() -> Iterator[_Problem]:
    names = _collection_names()
    with transaction() as session:
        checkpoints = find_future_checkpoints(session)
    for checkpoint in checkpoints:
        yield _Problem(
            f"checkpoint of {_run_label(checkpoint.workflow, checkpoint.collection_id, names)}",
            f"it is in the future, {checkpoint.finish:%Y-%m-%d %H:%M}, and nothing is imported until then",
            partial(_reset_checkpoint, checkpoint),
        )


def _reset_checkpoint(checkpoint: FutureCheckpoint) -> str:
    with transaction() as session:
        if has_active_run(session, checkpoint.collection_id, checkpoint.workflow):
            raise UserError("a run is active; retry when it has ended, see `accession status`")
        finish = reset_checkpoint(session, checkpoint)
    start = f"{finish:%Y-%m-%d %H:%M}" if finish else "the beginning"
    return f"the next run starts from {start} and writes only what differs"


def _missing_metadata() -> Iterator[_Problem | Check]:
    with transaction() as session:
        missing = find_titles_without_metadata(session, list_collections(session))
    for collection, titles in missing.items():
        name = f"metadata of {collection}"
        if titles.fetchable:
            count = count_noun(len(titles.fetchable), "title")
            yield _Problem(
                name,
                f"{count} without metadata: {_shorten(titles.fetchable)}",
                partial(_fetch_metadata, collection, titles.fetchable),
                advice="`accession doctor --fix` fetches it, and so does the next circulation update",
            )
        if titles.withdrawn:
            count = count_noun(len(titles.withdrawn), "title")
            finding = f"{count} without metadata, withdrawn by the vendor: {_shorten(titles.withdrawn)}"
            yield Check(name, True, finding)


def _impossible_counts() -> Iterator[Check]:
    with transaction() as session:
        impossible = find_impossible_counts(session, list_collections(session))
    for collection, titles in impossible.items():
        finding = (
            f"{count_noun(len(titles), 'title')} with more copies available than owned: {_shorten(titles)}; "
            "at most the copies owned are shown: report them to the vendor"
        )
        yield Check(f"copy counts of {collection}", True, finding)


def _fetch_metadata(collection_name: str, titles: Sequence[str]) -> str:
    """Fetch metadata from the vendor, one batch per transaction, and return a summary.

    Raises:
        UserError: some titles are still without metadata.
    """
    for start in range(0, len(titles), MAX_ITEMS):
        with late_transaction() as session:
            collection = find_collection(session, collection_name)
            updater = BibliothecaCirculationUpdater(session, collection, vendor_api_for(collection))
            updater.refresh(titles[start : start + MAX_ITEMS])
    with transaction() as session:
        collection = find_collection(session, collection_name)
        missing = find_titles_without_metadata(session, [collection])[collection_name]
    if unusable := [title for title in titles if title in missing.fetchable]:
        raise UserError(
            f"the vendor's metadata of {_shorten(unusable)} is unusable; the next circulation update retries"
        )
    withdrawn = [title for title in titles if title in missing.withdrawn]
    suffix = f"; withdrawn by the vendor: {_shorten(withdrawn)}" if withdrawn else ""
    return f"fetched metadata of {count_noun(len(titles) - len(withdrawn), 'title')}{suffix}"


def _stale_outbox_rows() -> Iterator[_Problem]:
    from accession.tasks.apply import STALE_AFTER, publish_stale_applies

    with transaction() as session:
        stale = count_stale_changes(session, utc_now() - STALE_AFTER)
    if stale:
        yield _Problem(
            "outbox",
            f"{count_noun(stale, 'stale outbox row')}, not applied for over ten minutes",
            lambda: f"queued {count_noun(publish_stale_applies(), 'row')} again",
        )


def _collection_names() -> dict[int, str]:
    with transaction() as session:
        return collection_names(session)


def _run_label(workflow: Workflow, collection_id: int, names: Mapping[int, str]) -> str:
    return f"{workflow.value} of {names.get(collection_id, f'collection {collection_id}')}"


def _shorten(titles: Sequence[str]) -> str:
    more = len(titles) - _MAX_TITLES_SHOWN
    return ", ".join(titles[:_MAX_TITLES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
