"""From what is shown to HTML: templates, and the words that they use."""

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
from accession.core.sanitize import harmless
from accession.web.pages.charts import bars, line, sparkline

_MESSAGE_COOKIE = "accession_message"
_SLOW = 10
_MINUTE, _HOUR, _DAY = 60, 60 * 60, 24 * 60 * 60


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _rate(per_second: float) -> str:
    """As "0.4/s", "12/s"."""
    return f"{per_second:.1f}/s" if per_second < _SLOW else f"{per_second:,.0f}/s"


def duration(seconds: float | None) -> str:
    """As "45 s", "3 min", "2 h 5 min", "4 d 2 h"."""
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


def _moment(value: datetime | None) -> Markup:
    """A moment in UTC, which the browser shows in the viewer's zone, with UTC on hover."""
    if value is None:
        return Markup("")
    utc = f"{value:%Y-%m-%d %H:%M} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(value.isoformat(), utc, utc)


def _shown(value: Any) -> str:
    """What the vendor said, on one line."""
    return "" if value is None else harmless(str(value))


_environment = Environment(
    loader=PackageLoader("accession.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "number": _number,
    "rate": _rate,
    "duration": duration,
    "moment": _moment,
    "shown": _shown,
    "zip": lambda first, second: list(zip(first, second, strict=True)),
}
_environment.globals |= {"bars": bars, "line": line, "sparkline": sparkline, "version": __version__}


def render(request: Request, template: str, *, status: int = HTTPStatus.OK, **shown: Any) -> Response:
    """The page; a message that was left for it is shown once."""
    message = request.cookies.get(_MESSAGE_COOKIE)
    html = _environment.get_template(template).render(
        request=request,
        principal=request.scope.get("state", {}).get("principal"),
        message=unquote(message) if message else None,
        **shown,
    )
    answer = HTMLResponse(html, status)
    if message:
        answer.delete_cookie(_MESSAGE_COOKIE, samesite="lax", httponly=True)
    return answer


def go_to(path: str, message: str | None = None) -> RedirectResponse:
    """Send the browser on, after something was done; the message is shown there."""
    answer = RedirectResponse(path, HTTPStatus.SEE_OTHER)
    if message:
        answer.set_cookie(_MESSAGE_COOKIE, quote(message), max_age=_MINUTE, samesite="lax", httponly=True)
    return answer


def query_of(**parameters: Any) -> Mapping[str, str]:
    """The parameters that say something."""
    return {name: str(value) for name, value in parameters.items() if value not in (None, "", False)}
