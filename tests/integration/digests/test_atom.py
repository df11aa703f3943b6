"""Atom feeds of digests: valid by RFC 4287, with ids that never change."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from lxml import etree, html
from sqlalchemy.orm import Session

from accession.core.errors import NotFound
from accession.core.settings import get_settings
from accession.db.models import Collection, DigestIssue
from accession.digests.atom import build_feed
from accession.digests.issues import make_due_issues, store_manual_issue
from accession.digests.options import Frequency
from tests.fixtures.digests import ANN, make_digest
from tests.fixtures.factories import day

SELF = "https://accession.library.example/digests/1.atom?token=acc_x"
ATOM = "{http://www.w3.org/2005/Atom}"
# RFC 3339, as RFC 4287 (section 3.3) requires it.
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@pytest.fixture
def issues(session: Session, collection: Collection) -> None:
    """Two daily issues without titles, and one that was sent by hand."""
    with time_machine.travel(day(2024, 4, 1, 12), tick=False):
        make_digest(
            session, collection, frequency=Frequency.DAILY, time_zone="UTC", send_empty=True, recipients=()
        )
    for number in (2, 3):
        with time_machine.travel(day(2024, 4, number, 7), tick=False):
            assert make_due_issues() == 1
    store_manual_issue(session, ANN, collection, ["bob@library.example"])
    session.commit()


def feed_of(session: Session, collection: Collection) -> Any:
    """Return the parsed feed, after a check of the rules of RFC 4287."""
    feed = etree.fromstring(build_feed(session, collection, SELF))
    check_feed(feed)
    return feed


def check_feed(feed: Any) -> None:
    """Check what RFC 4287 requires of a feed and its entries (sections 4.1.1 and 4.1.2)."""
    assert feed.tag == f"{ATOM}feed"
    entries = feed.findall(f"{ATOM}entry")
    for element in (feed, *entries):
        for name in ("id", "title", "updated"):
            assert len(element.findall(f"{ATOM}{name}")) == 1
        for name in ("updated", "published"):
            assert all(RFC_3339.fullmatch(each.text) for each in element.findall(f"{ATOM}{name}"))
        alternates = element.findall(f"{ATOM}link[@rel='alternate']")
        assert len({(link.get("type"), link.get("hreflang")) for link in alternates}) == len(alternates)
    # Authors of the feed apply to entries without any.
    assert feed.findall(f"{ATOM}author/{ATOM}name")
    assert len(feed.findall(f"{ATOM}link[@rel='self']")) == 1
    assert all(re.match("urn:uuid:", each.text) for each in feed.iter(f"{ATOM}id"))
    assert len({each.text for each in feed.iter(f"{ATOM}id")}) == 1 + len(entries)
    assert all(entry.find(f"{ATOM}content").get("type") == "html" for entry in entries)


def texts(feed: Any, path: str) -> list[str]:
    return [each.text for each in feed.findall("/".join(f"{ATOM}{name}" for name in path.split("/")))]


def test_feed_has_scheduled_issues_newest_first(
    session: Session, collection: Collection, issues: None
) -> None:
    feed = feed_of(session, collection)
    assert texts(feed, "title") == [f"{collection.name}: digest"]
    assert texts(feed, "entry/title") == [
        f"{collection.name}: no changes (2 April 2024)",
        f"{collection.name}: no changes (1 April 2024)",
    ]
    assert texts(feed, "updated") == texts(feed, "entry/updated")[:1] == ["2024-04-03T07:00:00+00:00"]
    assert feed.find(f"{ATOM}link[@rel='self']").get("href") == SELF
    (content, _) = texts(feed, "entry/content")
    assert "No title was purchased, removed or expired." in html.fromstring(content).text_content()


def test_ids_are_kept_when_name_and_url_change(
    session: Session, collection: Collection, issues: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = feed_of(session, collection)
    monkeypatch.setattr(get_settings(), "public_url", "https://other.example")
    collection.name = "Renamed Library"
    session.commit()
    after = feed_of(session, collection)
    for path in ("id", "entry/id"):
        assert texts(before, path) == texts(after, path)
    links = [link.get("href") for link in after.iter(f"{ATOM}link") if link.get("rel") == "alternate"]
    base = f"https://other.example/collections/{collection.id}"
    assert links == [base, f"{base}/digest/issues/2", f"{base}/digest/issues/1"]


def test_feed_without_issues_is_valid(session: Session, collection: Collection) -> None:
    with time_machine.travel(datetime(2024, 4, 1, 12, tzinfo=UTC), tick=False):
        make_digest(session, collection)
    feed = feed_of(session, collection)
    assert texts(feed, "entry/id") == []
    assert texts(feed, "updated") == ["2024-04-01T12:00:00+00:00"]


def test_hostile_title_stays_data(session: Session, collection: Collection, issues: None) -> None:
    issue = session.get_one(DigestIssue, 1)
    hostile = "</content><script>alert(1)</script>\x1b"
    title = {"identifier": "abc", "title": hostile, "authors": [hostile], "format": None}
    title |= {"cover_url": "javascript:alert(1)", "note": "Purchased"}
    section = issue.content["sections"][1] | {"total": 1, "titles": [title]}
    issue.content = issue.content | {"sections": [section]}
    session.commit()
    feed = feed_of(session, collection)
    content = html.fromstring(texts(feed, "entry/content")[1])
    assert content.findall(".//script") == []
    assert content.findall(".//img") == []
    assert "<script>alert(1)</script>" in content.text_content()


def test_collection_without_digest_has_no_feed(session: Session, collection: Collection) -> None:
    with pytest.raises(NotFound, match="has no digest: set one with"):
        build_feed(session, collection, SELF)
