"""Views of collections."""

from sqlalchemy.orm import Session

from accession.accounts.collections import mark_for_deletion
from accession.accounts.views import collection_names, collection_views
from accession.db.models import Collection
from tests.fixtures.factories import make_collection, make_pool


def test_collection_views_count_titles_of_collections_in_use(
    session: Session, collection: Collection
) -> None:
    for identifier in ("a", "b"):
        make_pool(session, collection, identifier)
    make_collection(session, "Aa Library")
    mark_for_deletion(make_collection(session, "Deleted Library"))
    session.commit()

    assert [(view.name, view.titles) for view in collection_views(session)] == [
        ("Aa Library", 0),
        ("Alder Library", 2),
    ]


def test_collection_names_include_deleted_collections(session: Session, collection: Collection) -> None:
    other = make_collection(session, "Aa Library")
    mark_for_deletion(other)
    session.commit()

    assert list(collection_names(session).items()) == [
        (collection.id, "Alder Library"),
        (other.id, "Aa Library"),
    ]
