"""Pages of rejected records: reasons, list, raw XML and differences, retry and resolve."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import XmlLexer

from accession.accounts.collections import list_collections
from accession.bibliotheca.errors import RemoteIntegrationException
from accession.catalog.record_diff import diff_with_stored_record
from accession.catalog.rejected_records import (
    find_rejected_record,
    open_rejection_reasons,
    rejected_record_views,
)
from accession.core.errors import UserError
from accession.core.sanitize import sanitize_lines
from accession.db.engine import transaction
from accession.web.pages.rendering import non_empty_parameters, redirect, render
from accession.web.parameters import (
    MAX_ID,
    NO_NUL,
    FormCollection,
    FormDate,
    Offset,
    RejectionReason,
    RowId,
    collection_name,
    parse_collection_id,
)
from accession.web.principal import Operator, Viewer
from accession.web.rejected_records import (
    OpenRecords,
    resolve_record,
    resolve_records,
    retry_record,
    retry_records,
)

router = APIRouter(prefix="/rejected-records", include_in_schema=False)

Note = Annotated[str, Form(max_length=2000)]
ReasonField = Annotated[str, Form(max_length=2000, pattern=NO_NUL)]
FormCollectionField = Annotated[str, Form(max_length=10, pattern=r"^\d*$")]

_PAGE_SIZE = 50
_NOTE_REQUIRED = "A note is required: explain why nothing is left to do."
_formatter = HtmlFormatter(cssclass="source", wrapcode=True)


@router.get("")
def list_rejected_records(
    request: Request,
    _: Viewer,
    collection: FormCollection = "",
    reason: RejectionReason = "",
    received_from: FormDate = "",
    resolved: bool = False,
    offset: Offset = 0,
) -> Response:
    """List the reasons of open records, and the records, oldest first."""
    filters = non_empty_parameters(
        collection=collection, reason=reason, received_from=received_from, resolved=resolved
    )
    with transaction() as session:
        name = collection_name(session, parse_collection_id(collection))
        records = rejected_record_views(
            session,
            collection=name,
            with_resolved=resolved,
            reason=reason or None,
            received_from=received_from or None,
            limit=_PAGE_SIZE + 1,
            offset=offset,
        )
        reasons = open_rejection_reasons(session, collection=name)
        return render(
            request,
            "rejects.html",
            records=records[:_PAGE_SIZE],
            reasons=reasons,
            selected=next((each for each in reasons if each.reason == reason), None),
            collections=list_collections(session),
            filters=filters,
            next_offset=offset + _PAGE_SIZE if len(records) > _PAGE_SIZE else None,
        )


@router.post("/retry")
def retry_many(
    operator: Operator,
    last_id: Annotated[int, Form(ge=1, le=MAX_ID)],
    collection: FormCollectionField = "",
    reason: ReasonField = "",
) -> Response:
    """Queue the retry of all open records with a reason."""
    number = retry_records(operator, OpenRecords(parse_collection_id(collection), reason or None, last_id))
    return redirect("/rejected-records", f"Retry queued: {number:,} record{'' if number == 1 else 's'}.")


@router.post("/resolve")
def resolve_many(
    operator: Operator,
    last_id: Annotated[int, Form(ge=1, le=MAX_ID)],
    collection: FormCollectionField = "",
    reason: ReasonField = "",
    note: Note = "",
) -> Response:
    """Resolve all open records with a reason, with a note."""
    if not note.strip():
        path = f"/rejected-records?{urlencode(non_empty_parameters(collection=collection, reason=reason))}"
        return redirect(path, _NOTE_REQUIRED)
    selection = OpenRecords(parse_collection_id(collection), reason or None, last_id)
    with transaction() as session:
        number = resolve_records(session, operator, selection, note.strip())
    return redirect("/rejected-records", f"{number:,} record{'' if number == 1 else 's'} resolved.")


@router.get("/{record_id}")
def show_rejected_record(request: Request, _: Viewer, record_id: RowId) -> Response:
    """Show a rejected record with its raw XML, and how it differs from the stored record of its title."""
    with transaction() as session:
        record, raw_xml = find_rejected_record(session, record_id)
        diff = diff_with_stored_record(session, record_id)
    # Pygments escapes the text that it highlights.
    source = Markup(highlight(sanitize_lines(raw_xml), XmlLexer(), _formatter)) if raw_xml else None  # noqa: S704
    return render(request, "reject.html", record=record, source=source, diff=diff)


@router.post("/{record_id}/retry")
def retry_rejected_record(operator: Operator, record_id: RowId) -> Response:
    """Import the record again, and show the result."""
    try:
        message = (
            "Record imported and resolved."
            if retry_record(operator, record_id)
            else "Record rejected again: see the updated reason."
        )
    except UserError as error:
        message = str(error)
    except RemoteIntegrationException as error:
        message = error.sentence
    return redirect(f"/rejected-records/{record_id}", message)


@router.post("/{record_id}/resolve")
def resolve(operator: Operator, record_id: RowId, note: Note = "") -> Response:
    """Resolve a record with a note, without importing it."""
    if not note.strip():
        return redirect(f"/rejected-records/{record_id}", _NOTE_REQUIRED)
    with transaction() as session:
        resolve_record(session, operator, record_id, note.strip())
    return redirect(f"/rejected-records/{record_id}", "Record resolved.")
