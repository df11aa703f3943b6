"""All of the API."""

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from accession.web.api import collections, rejects, runs, titles

# It is `web.access` that looks at tokens; this has the document say so.
_token = HTTPBearer(auto_error=False, description="A token of `accession tokens add`.")

router = APIRouter(prefix="/api/v1", dependencies=[Depends(_token)])
for part in (collections, runs, titles, rejects):
    router.include_router(part.router)
