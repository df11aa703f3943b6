"""Rendering of pages: the Jinja environment, its filters, and one-time messages."""

import re
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from accession import __version__
from accession.bibliotheca.errors import problem_of
from accession.core.byte_sizes import format_bytes, format_growth
from accession.core.clock import utc_now
from accession.core.labels import value_label
from accession.core.sanitize import sanitize
from accession.exports.selection import describe_since
from accession.web.addresses import cookie_name, cookie_path, redirect_to, root, route_path
from accession.web.pages.charts import bar_chart, line_chart, share_chart, sparkline

_MESSAGE_COOKIE = "accession_message"
_JOINER = re.compile("([\u200c\u200d])")
_MIN_WHOLE_RATE = 10
_MIN_WHOLE_SECONDS = 10
_MINUTE, _HOUR, _DAY = 60, 60 * 60, 24 * 60 * 60
_YEAR = 365 * _DAY


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _format_rate(per_second: float) -> str:
    """Return a rate such as "0.4/s" or "12/s"."""
    return f"{per_second:.1f}/s" if per_second < _MIN_WHOLE_RATE else f"{per_second:,.0f}/s"


def format_duration(seconds: float | None) -> str:
    """Return a duration such as "45 s", "3 min", "2 h 5 min" or "4 d 2 h"."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def format_seconds(seconds: float) -> str:
    """Return a short duration such as "0 ms", "320 ms", "4.2 s", "45 s" or "3 min 20 s"."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < _MIN_WHOLE_SECONDS:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if _MINUTE <= whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return format_duration(seconds)


def _format_time(value: datetime | None) -> Markup:
    """Return a `time` element in UTC; a script shows it in the viewer's time zone, with UTC on hover."""
    if value is None:
        return Markup("")
    utc = f"{value:%Y-%m-%d %H:%M} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(value.isoformat(), utc, utc)


def _format_precise_time(value: datetime) -> Markup:
    """Return a `time` element with seconds, else as that of `_format_time`."""
    utc = f"{value:%Y-%m-%d %H:%M:%S} UTC"
    element = Markup('<time datetime="{}" title="{}" data-seconds>{}</time>')
    return element.format(value.isoformat(), utc, utc)


def _format_rough_duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as "12 min", "3 h" or "5 d"."""
    for unit, length in (("y", _YEAR), ("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return "1 min"


def _format_age(value: datetime | None) -> Markup:
    """Return a `time` element with the distance from now, such as "3 h ago"; the time itself is on hover."""
    if value is None:
        return Markup("")
    seconds = (value - utc_now()).total_seconds()
    distance = _format_rough_duration(abs(seconds))
    is_recent = -_MINUTE < seconds <= 0
    text = "just now" if is_recent else f"in {distance}" if seconds > 0 else f"{distance} ago"
    utc = f"{value:%Y-%m-%d %H:%M} UTC"
    element = Markup('<time datetime="{}" title="{}" data-relative>{}</time>')
    return element.format(value.isoformat(), utc, text)


def _format_text(value: Any) -> str:
    """Return text from the vendor on one line, without control characters, but with joiners of letters."""
    parts = _JOINER.split("" if value is None else str(value))
    return "".join(part if _JOINER.fullmatch(part) else sanitize(part) for part in parts)


def _format_code(value: str) -> Markup:
    """Return text whose parts in backticks are code."""
    parts = value.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts)
    )


_environment = Environment(
    loader=PackageLoader("accession.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "number": _format_number,
    "bytes": format_bytes,
    "growth": format_growth,
    "rate": _format_rate,
    "duration": format_duration,
    "seconds": format_seconds,
    "time": _format_time,
    "age": _format_age,
    "precise_time": _format_precise_time,
    "plain": _format_text,
    "code": _format_code,
    "label": lambda value, field: "" if value is None else value_label(field, value),
    "problem": problem_of,
    "since": describe_since,
    "zip": lambda first, second: list(zip(first, second, strict=True)),
}
_environment.globals |= {
    "bar_chart": bar_chart,
    "line_chart": line_chart,
    "root": root,
    "share_chart": share_chart,
    "sparkline": sparkline,
    "version": __version__,
}


def render(request: Request, template: str, *, status: int = HTTPStatus.OK, **context: Any) -> Response:
    """Return the rendered page; a message left by `redirect` is shown once."""
    cookie = cookie_name(_MESSAGE_COOKIE)
    message = request.cookies.get(cookie)
    html = _environment.get_template(template).render(
        current_path=route_path(request.scope),
        principal=request.scope.get("state", {}).get("principal"),
        message=unquote(message) if message else None,
        **context,
    )
    response = HTMLResponse(html, status)
    if message:
        response.delete_cookie(cookie, path=cookie_path(), samesite="lax", httponly=True)
    return response


def redirect(path: str, message: str) -> RedirectResponse:
    """Redirect after a form was processed; the message is shown on the next page."""
    response = redirect_to(path)
    name, value = cookie_name(_MESSAGE_COOKIE), quote(message)
    response.set_cookie(name, value, _MINUTE, path=cookie_path(), samesite="lax", httponly=True)
    return response


def non_empty_parameters(**parameters: Any) -> Mapping[str, str]:
    """Return the query parameters that have a value, as strings."""
    return {name: str(value) for name, value in parameters.items() if value not in (None, "", False)}
