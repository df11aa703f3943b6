"""Write the installation as a configuration."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from pydantic_core import to_jsonable_python
from sqlalchemy.orm import Session

from accession.accounts.collections import list_collections
from accession.accounts.libraries import VendorAccount, vendor_account
from accession.accounts.limits import VendorLimits, stored_limits
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection
from accession.digests.options import DigestOptions
from accession.digests.views import DigestView, digest_views
from accession.notifications.channels import list_channels
from accession.notifications.rules import RuleSpec, rule_collection_ids, rule_views
from accession.runs.pauses import PauseView, list_pauses
from accession.runs.schedules import Schedule, list_schedules
from accession.webhooks.registry import WebhookSpec, list_webhooks

_HEADER = """\
# Configuration of Accession: see `accession apply --help`.
# Secrets are not exported: the environment variables that stand for them are only read if they are set.
"""


def export_configuration(session: Session) -> dict[str, Any]:
    """Return the installation as a configuration file has it.

    Secrets are references to environment variables, which are named after what has the secret.
    """
    collections = list_collections(session)
    variables = _Variables()
    return {
        "collections": _collections(session, collections, variables),
        "notifications": {
            "channels": _channels(session, variables),
            "rules": _rules(session, collections),
        },
        "webhooks": _webhooks(session, collections, variables),
        "digests": [_digest(view) for view in digest_views(session)],
    }


def to_yaml(configuration: Mapping[str, Any]) -> str:
    """Return a configuration as the text of a YAML file."""
    text: str = yaml.safe_dump(dict(configuration), sort_keys=False, allow_unicode=True, width=100)
    return _HEADER + text


class _Variables:
    """Names of environment variables: one for each secret."""

    def __init__(self) -> None:
        self._names: dict[object, str] = {}

    def reference(self, text: str, secret: object) -> dict[str, str]:
        """Return a reference to a secret, named after a text such as "ACCOUNT_KEY_Alder Library"."""
        if secret not in self._names:
            base = re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")
            name, number = base, 2
            while name in self._names.values():
                name, number = f"{base}_{number}", number + 1
            self._names[secret] = name
        return {"env": self._names[secret]}


def _collections(
    session: Session, collections: Sequence[Collection], variables: _Variables
) -> list[dict[str, Any]]:
    pauses, schedules = list_pauses(session), list_schedules(session)
    entries = []
    for collection in collections:
        account: VendorAccount = vendor_account(collection)
        own = [schedule for schedule in schedules if schedule.collection_id == collection.id]
        entries.append(
            {
                "name": collection.name,
                "library_id": collection.library_id.strip(),
                "account_id": collection.account_id,
                "account_key": variables.reference(f"ACCOUNT_KEY_{collection.name}", account),
                "base_url": collection.base_url,
            }
            | _limits(stored_limits(collection))
            | _schedules(own)
            | {"pauses": _pauses(collection.id, pauses)}
        )
    return entries


def _limits(limits: VendorLimits) -> dict[str, Any]:
    values = _without_none(asdict(limits))
    return {"limits": values} if values else {}


def _schedules(schedules: Sequence[Schedule]) -> dict[str, Any]:
    overrides = {
        schedule.workflow.value: values
        for schedule in schedules
        if schedule.workflow in SCHEDULED_WORKFLOWS and (values := _without_none(asdict(schedule.override)))
    }
    return {"schedules": overrides} if overrides else {}


def _pauses(collection_id: int, pauses: Mapping[tuple[int, str], PauseView]) -> list[dict[str, Any]]:
    """Return the pauses of a collection; workflows with the same reason and end are in one."""
    workflows: dict[tuple[Any, ...], list[str]] = {}
    for workflow in Workflow:
        if (pause := pauses.get((collection_id, workflow))) is not None:
            workflows.setdefault((pause.reason, pause.until), []).append(workflow.value)
    return [
        {"reason": reason, "workflows": paused} | _without_none({"until": until})
        for (reason, until), paused in workflows.items()
    ]


def _channels(session: Session, variables: _Variables) -> list[dict[str, Any]]:
    return [
        {"name": each.name, "url": variables.reference(f"CHANNEL_URL_{each.name}", ("channel", each.id))}
        for each in list_channels(session)
    ]


def _rules(session: Session, collections: Sequence[Collection]) -> list[dict[str, Any]]:
    ids = rule_collection_ids(session)
    defaults = asdict(RuleSpec(name="", channel=""))
    return [
        _changed_values(asdict(rule) | {"collections": names}, defaults)
        for rule in rule_views(session)
        if (names := _names(collections, ids[rule.name])) is not None
    ]


def _webhooks(
    session: Session, collections: Sequence[Collection], variables: _Variables
) -> list[dict[str, Any]]:
    defaults = asdict(WebhookSpec(name="", url=""))
    return [
        {
            "name": each.name,
            "url": each.url,
            "secret": variables.reference(f"WEBHOOK_SECRET_{each.name}", ("webhook", each.id)),
        }
        | _changed_values({"events": tuple(each.events), "collections": names}, defaults)
        for each in list_webhooks(session)
        if (names := _names(collections, each.collection_ids or ())) is not None
    ]


def _digest(view: DigestView) -> dict[str, Any]:
    values = _changed_values(asdict(view.options), asdict(DigestOptions()))
    return {"collection": view.collection} | values


def _names(collections: Sequence[Collection], ids: Sequence[int]) -> list[str] | None:
    """Return the names of the collections with these ids, in order; empty for all collections.

    None if all of them are marked for deletion: a rule or a webhook of these never applies.
    """
    names = sorted(collection.name for collection in collections if collection.id in ids)
    return names if names or not ids else None


def _changed_values(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from their defaults, as JSON has them."""
    return {
        name: to_jsonable_python(value)
        for name, value in values.items()
        if name in defaults and value not in (defaults[name], [])
    }


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
