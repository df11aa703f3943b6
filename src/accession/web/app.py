"""The web app: puts routers and middleware together."""

from fastapi import FastAPI

from accession import __version__


def create_app() -> FastAPI:
    """The app that serves dashboard, API and metrics."""
    return FastAPI(title="Accession", version=__version__, docs_url=None, redoc_url=None)
