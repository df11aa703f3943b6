"""Changes of notifications: channels and rules."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.keys import decrypt_channel_url
from accession.auth.audit import Actor, AuditAction, record
from accession.configuration.changes import Action, Change, describe_differences
from accession.configuration.plan_context import PlanContext
from accession.notifications.channels import (
    add_channel,
    change_channel_url,
    find_channel,
    list_channels,
    remove_channel,
)
from accession.notifications.rules import (
    RuleSpec,
    RuleView,
    add_rule,
    change_rule,
    find_rule,
    remove_rule,
    rule_collection_ids,
    rule_views,
)
from accession.notifications.services import check_url


def plan_channels(context: PlanContext) -> list[Change]:
    """Return the changes of the channels in the files."""
    channels = {channel.name: channel for channel in list_channels(context.session)}
    planned = []
    for located in context.configuration.channels.entries:
        name = located.entry.name
        stored = channels.get(name)
        noun = f'URL of notification channel "{name}"'
        url = context.secret(located, "url", located.entry.url, noun, is_stored=stored is not None)
        if url is None or (stored is not None and decrypt_channel_url(stored) == url):
            continue
        service = context.check(located, "url", partial(check_url, url))
        if service is None:
            continue
        if stored is None:
            planned.append(_new_channel(name, url, service))
        else:
            details = {"url": "replaced"} | describe_differences(
                {"service": stored.service}, {"service": service}
            )
            planned.append(_changed_channel(name, url, details))
    return planned


def plan_rules(context: PlanContext) -> list[Change]:
    """Return the changes of the rules in the files."""
    rules = {rule.name: rule for rule in rule_views(context.session)}
    collection_ids = rule_collection_ids(context.session)
    stored_channels = (channel.name for channel in list_channels(context.session))
    channels = context.names_to_come(context.configuration.channels, stored_channels)
    planned = []
    for located in context.configuration.rules.entries:
        spec = located.entry.spec()
        if spec.channel not in channels:
            context.report_unknown(located, "channel", f'notification channel is named "{spec.channel}"')
        context.check_collections(located, "collections", spec.collections)
        if (stored := rules.get(spec.name)) is None:
            planned.append(_new_rule(spec))
        elif details := _rule_differences(
            stored, context.describe_collections(collection_ids[spec.name]), spec
        ):
            planned.append(_changed_rule(spec, details))
    return planned


def _rule_differences(stored: RuleView, collections: Sequence[str], spec: RuleSpec) -> dict[str, str]:
    old = asdict(stored) | {"collections": collections}
    new = asdict(spec) | {"collections": sorted(set(spec.collections))}
    for values in (old, new):
        values["events"] = sorted(values["events"])
    return describe_differences(old, new)


def plan_removed_notifications(context: PlanContext) -> list[Change]:
    """Return the removals of the rules and channels that are absent from the files."""
    configuration = context.configuration
    rules = {
        rule.name: rule.channel
        for rule in rule_views(context.session)
        if rule.name not in configuration.rules.names
    }
    planned = [_removed_rule(name) for name in rules] if configuration.rules.is_managed else []
    if configuration.channels.is_managed:
        for channel in list_channels(context.session):
            if channel.name not in configuration.channels.names:
                lost = [rule for rule, name in rules.items() if name == channel.name]
                planned.append(_removed_channel(channel.name, [] if configuration.rules.is_managed else lost))
    return planned


def _new_channel(name: str, url: SecretStr, service: str) -> Change:
    """Return the change that adds a notification channel."""
    description = f'Add notification channel "{name}"'
    return Change(Action.ADD, description, {"service": service}, partial(_add_channel, name, url))


def _add_channel(name: str, url: SecretStr, session: Session, actor: Actor) -> None:
    channel = add_channel(session, name, url)
    record(session, actor, AuditAction.CHANNEL_ADD, name, {"service": channel.service})


def _changed_channel(name: str, url: SecretStr, details: Mapping[str, str]) -> Change:
    """Return the change of the URL of a notification channel."""
    description = f'Change notification channel "{name}"'
    return Change(Action.CHANGE, description, details, partial(_change_channel, name, url, details))


def _change_channel(
    name: str, url: SecretStr, details: Mapping[str, str], session: Session, actor: Actor
) -> None:
    change_channel_url(session, find_channel(session, name), url)
    record(session, actor, AuditAction.CHANNEL_EDIT, name, details)


def _removed_channel(name: str, rules: Sequence[str]) -> Change:
    """Return the change that removes a notification channel, and with it these rules."""
    details = {"rules": ", ".join(rules)} if rules else {}
    return Change(
        Action.REMOVE, f'Remove notification channel "{name}"', details, partial(_remove_channel, name)
    )


def _remove_channel(name: str, session: Session, actor: Actor) -> None:
    record(session, actor, AuditAction.CHANNEL_REMOVE, name)
    remove_channel(session, find_channel(session, name))


def _new_rule(spec: RuleSpec) -> Change:
    """Return the change that adds a notification rule."""
    description = f'Add notification rule "{spec.name}"'
    return Change(Action.ADD, description, {"channel": spec.channel}, partial(_add_rule, spec))


def _add_rule(spec: RuleSpec, session: Session, actor: Actor) -> None:
    add_rule(session, spec)
    record(session, actor, AuditAction.RULE_ADD, spec.name, {"channel": spec.channel})


def _changed_rule(spec: RuleSpec, details: Mapping[str, str]) -> Change:
    """Return the change of a notification rule."""
    description = f'Change notification rule "{spec.name}"'
    return Change(Action.CHANGE, description, details, partial(_change_rule, spec, details))


def _change_rule(spec: RuleSpec, details: Mapping[str, str], session: Session, actor: Actor) -> None:
    change_rule(session, find_rule(session, spec.name).id, spec)
    record(session, actor, AuditAction.RULE_EDIT, spec.name, details)


def _removed_rule(name: str) -> Change:
    """Return the change that removes a notification rule."""
    return Change(Action.REMOVE, f'Remove notification rule "{name}"', {}, partial(_remove_rule, name))


def _remove_rule(name: str, session: Session, actor: Actor) -> None:
    record(session, actor, AuditAction.RULE_REMOVE, name)
    remove_rule(session, find_rule(session, name).id)
