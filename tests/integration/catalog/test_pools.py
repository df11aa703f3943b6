"""License pools by the vendor's identifiers."""

import threading

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.core.vocabulary import IdentifierType
from accession.db.engine import transaction
from accession.db.models import Collection, Identifier, LicensePool
from tests.fixtures.factories import SOURCE, make_collection, make_pool


def pools_for(session: Session, ids: list[str], collection: Collection) -> dict[str, tuple[int, bool]]:
    found = LicensePool.for_foreign_ids(
        session, SOURCE, IdentifierType.BIBLIOTHECA, ids, collection=collection
    )
    return {name: (pool.id, is_new) for name, (pool, is_new) in found.items()}


def test_a_pool_is_new_once(session: Session, collection: Collection) -> None:
    arguments = (session, SOURCE, IdentifierType.BIBLIOTHECA, "abc123")
    first, is_new = LicensePool.for_foreign_id(*arguments, collection=collection)
    assert is_new
    assert (first.licenses_owned, first.status) == (0, "unknown")
    again, is_new = LicensePool.for_foreign_id(*arguments, collection=collection)
    assert again is first
    assert not is_new


def test_a_page_with_old_new_and_doubled_titles_has_one_pool_each(
    session: Session, collection: Collection
) -> None:
    known = make_pool(session, collection, "old1")
    pools = pools_for(session, ["new1", "old1", "new1"], collection)
    assert pools["old1"] == (known.id, False)
    assert pools["new1"][1]
    assert session.scalar(select(func.count()).select_from(LicensePool)) == 2


def test_two_collections_share_the_identifier_and_not_the_pool(
    session: Session, collection: Collection
) -> None:
    other = make_collection(session, "Birch Library")
    one, two = make_pool(session, collection, "abc"), make_pool(session, other, "abc")
    assert one.id != two.id
    assert one.identifier_id == two.identifier_id


def test_two_transactions_that_meet_the_same_new_titles_do_not_collide(
    session: Session, collection: Collection
) -> None:
    """Both see the titles missing; the second waits for the first, and takes its rows as they are."""
    ids = [f"t{n}" for n in range(50)]
    looked = threading.Barrier(2, timeout=10)
    collection_id = collection.id
    new: list[int] = []

    def meet(order: list[str]) -> None:
        with transaction() as mine:
            here = mine.get_one(Collection, collection_id)
            looked.wait()
            new.append(sum(is_new for _, is_new in pools_for(mine, order, here).values()))

    threads = [threading.Thread(target=meet, args=(order,)) for order in (ids, ids[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(new) == 50
    assert session.scalar(select(func.count()).select_from(LicensePool)) == 50
    assert session.scalar(select(func.count()).select_from(Identifier)) == 50
