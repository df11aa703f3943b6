"""License pools, found or created by the vendor's identifiers."""

import threading

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.core.vocabulary import IdentifierType
from accession.db.engine import transaction
from accession.db.models import Collection, Identifier, LicensePool
from tests.fixtures.factories import (
    SOURCE,
    TIMEOUT_SECONDS,
    make_collection,
    make_pool,
    run_concurrently,
)


def get_pools(
    session: Session, identifiers: list[str], collection: Collection
) -> dict[str, tuple[LicensePool, bool]]:
    return LicensePool.for_foreign_ids(
        session, SOURCE, IdentifierType.BIBLIOTHECA, identifiers, collection=collection
    )


def test_pool_is_new_only_once(session: Session, collection: Collection) -> None:
    first, is_new = get_pools(session, ["abc123"], collection)["abc123"]
    assert is_new
    assert (first.licenses_owned, first.status) == (0, "unknown")
    again, is_new = get_pools(session, ["abc123"], collection)["abc123"]
    assert again is first
    assert not is_new


def test_duplicate_identifiers_have_one_pool(session: Session, collection: Collection) -> None:
    known = make_pool(session, collection, "old1")
    pools = get_pools(session, ["new1", "old1", "new1"], collection)
    assert pools["old1"] == (known, False)
    assert pools["new1"][1]
    assert session.scalar(select(func.count()).select_from(LicensePool)) == 2


def test_collections_share_identifier_but_not_pool(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Birch Library")
    one, two = make_pool(session, collection, "abc"), make_pool(session, other, "abc")
    assert one.id != two.id
    assert one.identifier_id == two.identifier_id


def test_concurrent_transactions_create_each_pool_once(session: Session, collection: Collection) -> None:
    """Both see the titles missing; the second waits for the first and uses its rows."""
    identifiers = [f"t{number}" for number in range(50)]
    barrier = threading.Barrier(2, timeout=TIMEOUT_SECONDS)
    collection_id = collection.id
    new: list[int] = []

    def create_pools(order: list[str]) -> None:
        with transaction() as writer:
            owner = writer.get_one(Collection, collection_id)
            barrier.wait()
            new.append(sum(is_new for _, is_new in get_pools(writer, order, owner).values()))

    run_concurrently(lambda: create_pools(identifiers), lambda: create_pools(identifiers[::-1]))
    assert sum(new) == 50
    assert session.scalar(select(func.count()).select_from(LicensePool)) == 50
    assert session.scalar(select(func.count()).select_from(Identifier)) == 50
