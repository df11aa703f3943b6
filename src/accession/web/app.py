"""The web app: puts routers and middleware together."""

from fastapi import FastAPI

from accession import __version__
from accession.web import login
from accession.web.access import install_access


def create_app() -> FastAPI:
    """The app that serves dashboard, API and metrics, to those who may use it (`web.access`)."""
    app = FastAPI(title="Accession", version=__version__, docs_url=None, redoc_url=None)
    app.include_router(login.router)
    install_access(app)
    return app
