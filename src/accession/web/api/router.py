"""Router of the whole JSON API."""

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from accession.web.api import (
    audit,
    backfill,
    collections,
    control,
    installation,
    notifications,
    rejects,
    reports,
    runs,
    schedules,
    storage,
    titles,
    users,
    verification,
)

# Only documents authentication in the OpenAPI document; `web.access` checks tokens.
_token = HTTPBearer(auto_error=False, description="A token created with `accession tokens add`.")

router = APIRouter(prefix="/api/v1", dependencies=[Depends(_token)])
for module in (
    control,
    backfill,
    collections,
    schedules,
    verification,
    runs,
    titles,
    rejects,
    storage,
    reports,
    notifications,
    users,
    audit,
    installation,
):
    router.include_router(module.router)
