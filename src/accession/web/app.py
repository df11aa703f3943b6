"""The web app: puts routers, files and middleware together."""

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from accession import __version__
from accession.web import covers, health, login, metrics, oai, opds
from accession.web.access import install_access
from accession.web.api import router as api
from accession.web.pages import collections, exports, overview, rejects, runs, titles
from accession.web.requestlog import RequestLog

_PARTS = (
    api,
    login,
    overview,
    collections,
    runs,
    rejects,
    titles,
    exports,
    covers,
    health,
    metrics,
    oai,
    opds,
)


def create_app() -> FastAPI:
    """The app that serves dashboard, API, feeds and metrics, to those who may use it (`web.access`)."""
    app = FastAPI(
        title="Accession",
        version=__version__,
        summary="Keeps a library's catalogue in step with what it has bought from cloudLibrary.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    for part in _PARTS:
        app.include_router(part.router)
    # What ships in the wheel of starlette-admin: Tabler's style sheet and script.
    app.mount("/static/vendor", StaticFiles(packages=[("starlette_admin", "static")]))
    app.mount("/static", StaticFiles(packages=[("accession.web", "static")]))
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    install_access(app)
    # The outermost: what is refused is logged, too.
    app.add_middleware(RequestLog)
    return app
