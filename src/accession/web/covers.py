"""Covers: the vendor's pictures, fetched once and kept in the home, so that a browser asks nobody but us.

Where there is none, or the vendor's picture server cannot be reached, one is drawn.
"""

import hashlib
import socket
import time
from collections.abc import Iterator
from html import escape
from ipaddress import ip_address
from textwrap import wrap
from urllib.parse import urlsplit

import httpx
import structlog
from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy import select

from accession.core.sanitize import harmless
from accession.core.settings import get_settings
from accession.core.vocabulary import IdentifierType, LinkRel
from accession.db.engine import transaction
from accession.db.models import Collection, Edition, Identifier, Link
from accession.local.files import write_private
from accession.web.access import Viewer
from accession.web.api.titles import Identifier as TitleId

log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False)

_LARGEST = 5 * 1024 * 1024
_TIMEOUT = httpx.Timeout(5, connect=2)
_UNREACHABLE_SECONDS = 300.0
# What browsers draw and nobody can script, by its first bytes: what an answer calls itself may be wrong.
_KINDS = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
_KEPT = {"Cache-Control": "private, max-age=86400"}
_KEPT_A_WHILE = {"Cache-Control": "private, max-age=300"}
_LINE, _MOST_LINES = 14, 6

# Until when nothing is asked of a host that could not be reached, by monotonic time.
_unreachable: dict[str, float] = {}


@router.get("/covers/{identifier}")
def cover(_: Viewer, identifier: TitleId) -> Response:
    """The title's cover, or one that is drawn from its title."""
    title, href = _known(identifier)
    picture = _picture(href) if href else None
    if picture is not None:
        return Response(picture, media_type=_kind(picture), headers=_KEPT)
    return Response(
        _drawn(identifier, title or identifier), media_type="image/svg+xml", headers=_KEPT_A_WHILE
    )


def _known(identifier: str) -> tuple[str | None, str | None]:
    query = (
        select(Edition.title, Link.href)
        .join(Identifier, Edition.identifier_id == Identifier.id)
        .outerjoin(Link, (Link.edition_id == Edition.id) & (Link.rel == LinkRel.COVER))
        .where(Identifier.type.in_(IdentifierType), Identifier.identifier == identifier)
        .order_by(Link.href)
        .limit(1)
    )
    with transaction() as session:
        row = session.execute(query).one_or_none()
    return (row.title, row.href) if row else (None, None)


def _picture(href: str) -> bytes | None:
    """The picture at the address, from the home or else from there; None where there is none to be had."""
    kept = get_settings().home / "covers" / hashlib.sha256(href.encode()).hexdigest()
    if kept.exists():
        return kept.read_bytes()
    picture = _fetched(href)
    if picture is not None:
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        write_private(kept, picture)
    return picture


def _fetched(href: str) -> bytes | None:
    host = urlsplit(href).netloc
    if not _may_be_asked(href) or _unreachable.get(host, 0) > time.monotonic():
        return None
    try:
        with httpx.Client(timeout=_TIMEOUT, trust_env=False) as client, client.stream("GET", href) as answer:
            body = b"".join(_bounded(answer)) if answer.status_code == httpx.codes.OK else b""
    except httpx.HTTPError as error:
        log.info("covers cannot be fetched for a while", host=harmless(host), reason=type(error).__name__)
        _unreachable[host] = time.monotonic() + _UNREACHABLE_SECONDS
        return None
    return body if len(body) <= _LARGEST and _kind(body) else None


def _bounded(answer: httpx.Response) -> Iterator[bytes]:
    """The body, and no more than a little too much of it."""
    read = 0
    for part in answer.iter_bytes():
        yield part
        read += len(part)
        if read > _LARGEST:
            return


def _may_be_asked(href: str) -> bool:
    """Whether the address, which the vendor's documents give, leads to where a collection's vendor is, or
    safely out into the world: not to a machine that only this one can reach."""
    url = urlsplit(href)
    with transaction() as session:
        base_urls = session.scalars(select(Collection.base_url).distinct()).all()
    if f"{url.scheme}://{url.netloc}" in {base_url.rstrip("/") for base_url in base_urls}:
        return True
    return url.scheme == "https" and bool(url.hostname) and _is_public(url.hostname or "")


def _is_public(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ip_address(address[0]).is_global for *_, address in found)


def _kind(picture: bytes) -> str | None:
    return next((kind for begin, kind in _KINDS.items() if picture.startswith(begin)), None)


def _drawn(identifier: str, title: str) -> str:
    """A cover with the title on it, in a colour of its own."""
    hue = int(hashlib.sha256(identifier.encode()).hexdigest()[:4], 16) % 360
    lines = wrap(harmless(title), _LINE, max_lines=_MOST_LINES, placeholder=" …")
    words = "".join(
        f'<text x="12" y="{48 + 20 * index}">{escape(text)}</text>' for index, text in enumerate(lines)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 240">'
        f'<rect width="160" height="240" fill="hsl({hue} 45% 32%)"/>'
        f'<rect x="0" width="5" height="240" fill="hsl({hue} 45% 24%)"/>'
        f'<g fill="#fff" font-family="Georgia, serif" font-size="16">{words}</g></svg>'
    )
