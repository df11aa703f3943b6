"""Router of the whole JSON API."""

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from accession.web.api import collections, rejects, runs, titles, verification

# Only documents authentication in the OpenAPI document; `web.access` checks tokens.
_token = HTTPBearer(auto_error=False, description="A token created with `accession tokens add`.")

router = APIRouter(prefix="/api/v1", dependencies=[Depends(_token)])
for module in (collections, verification, runs, titles, rejects):
    router.include_router(module.router)
