"""Changes of an installation, as a plan lists them and as they are made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial

from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import (
    add_collection,
    change_account,
    find_collection,
    mark_for_deletion,
    rename_collection,
)
from accession.accounts.limits import VendorLimits, set_vendor_limits
from accession.auth.audit import Actor, AuditAction, record
from accession.core.sanitize import sanitize
from accession.core.workflow import Workflow
from accession.notifications.channels import add_channel, change_channel_url, find_channel, remove_channel
from accession.notifications.rules import RuleSpec, add_rule, change_rule, find_rule, remove_rule
from accession.runs.schedules import ScheduleOverride, set_schedule
from accession.tasks.control import pause_in_transaction, resume_in_transaction

Effect = Callable[[], None]
"""The part of a change outside the database, which follows the commit."""


class Action(StrEnum):
    """Kind of a change: its subject is added, changed or removed."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


@dataclass(frozen=True)
class Change:
    """One difference between the files and the installation.

    Attributes:
        action: whether the subject is added, changed or removed.
        description: the change, such as `Rename collection "Alder" to "Alder Library"`.
        details: new values by name; changed ones as "old → new", and secrets as "replaced".
        execute: makes the change, in a session's transaction.
    """

    action: Action
    description: str
    details: Mapping[str, str]
    execute: Callable[[Session, Actor], Effect | None] = field(repr=False, compare=False)

    def __str__(self) -> str:
        """Return the change on one line."""
        details = "; ".join(f"{name}: {value}" for name, value in self.details.items())
        return sanitize(f"{self.description} ({details})" if details else self.description)


def new_collection(account: Account) -> Change:
    """Return the change that adds a collection."""
    return Change(
        Action.ADD,
        f'Add collection "{account.collection}"',
        account.public_fields(),
        partial(_add_collection, account),
    )


def _add_collection(account: Account, session: Session, actor: Actor) -> None:
    add_collection(session, account)
    record(session, actor, AuditAction.COLLECTION_ADD, account.collection, account.public_fields())


def renamed_collection(old: str, new: str) -> Change:
    """Return the change that renames a collection."""
    return Change(
        Action.CHANGE, f'Rename collection "{old}" to "{new}"', {}, partial(_rename_collection, old, new)
    )


def _rename_collection(old: str, new: str, session: Session, actor: Actor) -> None:
    rename_collection(session, find_collection(session, old), new)
    record(session, actor, AuditAction.COLLECTION_EDIT, new, {"name": f"{old} → {new}"})


def changed_account(
    name: str, details: Mapping[str, str], fields: Mapping[str, str], account_key: SecretStr | None
) -> Change:
    """Return the change of a collection's account; without a key the stored one stays."""
    execute = partial(_change_account, name, fields, account_key)
    return Change(Action.CHANGE, f'Change collection "{name}"', details, execute)


def _change_account(
    name: str, fields: Mapping[str, str], account_key: SecretStr | None, session: Session, actor: Actor
) -> None:
    collection = find_collection(session, name)
    details = change_account(session, collection, **fields, account_key=account_key)
    record(session, actor, AuditAction.COLLECTION_EDIT, name, details)


def removed_collection(name: str) -> Change:
    """Return the change that marks a collection for deletion."""
    return Change(
        Action.REMOVE, f'Mark collection "{name}" for deletion', {}, partial(_remove_collection, name)
    )


def _remove_collection(name: str, session: Session, actor: Actor) -> None:
    mark_for_deletion(find_collection(session, name))
    record(session, actor, AuditAction.COLLECTION_REMOVE, name)


def changed_limits(name: str, old: VendorLimits, new: VendorLimits) -> Change:
    """Return the change of the limits of a collection's account.

    They can be equal to the old ones, if collections move from one account to another.
    """
    details = describe_differences(asdict(old), asdict(new), none="inherited")
    description = f'Set request limits of the account of "{name}"'
    return Change(Action.CHANGE, description, details, partial(_set_limits, name, new))


def _set_limits(name: str, limits: VendorLimits, session: Session, actor: Actor) -> None:
    set_vendor_limits(session, find_collection(session, name), limits)
    record(session, actor, AuditAction.COLLECTION_SET_LIMITS, name, asdict(limits))


def changed_schedule(name: str, workflow: Workflow, old: ScheduleOverride, new: ScheduleOverride) -> Change:
    """Return the change of the schedule of a collection's workflow."""
    details = describe_differences(asdict(old), asdict(new), none="inherited")
    description = f'Change schedule of {workflow} of "{name}"'
    return Change(Action.CHANGE, description, details, partial(_set_schedule, name, workflow, new))


def _set_schedule(
    name: str, workflow: Workflow, override: ScheduleOverride, session: Session, actor: Actor
) -> None:
    set_schedule(session, actor, find_collection(session, name), workflow, override)


def new_pause(name: str, workflows: Sequence[Workflow], reason: str, until: datetime | None) -> Change:
    """Return the change that pauses workflows of a collection."""
    details = {"reason": reason}
    if until is not None:
        details["until"] = f"{until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return Change(
        Action.CHANGE,
        f'Pause {", ".join(workflows)} of "{name}"',
        details,
        partial(_pause, name, workflows, reason, until),
    )


def _pause(
    name: str,
    workflows: Sequence[Workflow],
    reason: str,
    until: datetime | None,
    session: Session,
    actor: Actor,
) -> Effect:
    collection = find_collection(session, name)
    return pause_in_transaction(session, actor, [collection.id], workflows, reason=reason, until=until)[1]


def ended_pause(name: str, workflows: Sequence[Workflow]) -> Change:
    """Return the change that resumes workflows of a collection."""
    return Change(
        Action.CHANGE, f'Resume {", ".join(workflows)} of "{name}"', {}, partial(_resume, name, workflows)
    )


def _resume(name: str, workflows: Sequence[Workflow], session: Session, actor: Actor) -> Effect:
    collection = find_collection(session, name)
    return resume_in_transaction(session, actor, [collection.id], workflows)[1]


def new_channel(name: str, url: SecretStr, service: str) -> Change:
    """Return the change that adds a notification channel."""
    description = f'Add notification channel "{name}"'
    return Change(Action.ADD, description, {"service": service}, partial(_add_channel, name, url))


def _add_channel(name: str, url: SecretStr, session: Session, actor: Actor) -> None:
    channel = add_channel(session, name, url)
    record(session, actor, AuditAction.CHANNEL_ADD, name, {"service": channel.service})


def changed_channel(name: str, url: SecretStr, details: Mapping[str, str]) -> Change:
    """Return the change of the URL of a notification channel."""
    description = f'Change notification channel "{name}"'
    return Change(Action.CHANGE, description, details, partial(_change_channel, name, url, details))


def _change_channel(
    name: str, url: SecretStr, details: Mapping[str, str], session: Session, actor: Actor
) -> None:
    change_channel_url(session, find_channel(session, name), url)
    record(session, actor, AuditAction.CHANNEL_EDIT, name, details)


def removed_channel(name: str, rules: Sequence[str]) -> Change:
    """Return the change that removes a notification channel, and with it these rules."""
    details = {"rules": ", ".join(rules)} if rules else {}
    return Change(
        Action.REMOVE, f'Remove notification channel "{name}"', details, partial(_remove_channel, name)
    )


def _remove_channel(name: str, session: Session, actor: Actor) -> None:
    record(session, actor, AuditAction.CHANNEL_REMOVE, name)
    remove_channel(session, find_channel(session, name))


def new_rule(spec: RuleSpec) -> Change:
    """Return the change that adds a notification rule."""
    description = f'Add notification rule "{spec.name}"'
    return Change(Action.ADD, description, {"channel": spec.channel}, partial(_add_rule, spec))


def _add_rule(spec: RuleSpec, session: Session, actor: Actor) -> None:
    add_rule(session, spec)
    record(session, actor, AuditAction.RULE_ADD, spec.name, {"channel": spec.channel})


def changed_rule(spec: RuleSpec, details: Mapping[str, str]) -> Change:
    """Return the change of a notification rule."""
    description = f'Change notification rule "{spec.name}"'
    return Change(Action.CHANGE, description, details, partial(_change_rule, spec, details))


def _change_rule(spec: RuleSpec, details: Mapping[str, str], session: Session, actor: Actor) -> None:
    change_rule(session, find_rule(session, spec.name).id, spec)
    record(session, actor, AuditAction.RULE_EDIT, spec.name, details)


def removed_rule(name: str) -> Change:
    """Return the change that removes a notification rule."""
    return Change(Action.REMOVE, f'Remove notification rule "{name}"', {}, partial(_remove_rule, name))


def _remove_rule(name: str, session: Session, actor: Actor) -> None:
    record(session, actor, AuditAction.RULE_REMOVE, name)
    remove_rule(session, find_rule(session, name).id)


def describe_differences(
    old: Mapping[str, object], new: Mapping[str, object], *, none: str = "all"
) -> dict[str, str]:
    """Return the values that differ as "old → new"; None, "" and empty lists are called `none`."""

    def describe(value: object) -> str:
        if isinstance(value, list | tuple):
            return ", ".join(map(str, value)) or none
        if isinstance(value, bool):
            return "yes" if value else "no"
        return none if value in (None, "") else str(value)

    return {
        name: f"{describe(old[name])} → {describe(value)}"
        for name, value in new.items()
        if old[name] != value
    }
