"""Error responses: problem details for programs, an HTML page for people."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Mount

from accession.web.addresses import route_path
from accession.web.errors import problem_from_error, problem_response
from accession.web.pages.rendering import render

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_MACHINE_PATHS = ("/api", "/digests", "/metrics", "/oai", "/opds")


def is_machine_path(path: str) -> bool:
    """Return whether the path is requested by programs rather than by people."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in _MACHINE_PATHS)


def error_response(request: Request, error: Exception) -> Response:
    """Return the response to a request that failed with the error."""
    problem = problem_from_error(error)
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
        problem.headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
    if is_machine_path(route_path(request.scope)) or "authorization" in request.headers:
        return problem_response(problem)
    title = HTTPStatus(problem.status).phrase.capitalize()
    response = render(request, "error.html", status=problem.status, title=title, problem=problem)
    response.headers.update(problem.headers)
    return response


def _allowed_methods(request: Request) -> set[str]:
    """Return the methods of all routes of a path; the error itself names those of the first one only."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    scopes = ({**request.scope, "method": method} for method in _METHODS)
    allowed = {
        scope["method"] for scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in routes)
    }
    # A path without a route is a static file.
    return allowed | {"GET", "HEAD"} if "GET" in allowed or not allowed else allowed
