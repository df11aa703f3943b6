"""How a request that is not done is answered: problem details for programs, a page for people."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from accession.web.pages.rendering import render
from accession.web.problems import problem, refused_by

_FOR_PROGRAMS = ("/api", "/metrics", "/oai", "/opds")


def is_for_programs(path: str) -> bool:
    """Whether programs rather than people ask for this path."""
    return any(path == place or path.startswith(f"{place}/") for place in _FOR_PROGRAMS)


def refusal(request: Request, error: Exception) -> Response:
    """The answer to a request that met the error, in the form that whoever asks can read."""
    refused = refused_by(error)
    if is_for_programs(request.scope["path"]) or "authorization" in request.headers:
        return problem(refused)
    title = HTTPStatus(refused.status).phrase
    answer = render(request, "error.html", status=refused.status, title=title, refused=refused)
    answer.headers.update(refused.headers)
    return answer
