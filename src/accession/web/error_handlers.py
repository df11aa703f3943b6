"""Error responses: problem details for programs, an HTML page for people."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from accession.web.errors import problem_from_error, problem_response
from accession.web.pages.rendering import render

_MACHINE_PATHS = ("/api", "/metrics", "/oai", "/opds")


def is_machine_path(path: str) -> bool:
    """Return whether the path is requested by programs rather than by people."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in _MACHINE_PATHS)


def error_response(request: Request, error: Exception) -> Response:
    """Return the response to a request that failed with the error."""
    problem = problem_from_error(error)
    if is_machine_path(request.scope["path"]) or "authorization" in request.headers:
        return problem_response(problem)
    title = HTTPStatus(problem.status).phrase
    response = render(request, "error.html", status=problem.status, title=title, problem=problem)
    response.headers.update(problem.headers)
    return response
