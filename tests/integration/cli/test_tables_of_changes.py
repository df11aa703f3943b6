"""Exports of a catalogue that changes: the option `--since`, and changes during an export."""

from datetime import timedelta

import pytest
import time_machine
from sqlalchemy.exc import InternalError
from sqlalchemy.orm import Session

from accession.catalog.change_feed import read_feed
from accession.catalog.feed_filter import FeedFilter
from accession.db.engine import snapshot
from accession.db.models import Collection
from tests.fixtures.commands import Cli
from tests.fixtures.factories import NOON, make_collection, store_title

HOUR = timedelta(hours=1)


@pytest.fixture
def titles(session: Session, collection: Collection) -> None:
    """Two collections with one title each, stored at noon."""
    with time_machine.travel(NOON, tick=False):
        store_title(session, collection, "solaris")
        store_title(session, make_collection(session, "Birch Library"), "eden")


def test_export_since_says_how_titles_changed(
    cli: Cli, session: Session, collection: Collection, titles: None
) -> None:
    later = NOON + HOUR
    with time_machine.travel(later, tick=False):
        store_title(session, collection, "solaris", licenses_owned=0, licenses_available=0, as_of=later)
        store_title(session, collection, "fiasco")
    for since in ("2024-05-01T13:00:00Z", "2024-05-01 13:00", "2024-05-01T15:00+02:00"):
        result = cli("export", "csv", "--since", since, "--columns", "identifier")
        assert result.stdout.split() == ["change,identifier", "removed,solaris", "new,fiasco"]
    everything = cli("export", "csv", "--columns", "identifier")
    assert everything.stdout.split() == ["identifier", "eden", "fiasco"]
    nothing = cli("export", "csv", "--since", "2024-05-02", "--columns", "identifier")
    assert nothing.stdout.split() == ["change,identifier"]


def test_snapshot_of_feed_is_consistent_and_read_only(
    session: Session, collection: Collection, titles: None
) -> None:
    with snapshot() as reading:
        before = [title.title.identifier for title in read_feed(reading, FeedFilter())]
        store_title(session, collection, "purchased later")
        assert [title.title.identifier for title in read_feed(reading, FeedFilter())] == before
        with pytest.raises(InternalError, match="read-only transaction"):
            make_collection(reading, "Cedar Library")
