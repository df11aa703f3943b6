"""Diagnostics of problems that raise no error."""

from sqlalchemy.orm import Session

from accession.catalog.outbox import enqueue_changes
from accession.catalog.run_titles import record_looked_up
from accession.core.workflow import Workflow
from accession.db.models import Collection, RunState
from accession.runs.diagnostics import TitlesWithoutMetadata, find_titles_without_metadata
from accession.runs.ledger import end_run, find_run, open_run
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


def test_title_that_an_active_run_will_look_up_is_not_listed(
    session: Session, collection: Collection
) -> None:
    """A run that has ended will not look it up: that is left to the next one."""
    make_pool(session, collection, "abc")
    birch = make_collection(session, "Birch Library")
    make_pool(session, birch, "abc")
    open_run(session, collection.id, Workflow.PURCHASES, "task", {})
    run = find_run(session, "task")
    assert run is not None
    record_looked_up(session, run, [], {"abc": True})

    assert find_titles_without_metadata(session, [collection, birch]) == {
        "Alder Library": TitlesWithoutMetadata(fetchable=(), withdrawn=()),
        "Birch Library": TitlesWithoutMetadata(fetchable=("abc",), withdrawn=()),
    }
    end_run(run, RunState.FAILED, "The vendor is unavailable.")
    assert find_titles_without_metadata(session, [collection])["Alder Library"].fetchable == ("abc",)
