"""Pages of the digest of a collection: options, preview, issues with their mails, and lists of titles."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import date
from functools import cache
from typing import Annotated, Any
from urllib.parse import quote, urlencode
from zoneinfo import available_timezones

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy.orm import Session

from accession.accounts.collections import get_collection
from accession.core.errors import InvalidInput, NotFound
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.db.models import Collection
from accession.digests.content import DigestContent, DigestTitle, Period, Section, SectionKind, read_section
from accession.digests.delivery import send_now
from accession.digests.issues import IssueView, find_issue_content, issue_views, preview_content
from accession.digests.options import (
    MAX_TITLES,
    DigestOptions,
    Frequency,
    Weekday,
    find_options,
    get_options,
    remove_digest,
    set_digest,
)
from accession.digests.render import HEADINGS, render_issue
from accession.digests.views import NO_MAIL_SERVER, find_digest_view
from accession.web.addresses import root
from accession.web.headers import MAIL_POLICY
from accession.web.pages.rendering import redirect, render
from accession.web.parameters import MAX_ID, NO_NUL, CursorId, FormField, Offset, RowId
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/collections/{collection_id}/digest", include_in_schema=False)

_PAGE_SIZE = 20
_TITLES_PER_PAGE = 50

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100, pattern=NO_NUL)]


class DigestForm(BaseModel):
    """The fields of the form of a digest. Recipients are separated by white space, commas or semicolons."""

    frequency: Frequency = Frequency.WEEKLY
    weekday: Weekday = Weekday.MONDAY
    time: Text = ""
    time_zone: Text = ""
    recipients: Annotated[str, StringConstraints(max_length=20_000, pattern=NO_NUL)] = ""
    send_empty: bool = False
    max_titles: Annotated[int, Field(ge=-MAX_ID, le=MAX_ID)] = DigestOptions().max_titles

    def options(self) -> DigestOptions:
        """Return the options."""
        return DigestOptions(**{**dict(self), "recipients": _split_addresses(self.recipients)})


def _split_addresses(text: str) -> tuple[str, ...]:
    return tuple(filter(None, re.split(r"[\s,;]+", text)))


@cache
def _time_zones() -> list[str]:
    return sorted(available_timezones())


@router.get("")
def show_digest(request: Request, _: Viewer, collection_id: RowId, before: CursorId = None) -> Response:
    """Show the options in a form, and the issues with their mails, newest first."""
    with transaction() as session:
        options = find_options(session, get_collection(session, collection_id))
    default = DigestOptions(time_zone=get_settings().time_zone)
    return _page(request, collection_id, _values(options or default), before=before)


@router.get("/form")
def preview_form(
    request: Request, _: Operator, collection_id: RowId, form: Annotated[DigestForm, Query()]
) -> Response:
    """Show the form with values that are not saved, and the mail that follows from them."""
    values = form.model_dump()
    try:
        form.options().checked()
    except InvalidInput as error:
        return _page(request, collection_id, values, error=str(error))
    query = {"frequency": form.frequency.value, "max_titles": form.max_titles}
    return _page(request, collection_id, values, preview=query)


@router.post("")
def update_digest(
    request: Request, operator: Operator, collection_id: RowId, form: Annotated[DigestForm, Form()]
) -> Response:
    """Set the digest, or show the form again with the error."""
    try:
        with transaction() as session:
            set_digest(session, operator.actor, get_collection(session, collection_id), form.options())
    except InvalidInput as error:
        return _page(request, collection_id, form.model_dump(), error=str(error))
    return redirect(_path(collection_id), "Digest saved.")


def _values(options: DigestOptions) -> Mapping[str, Any]:
    return {**asdict(options), "recipients": "\n".join(options.recipients)}


def _path(collection_id: int) -> str:
    return f"/collections/{collection_id}/digest"


def _page(
    request: Request,
    collection_id: int,
    values: Mapping[str, Any],
    *,
    preview: Mapping[str, object] | None = None,
    error: str | None = None,
    before: int | None = None,
) -> Response:
    with transaction() as session:
        collection = get_collection(session, collection_id)
        issues = issue_views(session, collection, before_id=before, limit=_PAGE_SIZE + 1)
        return render(
            request,
            "digest.html",
            status=422 if error else 200,
            collection=collection,
            digest=find_digest_view(session, collection),
            values=values,
            error=error,
            preview=urlencode(preview or {}),
            is_preview=preview is not None,
            has_links=get_settings().public_url is not None,
            mail_warning=None if get_settings().smtp_url else NO_MAIL_SERVER,
            issues=issues[:_PAGE_SIZE],
            next_before=issues[_PAGE_SIZE - 1].id if len(issues) > _PAGE_SIZE else None,
            frequencies=[each.value for each in Frequency],
            weekdays=[each.value for each in Weekday],
            time_zones=_time_zones(),
            max_titles=MAX_TITLES,
        )


@router.get("/preview")
def show_preview(
    _: Viewer,
    collection_id: RowId,
    frequency: Frequency | None = None,
    max_titles: Annotated[int | None, Query(ge=1, le=MAX_TITLES)] = None,
) -> Response:
    """Return the mail that would be sent now, with the stored options or with others."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        stored = find_options(session, collection) or DigestOptions()
        options = replace(
            stored, frequency=frequency or stored.frequency, max_titles=max_titles or stored.max_titles
        )
        content = preview_content(session, collection, options)
    return _mail_response(content)


@router.get("/issues/{issue_id}")
def show_issue(_: Viewer, collection_id: RowId, issue_id: RowId) -> Response:
    """Return the mail of an issue."""
    with transaction() as session:
        content = find_issue_content(session, get_collection(session, collection_id), issue_id)
    return _mail_response(content)


def _mail_response(content: DigestContent) -> Response:
    """Return a mail as a page of its own, with covers from this server."""
    html = render_issue(content, cover_url=_cover_url).html
    return HTMLResponse(html, headers={"Content-Security-Policy": MAIL_POLICY})


def _cover_url(title: DigestTitle) -> str:
    return f"{root()}/covers/{quote(title.identifier, safe='')}"


@router.post("/send")
def send_digest(operator: Operator, collection_id: RowId, recipients: FormField = "") -> Response:
    """Mail an issue now, and show the result."""
    try:
        issue = send_now(operator.actor, collection_id, _split_addresses(recipients))
    except (InvalidInput, NotFound) as error:
        return redirect(_path(collection_id), str(error))
    return redirect(_path(collection_id), _result(issue))


def _result(issue: IssueView) -> str:
    errors = [f"{mail.recipient}: {mail.error}" for mail in issue.mails if mail.error]
    sent = [mail.recipient for mail in issue.mails if mail.sent_at]
    waiting = len(issue.mails) - len(errors) - len(sent)
    lines = [f"Digest sent to {', '.join(sent)}."] if sent else []
    lines += errors[:3]
    lines += [f"{waiting} mails are sent within a minute."] if waiting else []
    return " ".join(lines)


@router.get("/remove")
def confirm_removal(request: Request, _: Operator, collection_id: RowId) -> Response:
    """Show what the removal does, and ask for confirmation."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        get_options(session, collection)
        return render(
            request,
            "confirm.html",
            heading=f"Remove the digest of {collection.name}?",
            text="Its recipients get no more mails, and its feed ends. The issues so far are deleted.",
            button="Remove",
            back=_path(collection_id),
        )


@router.post("/remove")
def delete_digest(operator: Operator, collection_id: RowId) -> Response:
    """Remove the digest."""
    with transaction() as session:
        remove_digest(session, operator.actor, get_collection(session, collection_id))
    return redirect(f"/collections/{collection_id}", "Digest removed.")


@router.get("/titles")
def show_titles(
    request: Request,
    _: Viewer,
    collection_id: RowId,
    section: SectionKind,
    first: date,
    last: date,
    offset: Offset = 0,
) -> Response:
    """Show all titles of a section in a period, a page at a time."""
    with transaction() as session:
        collection = get_collection(session, collection_id)
        titles = _read_titles(session, collection, section, Period(first, last), offset)
        next_offset = offset + _TITLES_PER_PAGE
        return render(
            request,
            "digest_titles.html",
            collection=collection,
            heading=f"{HEADINGS[section]}, {Period(first, last)}",
            total=titles.total,
            titles=titles.titles,
            query={"section": section.value, "first": first, "last": last},
            next_offset=next_offset if next_offset < titles.total else None,
        )


def _read_titles(
    session: Session, collection: Collection, kind: SectionKind, period: Period, offset: int
) -> Section:
    if period.first > period.last or period.last == date.max:
        raise InvalidInput("The days of the list are invalid: the first must not be after the last.")
    return read_section(session, collection, kind, period, limit=_TITLES_PER_PAGE, offset=offset)
