"""Pages of rejected records: list, raw XML, retry and resolve."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import XmlLexer

from accession.accounts.collections import list_collections
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.catalog.rejected_records import (
    find_rejected_record,
    rejected_record_views,
    resolve_rejected_record,
)
from accession.core.errors import UserError
from accession.core.sanitize import sanitize_lines
from accession.db.engine import transaction
from accession.tasks.rejected_records import retry_rejected
from accession.web.pages.rendering import non_empty_parameters, redirect, render
from accession.web.parameters import FormCollection, Offset, RowId, collection_name, parse_collection_id
from accession.web.principal import Operator, Viewer

router = APIRouter(prefix="/rejected-records", include_in_schema=False)

_PAGE_SIZE = 50
_formatter = HtmlFormatter(cssclass="source", wrapcode=True)


@router.get("")
def list_rejected_records(
    request: Request,
    _: Viewer,
    collection: FormCollection = "",
    resolved: bool = False,
    offset: Offset = 0,
) -> Response:
    """List rejected records, oldest first."""
    with transaction() as session:
        records = rejected_record_views(
            session,
            collection=collection_name(session, parse_collection_id(collection)),
            with_resolved=resolved,
            limit=_PAGE_SIZE + 1,
            offset=offset,
        )
        return render(
            request,
            "rejects.html",
            records=records[:_PAGE_SIZE],
            collections=list_collections(session),
            filters=non_empty_parameters(collection=collection, resolved=resolved),
            next_offset=offset + _PAGE_SIZE if len(records) > _PAGE_SIZE else None,
        )


@router.get("/{record_id}")
def show_rejected_record(request: Request, _: Viewer, record_id: RowId) -> Response:
    """Show a rejected record with its raw XML."""
    with transaction() as session:
        record, raw_xml = find_rejected_record(session, record_id)
    # Pygments escapes the text that it highlights.
    source = Markup(highlight(sanitize_lines(raw_xml), XmlLexer(), _formatter))  # noqa: S704
    return render(request, "reject.html", record=record, source=source)


@router.post("/{record_id}/retry")
def retry_rejected_record(_: Operator, record_id: RowId) -> Response:
    """Import the record again, and show the result."""
    try:
        message = (
            "Record imported and resolved."
            if retry_rejected(record_id)
            else "Record rejected again: see the updated reason."
        )
    except (UserError, RemoteIntegrationException) as error:
        message = str(error)
    return redirect(f"/rejected-records/{record_id}", message)


@router.post("/{record_id}/resolve")
def resolve(_: Operator, record_id: RowId, note: Annotated[str, Form(max_length=2000)] = "") -> Response:
    """Resolve a record with a note, without importing it."""
    if not note.strip():
        return redirect(
            f"/rejected-records/{record_id}", "A note is required: explain why the record is resolved."
        )
    with transaction() as session:
        resolve_rejected_record(session, record_id, note.strip())
    return redirect(f"/rejected-records/{record_id}", "Record resolved.")
