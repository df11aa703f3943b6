"""Write the installation as a configuration."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from sqlalchemy.orm import Session

from accession.accounts.collections import list_collections
from accession.accounts.libraries import VendorAccount, vendor_account
from accession.accounts.limits import VendorLimits, stored_limits
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection
from accession.notifications.channels import list_channels
from accession.notifications.rules import RuleSpec, RuleView, rule_collection_ids, rule_views
from accession.runs.pauses import PauseView, list_pauses
from accession.runs.schedules import Schedule, list_schedules

_HEADER = """\
# Configuration of Accession: see `accession apply --help`.
# Account keys and URLs are not exported: these environment variables are only read if they are set.
"""


def export_configuration(session: Session) -> dict[str, Any]:
    """Return the installation as a configuration file has it.

    Secrets are references to environment variables, which are named after the collections and channels.
    """
    collections = list_collections(session)
    variables = _Variables()
    channels = [
        {"name": channel.name, "url": {"env": variables.get(f"CHANNEL_URL_{channel.name}", channel.name)}}
        for channel in list_channels(session)
    ]
    return {
        "collections": _collections(session, collections, variables),
        "notifications": {"channels": channels, "rules": _rules(session, collections)},
    }


def to_yaml(configuration: Mapping[str, Any]) -> str:
    """Return a configuration as the text of a YAML file."""
    text: str = yaml.safe_dump(dict(configuration), sort_keys=False, allow_unicode=True, width=100)
    return _HEADER + text


class _Variables:
    """Names of environment variables: one for each secret."""

    def __init__(self) -> None:
        self._names: dict[object, str] = {}

    def get(self, text: str, secret: object) -> str:
        """Return the name for a secret, made from a text such as "ACCOUNT_KEY_Alder Library"."""
        if secret not in self._names:
            base = re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")
            name, number = base, 2
            while name in self._names.values():
                name, number = f"{base}_{number}", number + 1
            self._names[secret] = name
        return self._names[secret]


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
                "account_key": {"env": variables.get(f"ACCOUNT_KEY_{collection.name}", account)},
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


def _rules(session: Session, collections: Sequence[Collection]) -> list[dict[str, Any]]:
    ids = rule_collection_ids(session)
    entries = []
    for rule in rule_views(session):
        names = sorted(each.name for each in collections if each.id in ids[rule.name])
        # A rule whose collections are all marked for deletion never applies.
        if names or not ids[rule.name]:
            entries.append(_rule(rule, names))
    return entries


def _rule(rule: RuleView, collections: Sequence[str]) -> dict[str, Any]:
    """Return a rule: its channel, and what differs from the defaults."""
    defaults = asdict(RuleSpec(name="", channel=""))
    values = asdict(rule) | {
        "events": [event.value for event in rule.events],
        "collections": collections,
        "min_severity": rule.min_severity.value,
    }
    del values["id"]
    return {name: value for name, value in values.items() if value != defaults[name] and value != []}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
