"""Responses that are sent only if the client's copy is not current (RFC 9110, section 13)."""

import hashlib
import re
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from fastapi import Request
from fastapi.responses import Response


def conditional_response(
    request: Request, body: bytes, media_type: str, modified: datetime | None = None
) -> Response:
    """Return a document, or 304 if the client's copy is current."""
    headers = {
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        # Clients may cache the document but must revalidate it.
        "Cache-Control": "private, no-cache",
    }
    if modified is not None:
        headers["Last-Modified"] = format_datetime(modified.astimezone(UTC), usegmt=True)
    if _is_not_modified(request, headers["ETag"], modified):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=media_type)


def _is_not_modified(request: Request, etag: str, modified: datetime | None) -> bool:
    """Compare the ETag, or the modification time if the client sent no ETag."""
    client_etags = request.headers.get("if-none-match")
    if client_etags is not None:
        return client_etags.strip() == "*" or etag in re.findall(r'"[^"]*"', client_etags)
    try:
        since = parsedate_to_datetime(request.headers.get("if-modified-since", ""))
        return modified is not None and modified.replace(microsecond=0) <= since
    except (TypeError, ValueError, OverflowError):
        return False
