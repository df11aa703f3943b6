"""What `accession doctor` finds in ledger, locks and catalogue, and repairs with `--fix`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select

from accession.accounts.collections import collections_in_use, find_collection
from accession.bibliotheca.client import MOST_ITEMS
from accession.cli.attach import catalogue, require_broker
from accession.cli.checks import Check, foreseen, in_words
from accession.cli.output import counted
from accession.core.clock import utc_now
from accession.core.errors import UserError
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import Collection
from accession.imports.circulation import BibliothecaCirculationUpdater
from accession.imports.vendor import api_for
from accession.runs.diagnostics import (
    FutureCheckpoint,
    count_published_before,
    future_checkpoints,
    is_at_work,
    set_back,
    undescribed,
)

_NAMES_SHOWN = 5


@dataclass(frozen=True)
class _Wrong:
    """Something that is wrong. `repair` puts it right and says what it did, or raises what hinders it."""

    what: str
    finding: str
    repair: Callable[[], str]
    advice: str = "run `accession doctor --fix`"

    def check(self, *, fix: bool) -> Check:
        if not fix:
            return Check(self.what, False, f"{self.finding}: {self.advice}")
        try:
            return Check(self.what, True, self.finding, repaired=self.repair())
        except foreseen() as error:
            return Check(self.what, False, f"{self.finding}; it is not repaired: {in_words(error)}")


def care_checks(*, fix: bool) -> Iterator[Check]:
    """Locks, runs, checkpoints, metadata and outbox; with `fix` what is wrong is repaired where that is safe.

    Nothing where the database does not answer or has another schema, and nothing of locks without a
    broker: other checks tell that.
    """
    if not _well(_open_catalogue):
        return
    if _well(require_broker):
        yield from _cared("locks", "each belongs to a run at work", _stray_locks, fix=fix)
        yield from _cared("locks of runs", "no silent run is without", _lockless_runs, fix=fix)
    yield from _cared("checkpoints", "none lies in the future", _future_checkpoints, fix=fix)
    yield from _cared("metadata", "every title has some", _undescribed, fix=fix)
    yield from _cared("outbox", "nothing is left behind", _left_behind, fix=fix)


def _well(look: Callable[[], object]) -> bool:
    try:
        look()
    except foreseen():
        return False
    return True


def _open_catalogue() -> None:
    with catalogue():
        pass


def _cared(
    what: str, all_well: str, look: Callable[[], Iterable[_Wrong | Check]], *, fix: bool
) -> Iterator[Check]:
    try:
        found = list(look())
    except foreseen() as error:
        yield Check(what, False, in_words(error))
        return
    if not found:
        yield Check(what, True, all_well)
    for one in found:
        yield one if isinstance(one, Check) else one.check(fix=fix)


def _stray_locks() -> Iterator[_Wrong]:
    from accession.tasks.care import StrayLock, stray_locks

    def release(stray: StrayLock) -> str:
        # Should a run have taken it meanwhile, it keeps it.
        return "the lock is free" if stray.lock.release() else "the lock is another's now, and left to it"

    names = _names()
    for stray in stray_locks():
        yield _Wrong(
            f"lock of {_title(stray.workflow, stray.collection_id, names)}",
            f"it is held for {stray.lock.holder}, which is no run at work; no other can begin",
            partial(release, stray),
        )


def _lockless_runs() -> Iterator[_Wrong]:
    from accession.tasks.care import lockless_runs
    from accession.tasks.recovery import send_expected_link

    def send(task_id: str) -> str:
        sent = send_expected_link(task_id)
        return "its next page is queued" if sent else "it has ended meanwhile"

    names = _names()
    for run in lockless_runs():
        yield _Wrong(
            f"run of {_title(run.workflow, run.collection_id, names)}",
            f"it has lost its lock, and nothing was heard of it since {run.silent_since:%Y-%m-%d %H:%M}",
            partial(send, run.task_id),
        )


def _future_checkpoints() -> Iterator[_Wrong]:
    names = _names()
    with transaction() as session:
        found = future_checkpoints(session)
    for checkpoint in found:
        yield _Wrong(
            f"checkpoint of {_title(checkpoint.workflow, checkpoint.collection_id, names)}",
            f"it lies in the future, {checkpoint.finish:%Y-%m-%d %H:%M}, and nothing is asked for until then",
            partial(_set_back, checkpoint),
        )


def _set_back(found: FutureCheckpoint) -> str:
    with transaction() as session:
        if is_at_work(session, found.collection_id, found.workflow):
            raise UserError("a run is at work; try again when it has ended, or see `accession status`")
        finish = set_back(session, found)
    where = f"goes on at {finish:%Y-%m-%d %H:%M}" if finish else "begins as the first one did"
    return f"the next run {where}; it writes only what differs"


def _undescribed() -> Iterator[_Wrong | Check]:
    with transaction() as session:
        found = undescribed(session, collections_in_use(session))
    for name, titles in found.items():
        what = f"metadata of {name}"
        if titles.open:
            yield _Wrong(
                what,
                f"{counted(len(titles.open), 'title')} without: {_listed(titles.open)}",
                partial(_ask, name, titles.open),
                advice="`accession doctor --fix` asks the vendor, and so does the next sweep",
            )
        if titles.gone:
            gone = counted(len(titles.gone), "title")
            yield Check(what, True, f"{gone} without, which the vendor does not have: {_listed(titles.gone)}")


def _ask(collection: str, titles: Sequence[str]) -> str:
    """Ask the vendor about titles, a batch a transaction; raises `UserError` when some are still without."""
    for start in range(0, len(titles), MOST_ITEMS):
        with transaction() as session:
            found = find_collection(session, collection)
            updater = BibliothecaCirculationUpdater(session, found, api_for(found))
            updater.refresh(titles[start : start + MOST_ITEMS])
    with transaction() as session:
        now = undescribed(session, [find_collection(session, collection)])[collection]
    if left := [title for title in titles if title in now.open]:
        raise UserError(f"what the vendor says of {_listed(left)} cannot be used; the next sweep asks again")
    gone = [title for title in titles if title in now.gone]
    said = f"; the vendor does not have {_listed(gone)}" if gone else ""
    return f"{counted(len(titles) - len(gone), 'title')} got metadata{said}"


def _left_behind() -> Iterator[_Wrong]:
    from accession.tasks.apply import LEFT_BEHIND_AFTER, publish_left_applies

    with transaction() as session:
        left = count_published_before(session, utc_now() - LEFT_BEHIND_AFTER)
    if left:
        yield _Wrong(
            "outbox",
            f"{counted(left, 'title')} to be written for over ten minutes",
            lambda: f"{counted(publish_left_applies(), 'title')} queued again",
        )


def _names() -> dict[int, str]:
    """Every collection by its id, those on their way out, too."""
    with transaction() as session:
        return {row.id: row.name for row in session.execute(select(Collection.id, Collection.name))}


def _title(workflow: Workflow, collection_id: int, names: Mapping[int, str]) -> str:
    return f"{workflow.value} of {names.get(collection_id, f'collection {collection_id}')}"


def _listed(titles: Sequence[str]) -> str:
    more = len(titles) - _NAMES_SHOWN
    return ", ".join(titles[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
