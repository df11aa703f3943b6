"""The FastAPI application: routers, static files and middleware."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from accession import __version__
from accession.web import atom, covers, health, login, metrics, oai, oidc_login, opds, opds_authentication
from accession.web.access import install_access
from accession.web.addresses import RootPath
from accession.web.api import router as api
from accession.web.api.openapi import DESCRIPTION, TAGS, complete_document
from accession.web.errors import MAX_BODY_BYTES
from accession.web.head_requests import HeadRequests
from accession.web.pages import (
    audit,
    backfill,
    collections,
    configuration,
    control,
    digests,
    exports,
    installation,
    notifications,
    overview,
    rejects,
    reports,
    run,
    runs,
    schedules,
    storage,
    titles,
    tokens,
    users,
    verification,
    webhooks,
)
from accession.web.request_log import RequestLog

ROUTER_MODULES = (
    api,
    login,
    oidc_login,
    overview,
    control,
    backfill,
    collections,
    configuration,
    schedules,
    digests,
    verification,
    runs,
    run,
    rejects,
    titles,
    reports,
    exports,
    notifications,
    webhooks,
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
    opds_authentication,
    atom,
)


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document of the API."""
        if self.openapi_schema is None:
            complete_document(super().openapi())
        return super().openapi()


def create_app() -> FastAPI:
    """Return the app that serves dashboard, API, feeds, metrics and health checks."""
    app = _App(
        title="Accession",
        version=__version__,
        summary="Keeps a library's catalogue in step with its cloudLibrary purchases.",
        description=DESCRIPTION,
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    for module in ROUTER_MODULES:
        app.include_router(module.router)
    # Tabler's style sheet and script come with the starlette-admin wheel.
    app.mount("/static/vendor", StaticFiles(packages=[("starlette_admin", "static")]))
    app.mount("/static", StaticFiles(packages=[("accession.web", "static")]))
    # The innermost: compression would wait for the body.
    app.add_middleware(HeadRequests)
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=MAX_BODY_BYTES)
    install_access(app)
    # Rejected requests are logged too.
    app.add_middleware(RequestLog)
    # The outermost: all others need the paths of routes.
    app.add_middleware(RootPath)
    return app
