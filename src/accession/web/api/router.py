"""Router of the whole JSON API."""

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from accession.core.errors import InvalidInput
from accession.web.api import (
    audit,
    backfill,
    collections,
    configuration,
    control,
    digests,
    exports,
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
from accession.web.api.openapi import ERRORS_OF_ALL, problem_responses


def _refuse_unknown_parameters(request: Request) -> None:
    """Refuse query parameters that the endpoint does not have: without a misspelt one it does too much."""
    known: set[str] = set()
    for field in request.scope["route"].dependant.query_params:
        model = field.field_info.annotation
        is_model = isinstance(model, type) and issubclass(model, BaseModel)
        known.update(model.model_fields if is_model else [field.alias])
    for name in request.query_params:
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise InvalidInput(f"The parameter {name} is unknown: this operation has {names}.")


router = APIRouter(
    prefix="/api/v1",
    dependencies=[Depends(_refuse_unknown_parameters)],
    responses=problem_responses(*ERRORS_OF_ALL),
    generate_unique_id_function=lambda route: route.name,
)
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
    exports,
    reports,
    notifications,
    webhooks,
    users,
    audit,
    installation,
):
    router.include_router(module.router)
