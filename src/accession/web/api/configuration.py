"""API endpoints under `/configuration`: plan, apply and export a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from accession.configuration.applying import apply_configuration
from accession.configuration.changes import Action
from accession.configuration.documents import parse_document
from accession.configuration.export import export_configuration
from accession.configuration.loading import Configuration, load_configuration
from accession.configuration.model import ConfigurationFile
from accession.configuration.planning import Plan, make_plan
from accession.configuration.references import remote_reader
from accession.db.engine import snapshot
from accession.web.api.schemas import problem_responses
from accession.web.principal import Administrator

router = APIRouter(prefix="/configuration", tags=["configuration"])

_TOML = "application/toml"
_SCHEMA = {"$ref": "#/components/schemas/ConfigurationFile"}
# The body is read as it is, to report all mistakes with their lines.
_REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "description": f"The configuration as JSON or YAML, or as TOML with the media type {_TOML}.",
        "required": True,
        "content": {"application/json": {"schema": _SCHEMA}, "application/yaml": {"schema": _SCHEMA}},
    }
}


@dataclass(frozen=True)
class ChangeView:
    """A difference between a configuration and the installation; `details` has no secrets."""

    action: Action
    description: str
    details: Mapping[str, str]


@dataclass(frozen=True)
class PlanView:
    """Changes that make the installation equal to a configuration.

    `notes` say what stays as it is although the configuration differs.
    """

    changes: list[ChangeView]
    notes: list[str]


Prune = Annotated[
    bool,
    Query(
        description="Mark collections for deletion, and remove channels and rules, that are absent from the "
        "lists in the configuration."
    ),
]


async def _read_configuration(request: Request) -> Configuration:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    name = "request.toml" if media_type == _TOML else "request"
    return load_configuration([parse_document(name, await request.body())])


Body = Annotated[Configuration, Depends(_read_configuration)]


@router.get("", response_model_exclude_unset=True, responses=problem_responses(403))
def export(_: Administrator) -> ConfigurationFile:
    """Return all collections and notifications as a configuration.

    It has no secrets: environment variables stand for the account keys and the URLs of channels.
    """
    with snapshot() as session:
        return ConfigurationFile.model_validate(export_configuration(session))


@router.post("/plan", openapi_extra=_REQUEST_BODY, responses=problem_responses(403, 409))
def plan(_: Administrator, configuration: Body, prune: Prune = False) -> PlanView:
    """Compare a configuration with the installation, and change nothing."""
    with snapshot() as session:
        return _view(make_plan(session, configuration, remote_reader(), prune=prune))


@router.post("/apply", openapi_extra=_REQUEST_BODY, responses=problem_responses(403, 409, 503))
def apply(administrator: Administrator, configuration: Body, prune: Prune = False) -> PlanView:
    """Make the installation equal to a configuration, and return what was changed: all of it or nothing.

    Of the secrets that it names, only files in the folder of the setting `configuration_secrets_dir` are
    read. Other stored secrets stay as they are.
    """
    return _view(apply_configuration(administrator.actor, configuration, remote_reader(), prune=prune))


def _view(plan: Plan) -> PlanView:
    views = [ChangeView(change.action, change.description, change.details) for change in plan.changes]
    return PlanView(views, list(plan.notes))
