"""Rejected records: why, what the vendor sent, another try, and an end to it."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import XmlLexer

from accession.accounts.collections import collections_in_use
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.catalog.rejected_records import reject_view, reject_views, resolve_rejected
from accession.core.errors import UserError
from accession.core.sanitize import harmless_lines
from accession.db.engine import transaction
from accession.tasks.rejects import retry_rejected
from accession.web.access import Operator, Viewer
from accession.web.api.answers import LARGEST_ID, Id
from accession.web.lists import Chosen, chosen, name_of
from accession.web.pages.rendering import go_to, query_of, render

router = APIRouter(prefix="/rejected-records", include_in_schema=False)

_PAGE = 50
_formatter = HtmlFormatter(cssclass="source", wrapcode=True)


@router.get("")
def list_rejected(
    request: Request,
    _: Viewer,
    collection: Chosen = "",
    resolved: bool = False,
    offset: Annotated[int, Query(ge=0, le=LARGEST_ID)] = 0,
) -> Response:
    """Rejected records, oldest first."""
    with transaction() as session:
        name = name_of(session, chosen(collection))
        found = reject_views(session, collection=name, with_resolved=resolved, limit=_PAGE + 1, offset=offset)
        return render(
            request,
            "rejects.html",
            rejects=found[:_PAGE],
            collections=collections_in_use(session),
            filters=query_of(collection=collection, resolved=resolved),
            next_offset=offset + _PAGE if len(found) > _PAGE else None,
        )


@router.get("/{record_id}")
def show_rejected(request: Request, _: Viewer, record_id: Id) -> Response:
    """A rejected record as the vendor sent it."""
    with transaction() as session:
        record, raw_xml = reject_view(session, record_id)
    # Pygments escapes what it colours.
    source = Markup(highlight(harmless_lines(raw_xml), XmlLexer(), _formatter))  # noqa: S704
    return render(request, "reject.html", record=record, source=source)


@router.post("/{record_id}/retry")
def retry(_: Operator, record_id: Id) -> Response:
    """Run the record through the import again."""
    try:
        said = (
            "The record has passed and is resolved."
            if retry_rejected(record_id)
            else "The record cannot be used yet: see its reason."
        )
    except (UserError, RemoteIntegrationException) as error:
        said = str(error)
    return go_to(f"/rejected-records/{record_id}", said)


@router.post("/{record_id}/resolve")
def resolve(_: Operator, record_id: Id, note: Annotated[str, Form(max_length=2000)] = "") -> Response:
    """Resolve a record by a note."""
    if not note.strip():
        return go_to(f"/rejected-records/{record_id}", "Say in a note why nothing more is to be done.")
    with transaction() as session:
        resolve_rejected(session, record_id, note.strip())
    return go_to(f"/rejected-records/{record_id}", "The record is resolved.")
