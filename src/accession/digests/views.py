"""The digests of collections, as listed."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from accession.core.settings import get_settings
from accession.db.models import Collection, Digest
from accession.digests.issues import IssueView, latest_issues
from accession.digests.options import DigestOptions, digest_not_found, options_of

NO_MAIL_SERVER = (
    "No mail server is configured, so digests are not mailed: set ACCESSION_SMTP_URL and ACCESSION_MAIL_FROM."
)


@dataclass(frozen=True)
class DigestView:
    """The digest of a collection.

    Attributes:
        collection_id: Id of the collection.
        collection: Its name.
        options: When the digest is made, and for whom.
        schedule: The schedule in words, such as "At 07:00 on Monday".
        next_issue: When the next issue is made (UTC); in the past if it is due.
        latest: The latest issue, None before the first.
        problem: Why the latest issue has not reached all recipients, or cannot reach any; None if all is
            well.
    """

    collection_id: int
    collection: str
    options: DigestOptions
    schedule: str
    next_issue: datetime
    latest: IssueView | None
    problem: str | None


def digest_views(session: Session) -> list[DigestView]:
    """Return the digests of all collections in use, by the name of the collection."""
    query = select(Digest, Collection).join(Collection, Digest.collection_id == Collection.id)
    query = query.where(Collection.marked_for_deletion_at.is_(None)).order_by(Collection.name)
    rows = session.execute(query).all()
    latest = latest_issues(session, [collection.id for _, collection in rows])
    return [_view(digest, collection, latest.get(collection.id)) for digest, collection in rows]


def find_digest_view(session: Session, collection: Collection) -> DigestView | None:
    """Return the digest of a collection, None if it has none."""
    digest = session.get(Digest, collection.id)
    if digest is None:
        return None
    return _view(digest, collection, latest_issues(session, [collection.id]).get(collection.id))


def get_digest_view(session: Session, collection: Collection) -> DigestView:
    """Return the digest of a collection.

    Raises:
        NotFound: it has none.
    """
    view = find_digest_view(session, collection)
    if view is None:
        raise digest_not_found(collection)
    return view


def _view(digest: Digest, collection: Collection, latest: IssueView | None) -> DigestView:
    options = options_of(digest)
    return DigestView(
        collection_id=collection.id,
        collection=collection.name,
        options=options,
        schedule=f"{options.cron.description} ({options.time_zone})",
        next_issue=next(options.cron.occurrences(digest.issued_until)),
        latest=latest,
        problem=_problem(options, latest),
    )


def _problem(options: DigestOptions, latest: IssueView | None) -> str | None:
    errors = (mail.error for mail in (latest.mails if latest else ()) if mail.error)
    if (error := next(errors, None)) is not None:
        return error
    has_mail_server = get_settings().smtp_url is not None
    return NO_MAIL_SERVER if options.recipients and not has_mail_server else None
