"""Router of the whole JSON API."""

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from accession.web.api import (
    audit,
    backfill,
    collections,
    configuration,
    control,
    digests,
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
    webhooks,
)

# Only documents authentication in the OpenAPI document; `web.access` checks tokens.
_token = HTTPBearer(auto_error=False, description="A token created with `accession tokens add`.")

router = APIRouter(prefix="/api/v1", dependencies=[Depends(_token)])
for module in (
    control,
    backfill,
    collections,
    configuration,
    schedules,
    digests,
    verification,
    runs,
    titles,
    rejects,
    storage,
    reports,
    notifications,
    webhooks,
    users,
    audit,
    installation,
):
    router.include_router(module.router)
