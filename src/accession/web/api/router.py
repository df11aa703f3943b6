"""All of the API."""

from fastapi import APIRouter

from accession.web.api import collections, rejects, runs, titles

router = APIRouter(prefix="/api/v1")
for part in (collections, runs, titles, rejects):
    router.include_router(part.router)
