"""How a request is refused: problem details (RFC 9457) for programs, a page for people."""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.templating import Jinja2Templates

_FOR_PROGRAMS = ("/api", "/metrics", "/oai", "/opds")

templates = Jinja2Templates(Path(__file__).parent / "templates")


class Refused(Exception):
    """A request that is not granted; `install_access` turns it into its answer."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """`detail` is the sentence that says why, and what to do."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def is_for_programs(path: str) -> bool:
    """Whether programs rather than people ask for this path."""
    return any(path == place or path.startswith(f"{place}/") for place in _FOR_PROGRAMS)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Problem details: the status's own title, and a sentence."""
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def refusal(request: Request, refused: Refused) -> Response:
    """The answer to a request that is refused, in the form that whoever asks can read."""
    if is_for_programs(request.scope["path"]) or "authorization" in request.headers:
        return problem(refused.status, refused.detail, refused.headers)
    context = {"title": HTTPStatus(refused.status).phrase, "detail": refused.detail}
    return templates.TemplateResponse(request, "refused.html", context, refused.status, refused.headers)
