"""Diagnostics of problems that raise no error."""

from sqlalchemy.orm import Session

from accession.catalog.outbox import enqueue_changes
from accession.db.models import Collection
from accession.runs.diagnostics import TitlesWithoutMetadata, find_titles_without_metadata
from tests.fixtures.factories import apply_titles, make_collection, make_pool, title_data


def test_titles_without_metadata_are_listed_in_import_order(session: Session, collection: Collection) -> None:
    birch, cedar = (make_collection(session, name) for name in ("Birch Library", "Cedar Library"))
    for owner, names in ((collection, "dbac"), (birch, "cab"), (cedar, "a")):
        for name in names:
            make_pool(session, owner, name)
    complete, pending, withdrawn = (
        make_pool(session, collection, name) for name in ("complete", "pending", "withdrawn")
    )
    apply_titles(session, {complete.id: title_data("complete")})
    enqueue_changes(session, [(pending, title_data("pending"))])
    withdrawn.status = "exhausted"
    session.commit()

    assert find_titles_without_metadata(session, [collection, birch]) == {
        "Alder Library": TitlesWithoutMetadata(fetchable=("d", "b", "a", "c"), withdrawn=("withdrawn",)),
        "Birch Library": TitlesWithoutMetadata(fetchable=("c", "a", "b"), withdrawn=()),
    }
    apply_titles(session, {make_pool(session, birch, "a").id: title_data("a")})
    assert find_titles_without_metadata(session, [birch, cedar]) == {
        "Birch Library": TitlesWithoutMetadata(fetchable=("c", "b"), withdrawn=()),
        "Cedar Library": TitlesWithoutMetadata(fetchable=(), withdrawn=()),
    }
    assert find_titles_without_metadata(session, []) == {}
