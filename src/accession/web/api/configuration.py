"""API endpoints under `/configuration`: plan, apply and export a configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from accession.configuration import applying, export
from accession.configuration.changes import Action
from accession.configuration.documents import parse_document
from accession.configuration.loading import Configuration, load_configuration
from accession.configuration.model import ConfigurationFile
from accession.configuration.planning import Plan, make_plan
from accession.configuration.references import remote_reader
from accession.core.errors import InvalidInput
from accession.db.engine import snapshot
from accession.web.api.openapi import problem_responses
from accession.web.parameters import Flag
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
    Flag,
    Query(
        description="Mark collections for deletion, and remove channels, rules, webhooks and digests, that "
        "are absent from the lists in the configuration."
    ),
]


async def _read_configuration(request: Request) -> Configuration:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    name = "request.toml" if media_type == _TOML else "request"
    content = await request.body()
    if not content.strip():
        raise InvalidInput("The request has no body: send a configuration as JSON, YAML or TOML.")
    return load_configuration([parse_document(name, content)])


Body = Annotated[Configuration, Depends(_read_configuration)]


@router.get("", response_model_exclude_unset=True)
def export_configuration(_: Administrator) -> ConfigurationFile:
    """Return all collections, notifications, webhooks and digests as a configuration.

    It has no secrets: environment variables stand for account keys, URLs of channels and secrets of webhooks.
    """
    with snapshot() as session:
        return ConfigurationFile.model_validate(export.export_configuration(session))


@router.post("/plan", openapi_extra=_REQUEST_BODY, responses=problem_responses(409))
def plan_configuration(_: Administrator, configuration: Body, prune: Prune = False) -> PlanView:
    """Compare a configuration with the installation, and change nothing."""
    with snapshot() as session:
        return _view(make_plan(session, configuration, remote_reader(), prune=prune))


@router.post("/apply", openapi_extra=_REQUEST_BODY, responses=problem_responses(409))
def apply_configuration(administrator: Administrator, configuration: Body, prune: Prune = False) -> PlanView:
    """Make the installation equal to a configuration, and return what was changed: all of it or nothing.

    Of the secrets that it names, only files in the folder of the setting `configuration_secrets_dir` are
    read. Other stored secrets stay as they are.
    """
    return _view(
        applying.apply_configuration(administrator.actor, configuration, remote_reader(), prune=prune)
    )


def _view(plan: Plan) -> PlanView:
    views = [ChangeView(change.action, change.description, change.details) for change in plan.changes]
    return PlanView(views, list(plan.notes))
