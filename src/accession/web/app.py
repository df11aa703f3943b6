"""The web app: puts routers, files and errors together."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from accession import __version__
from accession.web import covers
from accession.web.api import router as api
from accession.web.pages import collections, overview, rejects, runs, titles
from accession.web.pages.rendering import render
from accession.web.problems import answer_problem, as_problem

_FOR_PROGRAMS = ("/api/", "/metrics", "/healthz", "/readyz")
_TOLD = (HTTPException, RequestValidationError, Exception)


def create_app() -> FastAPI:
    """The app that serves dashboard, API and metrics."""
    app = FastAPI(
        title="Accession",
        version=__version__,
        summary="Keeps a library's catalogue in step with what it has bought from cloudLibrary.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    for part in (
        api.router,
        overview.router,
        collections.router,
        runs.router,
        rejects.router,
        titles.router,
        covers.router,
    ):
        app.include_router(part)
    # What ships in the wheel of starlette-admin: Tabler's style sheet and script.
    app.mount("/static/vendor", StaticFiles(packages=[("starlette_admin", "static")]))
    app.mount("/static", StaticFiles(packages=[("accession.web", "static")]))
    for kind in _TOLD:
        app.add_exception_handler(kind, _answer_error)
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    """A problem for programs, a page for people."""
    if request.url.path.startswith(_FOR_PROGRAMS):
        return await answer_problem(request, error)
    told = as_problem(error)
    if told is None:
        # uvicorn logs it once it has risen.
        told = HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong in Accession: its log says what.", None
    status, detail, _ = told
    title = HTTPStatus(status).phrase
    return render(request, "error.html", status=status, number=int(status), title=title, detail=detail)
