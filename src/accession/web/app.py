"""The FastAPI application: routers, static files and middleware."""

from fastapi import FastAPI
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from accession import __version__
from accession.web import covers, health, login, metrics, oai, opds
from accession.web.access import install_access
from accession.web.api import router as api
from accession.web.errors import MAX_BODY_BYTES
from accession.web.pages import (
    audit,
    backfill,
    collections,
    control,
    exports,
    installation,
    notifications,
    overview,
    rejects,
    reports,
    runs,
    schedules,
    storage,
    titles,
    tokens,
    users,
    verification,
)
from accession.web.request_log import RequestLog

_ROUTER_MODULES = (
    api,
    login,
    overview,
    control,
    backfill,
    collections,
    schedules,
    verification,
    runs,
    rejects,
    titles,
    reports,
    exports,
    notifications,
    users,
    tokens,
    audit,
    installation,
    storage,
    covers,
    health,
    metrics,
    oai,
    opds,
)


def create_app() -> FastAPI:
    """Return the app that serves dashboard, API, feeds, metrics and health checks."""
    app = FastAPI(
        title="Accession",
        version=__version__,
        summary="Keeps a library's catalogue in step with its cloudLibrary purchases.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    for module in _ROUTER_MODULES:
        app.include_router(module.router)
    # Tabler's style sheet and script come with the starlette-admin wheel.
    app.mount("/static/vendor", StaticFiles(packages=[("starlette_admin", "static")]))
    app.mount("/static", StaticFiles(packages=[("accession.web", "static")]))
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY_BYTES)
    install_access(app)
    # The outermost: rejected requests are logged too.
    app.add_middleware(RequestLog)
    return app
