"""API endpoints of digests: options per collection, issues with their mails, preview and sending."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from accession.accounts.collections import get_collection
from accession.db.engine import transaction
from accession.digests.content import DigestContent
from accession.digests.delivery import send_now
from accession.digests.issues import IssueView, issue_views, preview_content
from accession.digests.options import (
    MAX_RECIPIENTS,
    MAX_TITLES,
    DigestOptions,
    Frequency,
    Weekday,
    get_options,
    remove_digest,
    set_digest,
)
from accession.digests.render import render_issue
from accession.digests.views import DigestView, digest_views, get_digest_view
from accession.web.api.openapi import problem_responses
from accession.web.api.schemas import Body, Choice, Items, Page
from accession.web.parameters import NO_NUL, CursorId, Limit, RowId
from accession.web.principal import Operator, Viewer

router = APIRouter(tags=["digests"])

Address = Annotated[str, StringConstraints(max_length=254, pattern=NO_NUL)]
_DEFAULTS = DigestOptions()
_PATH = "/collections/{collection_id:int}/digest"


class NewDigest(Body):
    """Options of a digest; those that are left out get their defaults."""

    frequency: Choice[Frequency] = _DEFAULTS.frequency
    weekday: Choice[Weekday] = Field(_DEFAULTS.weekday, description="Day of a weekly digest.")
    time: str = Field(
        _DEFAULTS.time, max_length=5, pattern=NO_NUL, description="Local time at which an issue is made."
    )
    time_zone: str = Field(
        "",
        max_length=100,
        pattern=NO_NUL,
        description="Time zone of the time; empty for that of the settings.",
        examples=["Europe/Berlin"],
    )
    recipients: Items[Address] = Field(
        (), max_length=MAX_RECIPIENTS, description="Email addresses. Without any, the digest is only a feed."
    )
    send_empty: bool = Field(
        _DEFAULTS.send_empty, description="Make an issue also if no title was purchased, removed or expired."
    )
    max_titles: int = Field(
        _DEFAULTS.max_titles, ge=1, le=MAX_TITLES, description="Maximum number of titles per section."
    )


class NewIssue(Body):
    """An issue to send now."""

    recipients: Items[Address] = Field(
        (), max_length=MAX_RECIPIENTS, description="Email addresses; empty for those of the digest."
    )


@dataclass(frozen=True)
class Preview:
    """Content of an issue that would be made now, and its mail."""

    content: DigestContent
    subject: str
    html: str
    text: str


@router.get("/digests")
def list_digests(_: Viewer) -> list[DigestView]:
    """List the digests of all collections."""
    with transaction() as session:
        return digest_views(session)


@router.get(_PATH, responses=problem_responses(404))
def show_digest(_: Viewer, collection_id: RowId) -> DigestView:
    """Return the digest of a collection, with its latest issue."""
    with transaction() as session:
        return get_digest_view(session, get_collection(session, collection_id))


@router.put(_PATH, responses=problem_responses(404))
def replace_digest(operator: Operator, collection_id: RowId, new: NewDigest) -> DigestView:
    """Set the digest of a collection, with all its options."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        set_digest(session, operator.actor, collection, DigestOptions(**dict(new)))
        return get_digest_view(session, collection)


@router.delete(_PATH, status_code=HTTPStatus.NO_CONTENT, responses=problem_responses(404))
def delete_digest(operator: Operator, collection_id: RowId) -> None:
    """Remove the digest of a collection with its issues; mails that have not been sent are discarded."""
    with transaction() as session:
        remove_digest(session, operator.actor, get_collection(session, collection_id))


@router.get(f"{_PATH}/preview", responses=problem_responses(404))
def preview_digest(_: Viewer, collection_id: RowId) -> Preview:
    """Return the content of an issue that would be made now: the last day or week, up to yesterday (UTC)."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        content = preview_content(session, collection, get_options(session, collection))
    rendered = render_issue(content)
    return Preview(content, rendered.subject, rendered.html, rendered.text)


@router.get(f"{_PATH}/issues", responses=problem_responses(404))
def list_digest_issues(
    _: Viewer, collection_id: RowId, cursor: CursorId = None, limit: Limit = 50
) -> Page[IssueView]:
    """List the issues of a collection's digest, newest first, with the state of their mails."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        views = issue_views(session, collection, before_id=cursor, limit=limit + 1)
    return Page.in_id_order(limit, views)


@router.post(f"{_PATH}/issues", status_code=HTTPStatus.CREATED, responses=problem_responses(404))
def send_digest(operator: Operator, collection_id: RowId, new: NewIssue) -> IssueView:
    """Mail an issue of the last day or week now. The schedule stays as it is."""
    return send_now(operator.actor, collection_id, new.recipients)
