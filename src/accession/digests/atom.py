"""Atom feed (RFC 4287) of the issues of a digest: an entry for each, with the content of the mail."""

from datetime import UTC, datetime
from uuid import UUID, uuid5

from lxml import etree
from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.public_url import public_url
from accession.core.sanitize import sanitize
from accession.db.models import Collection, Digest, DigestIssue
from accession.digests.content import DigestContent
from accession.digests.options import get_options
from accession.digests.render import render_issue
from accession.exports.xml import remove_forbidden_characters

MEDIA_TYPE = "application/atom+xml"

_NAMESPACE = "http://www.w3.org/2005/Atom"
_MAX_ENTRIES = 30
# Namespace of the ids of feeds; arbitrary, but fixed for all versions.
_FEED_IDS = UUID("6f0b4b0c-5c4c-4f0e-9d3e-2f3a8d0c9b1e")


def build_feed(session: Session, collection: Collection, self_url: str) -> bytes:
    """Return the feed of a collection's digest: its latest issues, newest first.

    The ids of feed and entries never change, whatever the names and the URL of the dashboard are.

    Raises:
        NotFound: the collection has no digest.
    """
    get_options(session, collection)
    query = select(DigestIssue).where(DigestIssue.collection_id == collection.id, DigestIssue.scheduled)
    issues = session.scalars(query.order_by(DigestIssue.id.desc()).limit(_MAX_ENTRIES)).all()
    updated = issues[0].created_at if issues else session.get_one(Digest, collection.id).created_at
    feed_id = uuid5(_FEED_IDS, f"{collection.id} {collection.created_at.astimezone(UTC).isoformat()}")
    feed = etree.Element(f"{{{_NAMESPACE}}}feed", nsmap={None: _NAMESPACE})
    _add(feed, "id", feed_id.urn)
    _add(feed, "title", f"{sanitize(collection.name)}: digest")
    _add(feed, "updated", _format(updated))
    _add(feed, "link", rel="self", type=MEDIA_TYPE, href=self_url)
    _add_page(feed, f"/collections/{collection.id}")
    _add(_add(feed, "author"), "name", "Accession")
    _add(feed, "generator", "Accession")
    for issue in issues:
        _add_entry(feed, issue, uuid5(feed_id, str(issue.id)))
    return etree.tostring(feed, encoding="utf-8", xml_declaration=True)


def _add_entry(feed: etree._Element, issue: DigestIssue, entry_id: UUID) -> None:
    rendered = render_issue(DigestContent.from_json(issue.content))
    entry = _add(feed, "entry")
    _add(entry, "id", entry_id.urn)
    _add(entry, "title", rendered.subject)
    _add(entry, "updated", _format(issue.created_at))
    _add(entry, "published", _format(issue.created_at))
    _add_page(entry, f"/collections/{issue.collection_id}/digest/issues/{issue.id}")
    _add(entry, "content", rendered.body, type="html")


def _add_page(element: etree._Element, path: str) -> None:
    """Add a link to a page of the dashboard, if its URL is known."""
    if (url := public_url(path)) is not None:
        _add(element, "link", rel="alternate", type="text/html", href=url)


def _add(parent: etree._Element, name: str, text: str | None = None, **attributes: str) -> etree._Element:
    element = etree.SubElement(parent, f"{{{_NAMESPACE}}}{name}", attributes)
    element.text = None if text is None else remove_forbidden_characters(text)
    return element


def _format(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")
