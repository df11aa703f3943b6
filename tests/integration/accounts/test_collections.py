"""Adding, finding, listing and removing collections."""

from dataclasses import replace

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import (
    CollectionNotFound,
    add_collection,
    find_collection,
    list_collections,
    mark_for_deletion,
)
from accession.accounts.views import collection_views
from accession.core.errors import InvalidInput, UserError
from accession.db.models import Collection
from tests.fixtures.factories import make_account, make_collection, make_pool


def test_collection_is_found_by_name(session: Session, collection: Collection) -> None:
    result = find_collection(session, "Alder Library")

    assert result is collection
    assert (result.library_id, result.account_id, result.base_url) == (
        "alder",
        "library.alder",
        "http://127.0.0.1:9",
    )


@pytest.mark.parametrize("name", ["X", "alder library", ""])
def test_unknown_collection_is_reported(session: Session, collection: Collection, name: str) -> None:
    with pytest.raises(CollectionNotFound) as error:
        find_collection(session, name)

    assert str(error.value) == f'No collection found named "{name}".'
    assert isinstance(error.value, UserError)


def test_duplicate_name_is_refused_without_change(session: Session, collection: Collection) -> None:
    with pytest.raises(UserError, match='A collection named "Alder Library" already exists: choose'):
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


@pytest.mark.parametrize("name", ["", " Alder", "Al\nder", "Al\u200bder", "x" * 301])
def test_invalid_name_of_a_collection_is_refused(session: Session, name: str) -> None:
    account = replace(make_account("Alder"), collection=name)
    with pytest.raises(InvalidInput, match="is invalid: enter 1 to 300 characters"):
        add_collection(session, account)


def test_name_of_the_greatest_length_is_stored(session: Session) -> None:
    """Each character differs, because PostgreSQL compresses a repeated one in the index of names."""
    name = "".join(chr(0x4E00 + number) for number in range(300))
    assert find_collection(session, make_collection(session, name).name).name == name


def test_name_of_removed_collection_can_be_reused(session: Session, collection: Collection) -> None:
    mark_for_deletion(collection)
    session.commit()
    with pytest.raises(CollectionNotFound):
        find_collection(session, "Alder Library")

    second = make_collection(session, "Alder Library")

    assert find_collection(session, "Alder Library").id == second.id != collection.id
    mark_for_deletion(second)
    session.commit()
    assert make_collection(session, "Alder Library").id not in (collection.id, second.id)


def test_collections_are_listed_by_name(session: Session, collection: Collection) -> None:
    for name in ("Cedar Library", "Birch Library"):
        make_collection(session, name)
    mark_for_deletion(collection)
    session.commit()

    assert [each.name for each in list_collections(session)] == ["Birch Library", "Cedar Library"]


def test_collection_view_has_title_count_and_no_key(session: Session, collection: Collection) -> None:
    make_collection(session, "Birch Library")
    for name in ("a", "b"):
        make_pool(session, collection, name)

    alder, birch = collection_views(session)

    assert (alder.name, alder.titles, alder.account_id) == ("Alder Library", 2, "library.alder")
    assert (birch.name, birch.titles) == ("Birch Library", 0)
    assert not any("key" in name for name in vars(alder))
