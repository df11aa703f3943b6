"""Outbox: which titles have changed, and which pending change replaces which."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from accession.catalog.apply import ApplyResult, apply_outbox
from accession.catalog.data import ApplyData, TitleData
from accession.catalog.outbox import (
    claim_lost_rows,
    claim_stale_rows,
    count_pending_changes,
    count_pending_changes_by_collection,
    count_stale_changes,
    enqueue_changes,
    find_changed_titles,
    find_identifier_ids,
    list_outbox_ids,
    split_by_metadata,
)
from accession.core.vocabulary import IdentifierType
from accession.db.engine import engine
from accession.db.models import ApplyOutbox, Collection, Edition, LicensePool
from tests.fixtures.factories import (
    NOON,
    SOURCE,
    apply_titles,
    make_collection,
    make_pool,
    record_statements,
    title_data,
)

HOUR = timedelta(hours=1)


@pytest.fixture
def pool(session: Session, collection: Collection) -> LicensePool:
    return make_pool(session, collection, "solaris")


def counts_only(hours: int = 0, **counts: Any) -> ApplyData:
    """A change without metadata, as of some hours after noon."""
    return ApplyData(circulation=title_data("solaris", as_of=NOON + hours * HOUR, **counts).circulation)


def stored_title(session: Session, pool: LicensePool) -> str | None:
    return session.scalars(select(Edition.title).filter_by(identifier_id=pool.identifier_id)).one()


def pending_title(session: Session) -> str:
    row = session.scalars(select(ApplyOutbox)).one()
    return TitleData.model_validate(row.data).bibliographic.title


# Changed titles


def test_page_of_titles_is_compared_with_one_query(session: Session, collection: Collection) -> None:
    names = [f"t{n}" for n in range(50)]
    pools = LicensePool.for_foreign_ids(
        session, SOURCE, IdentifierType.BIBLIOTHECA, names, collection=collection
    )
    titles = [(pools[name][0], title_data(name)) for name in names]
    apply_titles(session, {pool.id: title for pool, title in titles[:25]})
    for pool, _ in titles:
        session.refresh(pool)

    with record_statements(engine()) as statements:
        changed = find_changed_titles(session, titles)

    assert len(statements) == 1
    assert changed == titles[25:]


def test_new_title_has_changed_and_applied_title_has_not(session: Session, pool: LicensePool) -> None:
    title = (pool, title_data("solaris"))
    assert find_changed_titles(session, [title]) == [title]

    apply_titles(session, {pool.id: title[1]})

    assert find_changed_titles(session, [title]) == []
    assert find_changed_titles(session, [(pool, title_data("solaris", as_of=NOON + HOUR))]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Another title"},
        {"contributors": ()},
        {"licenses_owned": 3},
        {"licenses_available": 0},
        {"patrons_in_hold_queue": 1},
        {"licenses_reserved": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_difference_is_a_change_unless_older(
    session: Session, pool: LicensePool, change: dict[str, Any]
) -> None:
    apply_titles(session, {pool.id: title_data("solaris")})

    def has_changed(hours: int) -> bool:
        title = title_data("solaris", as_of=NOON + hours * HOUR, **change)
        return bool(find_changed_titles(session, [(pool, title)]))

    assert has_changed(1)
    assert has_changed(0)
    assert not has_changed(-1)


def test_counts_are_compared_with_the_pools_columns(session: Session, pool: LicensePool) -> None:
    title = (pool, title_data("solaris", as_of=NOON + HOUR))
    apply_titles(session, {pool.id: title[1]})
    pool.licenses_available = 0
    session.commit()

    (changed,) = find_changed_titles(session, [title])

    assert changed == (pool, ApplyData(circulation=title[1].circulation))
    assert apply_titles(session, {pool.id: changed[1]}) == ApplyResult(editions=0, pools=1)
    assert (pool.licenses_owned, pool.licenses_available) == (2, 1)


@pytest.mark.parametrize("pending", [False, True])
def test_counts_without_metadata_are_compared_alone(
    session: Session, pool: LicensePool, pending: bool
) -> None:
    apply_titles(session, {pool.id: title_data("solaris")})
    if pending:
        enqueue_changes(session, [(pool, title_data("solaris", licenses_owned=3))])

    def has_changed(hours: int, **counts: Any) -> bool:
        title = (pool, counts_only(hours, **counts))
        changed = find_changed_titles(session, [title])
        assert changed in ([], [title])
        return bool(changed)

    assert has_changed(1, licenses_owned=0, licenses_available=0)
    assert has_changed(1) == pending
    assert has_changed(-1, licenses_owned=9) == pending


def test_edition_of_another_source_is_not_compared(session: Session, pool: LicensePool) -> None:
    session.add(
        Edition(
            data_source="Another",
            identifier_id=pool.identifier_id,
            content_hash=title_data("solaris").bibliographic.content_hash(),
            created_at=NOON,
            updated_at=NOON,
        )
    )
    session.flush()

    assert len(find_changed_titles(session, [(pool, title_data("solaris"))])) == 1


def test_title_with_a_pending_change_has_changed(session: Session, pool: LicensePool) -> None:
    """Otherwise a change that the vendor has taken back would be applied."""
    apply_titles(session, {pool.id: title_data("solaris")})
    enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON + HOUR, title="A mistake"))])
    session.commit()
    unchanged = (pool, title_data("solaris", as_of=NOON + 2 * HOUR))

    assert find_changed_titles(session, [unchanged]) == [unchanged]
    assert apply_titles(session, {pool.id: unchanged[1]}) == ApplyResult(0, 0)
    assert stored_title(session, pool) == "Title solaris"


# Pending changes


def test_later_change_replaces_the_earlier(session: Session, pool: LicensePool) -> None:
    first = enqueue_changes(session, [(pool, title_data("solaris", title="First"))])
    again = enqueue_changes(
        session,
        [(pool, title_data("solaris", title="Second")), (pool, title_data("solaris", title="Third"))],
    )
    session.commit()

    assert first == again
    assert pending_title(session) == "Third"


@pytest.mark.parametrize("together", [True, False])
def test_older_change_does_not_replace_the_newer(session: Session, pool: LicensePool, together: bool) -> None:
    newer = (pool, title_data("solaris", as_of=NOON + HOUR, title="Newer"))
    older = (pool, title_data("solaris", as_of=NOON, title="Older"))

    if together:
        enqueue_changes(session, [newer, older])
    else:
        enqueue_changes(session, [newer])
        assert enqueue_changes(session, [older]) == []

    assert pending_title(session) == "Newer"


def test_newer_counts_keep_pending_metadata(session: Session, pool: LicensePool) -> None:
    row_ids = enqueue_changes(session, [(pool, title_data("solaris", title="With metadata"))])

    assert enqueue_changes(session, [(pool, counts_only(1, licenses_owned=7))]) == row_ids

    assert split_by_metadata(session, row_ids) == (row_ids, [])
    assert apply_outbox(session, row_ids) == ApplyResult(editions=1, pools=1)
    assert stored_title(session, pool) == "With metadata"
    assert pool.licenses_owned == 7


def test_metadata_added_to_pending_counts_needs_its_own_message(
    session: Session, collection: Collection, pool: LicensePool
) -> None:
    other = make_pool(session, collection, "other")
    row_ids = enqueue_changes(session, [(pool, counts_only()), (other, counts_only())])
    assert split_by_metadata(session, [*row_ids, 4711]) == ([], row_ids)
    enqueue_changes(session, [(pool, title_data("solaris", as_of=NOON + HOUR))])

    assert apply_outbox(session, row_ids, counts_only=True) == ApplyResult(editions=0, pools=1)

    remaining = session.scalars(select(ApplyOutbox)).one()
    assert remaining.license_pool_id == pool.id
    assert split_by_metadata(session, row_ids) == ([remaining.id], [])
    assert (other.licenses_owned, other.licenses_available) == (2, 1)
    assert (pool.licenses_owned, pool.licenses_available) == (0, 0)


def test_older_counts_do_not_replace_counts_with_metadata(session: Session, pool: LicensePool) -> None:
    row_ids = enqueue_changes(session, [(pool, title_data("solaris", licenses_owned=3))])

    assert enqueue_changes(session, [(pool, counts_only(-1, licenses_owned=7))]) == []

    assert apply_outbox(session, row_ids) == ApplyResult(editions=1, pools=1)
    assert pool.licenses_owned == 3


def test_older_metadata_is_not_added_to_newer_counts(session: Session, pool: LicensePool) -> None:
    row_ids = enqueue_changes(session, [(pool, counts_only(1, licenses_owned=7))])

    assert enqueue_changes(session, [(pool, title_data("solaris"))]) == []

    assert split_by_metadata(session, row_ids) == ([], row_ids)
    assert apply_outbox(session, row_ids, counts_only=True) == ApplyResult(editions=0, pools=1)
    assert pool.licenses_owned == 7


def test_newer_counts_replace_older_counts(session: Session, pool: LicensePool) -> None:
    row_ids = enqueue_changes(session, [(pool, counts_only(1, licenses_owned=4))])
    assert enqueue_changes(session, [(pool, counts_only(2, licenses_owned=5))]) == row_ids
    assert enqueue_changes(session, [(pool, counts_only(0, licenses_owned=6))]) == []

    apply_outbox(session, row_ids)
    assert pool.licenses_owned == 5


def test_empty_list_of_changes_needs_no_statement(session: Session) -> None:
    with record_statements(engine()) as statements:
        assert enqueue_changes(session, []) == []

    assert statements == []


def test_pending_changes_are_deleted_with_their_pool(session: Session, pool: LicensePool) -> None:
    row_ids = enqueue_changes(session, [(pool, title_data("solaris"))])
    session.execute(delete(LicensePool))
    session.commit()

    assert session.scalar(select(func.count()).select_from(ApplyOutbox)) == 0
    assert apply_outbox(session, row_ids) == ApplyResult(0, 0)


def test_pending_changes_are_listed_and_counted_by_collection(
    session: Session, collection: Collection
) -> None:
    birch, cedar = (make_collection(session, f"{name} Library") for name in ("Birch", "Cedar"))
    first, second = (make_pool(session, collection, name) for name in ("a", "b"))
    shared = make_pool(session, birch, "a")
    own = enqueue_changes(session, [(first, title_data("a")), (second, title_data("b"))])
    others = enqueue_changes(session, [(shared, title_data("a"))])

    assert list_outbox_ids(session, collection.id) == own
    assert find_identifier_ids(session, [*own, *others, 4711]) == {
        own[0]: first.identifier_id,
        own[1]: second.identifier_id,
        others[0]: first.identifier_id,
    }
    assert [count_pending_changes(session, each.id) for each in (collection, birch, cedar)] == [2, 1, 0]
    assert count_pending_changes_by_collection(session) == {collection.id: 2, birch.id: 1}

    session.execute(delete(ApplyOutbox))
    assert count_pending_changes(session, collection.id) == 0


def test_stale_rows_are_claimed_once(session: Session, collection: Collection) -> None:
    row_ids = []
    for hours, name in enumerate("abc"):
        with time_machine.travel(NOON + hours * HOUR, tick=False):
            pool = make_pool(session, collection, name)
            row_ids += enqueue_changes(session, [(pool, title_data(name))])

    assert count_stale_changes(session, NOON + 2 * HOUR) == 2
    with time_machine.travel(NOON + 5 * HOUR, tick=False):
        assert claim_stale_rows(session, NOON + 2 * HOUR) == row_ids[:2]
        assert claim_stale_rows(session, NOON + 2 * HOUR) == []
        assert claim_lost_rows(session, {row_ids[0]}) == row_ids[1:]
        assert claim_lost_rows(session, set()) == row_ids
