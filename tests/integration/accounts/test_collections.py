"""Collections by name."""

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import (
    CollectionNotFound,
    add_collection,
    list_collections,
    find_collection,
    mark_for_deletion,
)
from accession.accounts.views import collection_views
from accession.core.errors import UserError
from accession.db.models import Collection
from tests.fixtures.factories import make_collection, make_pool


def test_a_collection_is_found_by_its_name(session: Session, collection: Collection) -> None:
    found = find_collection(session, "Alder Library")

    assert found is collection
    assert (found.library_id, found.account_id, found.base_url) == (
        "alder",
        "library.alder",
        "http://127.0.0.1:9",
    )


@pytest.mark.parametrize("name", ["X", "alder library", ""])
def test_a_name_that_nobody_has_is_said_in_these_words(
    session: Session, collection: Collection, name: str
) -> None:
    with pytest.raises(CollectionNotFound) as error:
        find_collection(session, name)

    assert str(error.value) == f'No collection found named "{name}".'
    assert isinstance(error.value, UserError)


def test_a_name_in_use_is_refused_and_the_collection_stays_as_it_was(
    session: Session, collection: Collection
) -> None:
    with pytest.raises(UserError, match='There is a collection named "Alder Library" already: choose'):
        add_collection(
            session,
            Account(
                collection="Alder Library",
                library_id="other",
                account_id="other",
                account_key=SecretStr("other"),
                base_url="https://partner.example",
            ),
        )

    assert find_collection(session, "Alder Library").library_id == "alder"


def test_a_removed_collections_name_is_free_again(session: Session, collection: Collection) -> None:
    mark_for_deletion(collection)
    session.commit()
    with pytest.raises(CollectionNotFound):
        find_collection(session, "Alder Library")

    second = make_collection(session, "Alder Library")

    assert find_collection(session, "Alder Library").id == second.id != collection.id
    mark_for_deletion(second)
    session.commit()
    assert make_collection(session, "Alder Library").id not in (collection.id, second.id)


def test_the_collections_in_use_come_by_name(session: Session, collection: Collection) -> None:
    for name in ("Cedar Library", "Birch Library"):
        make_collection(session, name)
    mark_for_deletion(collection)
    session.commit()

    assert [each.name for each in list_collections(session)] == ["Birch Library", "Cedar Library"]


def test_a_collection_is_shown_with_its_titles_and_without_its_key(
    session: Session, collection: Collection
) -> None:
    make_collection(session, "Birch Library")
    for name in ("a", "b"):
        make_pool(session, collection, name)

    alder, birch = collection_views(session)

    assert (alder.name, alder.titles, alder.account_id) == ("Alder Library", 2, "library.alder")
    assert (birch.name, birch.titles) == ("Birch Library", 0)
    assert not any("key" in name for name in vars(alder))
