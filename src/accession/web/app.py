"""The web app: puts routers and middleware together."""

from fastapi import FastAPI

from accession import __version__
from accession.web import health, metrics
from accession.web.requestlog import RequestLog


def create_app() -> FastAPI:
    """The app that serves dashboard, API and metrics."""
    app = FastAPI(title="Accession", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(RequestLog)
    for part in (health, metrics):
        app.include_router(part.router)
    return app
