"""Cover images: fetched once from the vendor and cached in the home folder, or drawn from the title.

Browsers load covers from this server only. A cover is drawn if there is none, or if it cannot be fetched.
"""

import hashlib
import itertools
import os
import time
from contextlib import suppress
from html import escape
from pathlib import Path
from textwrap import wrap

import httpx
import structlog
from fastapi import APIRouter
from fastapi.responses import Response

from accession.catalog.covers import CoverSource, find_cover_source, vendor_base_urls
from accession.core.outgoing_http import (
    CheckedTransport,
    is_allowed_for_operators,
    is_public_address,
    limited_body,
)
from accession.core.sanitize import sanitize
from accession.core.settings import get_settings
from accession.db.engine import transaction
from accession.local.files import write_private_file
from accession.web.parameters import TitleId
from accession.web.plain_covers import draw_plain_cover
from accession.web.principal import Viewer

log = structlog.get_logger(__name__)

router = APIRouter(include_in_schema=False)

_MAX_IMAGE_BYTES = 5 * 1024 * 1024
_TIMEOUT = httpx.Timeout(5, connect=2)
_LIFETIME_SECONDS = 15.0
# A compressed response could be much larger than what is received.
_HEADERS = {"Accept-Encoding": "identity"}
_UNREACHABLE_SECONDS = 300.0
# Image types without scripts, by their first bytes: the Content-Type of the response may be wrong.
_MEDIA_TYPES = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
_CACHE_FETCHED = {"Cache-Control": "private, max-age=86400"}
_CACHE_DRAWN = {"Cache-Control": "private, max-age=300"}
_LINE_LENGTH, _MAX_LINES = 14, 6

_IMAGES_PER_PRUNING = 500
_DAY_SECONDS = 24 * 60 * 60
_stored_images = itertools.count()

# Hosts that could not be reached, and until when not to try again (monotonic time in seconds).
_unreachable_until: dict[str, float] = {}


@router.get("/covers/{identifier}")
def show_cover(_: Viewer, identifier: TitleId) -> Response:
    """Return the title's cover, or a drawing with the title on it."""
    with transaction() as session:
        source = find_cover_source(session, identifier)
    drawing = _draw_cover(identifier, source.title or identifier)
    return _fetched_cover(source) or Response(drawing, media_type="image/svg+xml", headers=_CACHE_DRAWN)


def bitmap_cover_response(identifier: str) -> Response:
    """Return the title's cover as a response, or a plain PNG: reading apps reject titles with only an SVG."""
    with transaction() as session:
        source = find_cover_source(session, identifier)
    plain = draw_plain_cover(_hue(identifier))
    return _fetched_cover(source) or Response(plain, media_type="image/png", headers=_CACHE_DRAWN)


def _fetched_cover(source: CoverSource) -> Response | None:
    image = _load_image(source.url) if source.url else None
    if image is None:
        return None
    return Response(image, media_type=_media_type(image), headers=_CACHE_FETCHED)


def _load_image(url: str) -> bytes | None:
    """Return the image from the cache, or fetch and cache it; None when it cannot be fetched."""
    cached = get_settings().home / "covers" / hashlib.sha256(url.encode()).hexdigest()
    if cached.exists():
        return cached.read_bytes()
    image = _fetch_image(url)
    if image is not None:
        cached.parent.mkdir(mode=0o700, exist_ok=True)
        write_private_file(cached, image)
        if next(_stored_images) % _IMAGES_PER_PRUNING == 0:
            _delete_old_images(cached.parent)
    return image


def _delete_old_images(folder: Path) -> None:
    """Delete the images that were fetched so long ago that the cache need not keep them any more."""
    days = get_settings().retention_days_covers
    with os.scandir(folder) as entries:
        for entry in entries:
            # Another process may have deleted it.
            with suppress(FileNotFoundError):
                if days and time.time() - entry.stat(follow_symlinks=False).st_mtime > days * _DAY_SECONDS:
                    os.unlink(entry.path)


def _fetch_image(address: str) -> bytes | None:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        return None
    host = url.netloc.decode()
    if _unreachable_until.get(host, 0) > time.monotonic() or (transport := _transport_to(url)) is None:
        return None
    try:
        with (
            httpx.Client(transport=transport, timeout=_TIMEOUT) as client,
            client.stream("GET", url, headers=_HEADERS) as response,
        ):
            is_image = response.status_code == httpx.codes.OK
            body = b"".join(limited_body(response, _MAX_IMAGE_BYTES)) if is_image else b""
    except httpx.HTTPError as error:
        log.info("cover host unreachable", host=sanitize(host), reason=type(error).__name__)
        _unreachable_until[host] = time.monotonic() + _UNREACHABLE_SECONDS
        return None
    return body if len(body) <= _MAX_IMAGE_BYTES and _media_type(body) else None


def _transport_to(url: httpx.URL) -> CheckedTransport | None:
    """Return the transport for a URL of a collection's vendor, or an https URL; None for others.

    The URL comes from the vendor's documents: it must not reach hosts on a private network (SSRF).
    """
    with transaction() as session:
        vendor_urls = [httpx.URL(base_url) for base_url in vendor_base_urls(session)]
    if any(_origin(url) == _origin(vendor_url) for vendor_url in vendor_urls):
        return CheckedTransport(is_allowed_for_operators, lifetime_seconds=_LIFETIME_SECONDS)
    if url.scheme == "https":
        return CheckedTransport(is_public_address, lifetime_seconds=_LIFETIME_SECONDS)
    return None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _media_type(image: bytes) -> str | None:
    return next((name for magic, name in _MEDIA_TYPES.items() if image.startswith(magic)), None)


def _draw_cover(identifier: str, title: str) -> str:
    """Return an SVG cover with the title on it; its colour depends on the identifier."""
    hue = _hue(identifier)
    lines = wrap(sanitize(title), _LINE_LENGTH, max_lines=_MAX_LINES, placeholder=" …")
    texts = "".join(
        f'<text x="12" y="{48 + 20 * index}">{escape(text)}</text>' for index, text in enumerate(lines)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 240">'
        f'<rect width="160" height="240" fill="hsl({hue} 45% 32%)"/>'
        f'<rect x="0" width="5" height="240" fill="hsl({hue} 45% 24%)"/>'
        f'<g fill="#fff" font-family="Georgia, serif" font-size="16">{texts}</g></svg>'
    )


def _hue(identifier: str) -> int:
    return int(hashlib.sha256(identifier.encode()).hexdigest()[:4], 16) % 360
