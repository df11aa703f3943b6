"""What is missing without an error."""

from sqlalchemy.orm import Session

from accession.catalog.outbox import enqueue_changes
from accession.db.models import Collection
from accession.runs.diagnostics import TitlesWithoutMetadata, find_titles_without_metadata
from tests.fixtures.factories import apply_titles, make_collection, make_pool, title_data


def test_titles_without_metadata_are_told_by_collection_in_the_order_of_their_import(
    session: Session, collection: Collection
) -> None:
    birch, cedar = (make_collection(session, name) for name in ("Birch Library", "Cedar Library"))
    for owner, names in ((collection, "dbac"), (birch, "cab"), (cedar, "a")):
        for name in names:
            make_pool(session, owner, name)
    described, waiting, gone = (
        make_pool(session, collection, name) for name in ("described", "waiting", "gone")
    )
    apply_titles(session, {described.id: title_data("described")})
    enqueue_changes(session, [(waiting, title_data("waiting"))])
    gone.status = "exhausted"
    session.commit()

    assert find_titles_without_metadata(session, [collection, birch]) == {
        "Alder Library": TitlesWithoutMetadata(open=("d", "b", "a", "c"), gone=("gone",)),
        "Birch Library": TitlesWithoutMetadata(open=("c", "a", "b"), gone=()),
    }
    apply_titles(session, {make_pool(session, birch, "a").id: title_data("a")})
    assert find_titles_without_metadata(session, [birch, cedar]) == {
        "Birch Library": TitlesWithoutMetadata(open=("c", "b"), gone=()),
        "Cedar Library": TitlesWithoutMetadata(open=(), gone=()),
    }
    assert find_titles_without_metadata(session, []) == {}
