"""Changes of webhooks."""

from collections.abc import Mapping
from functools import partial

import httpx
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.keys import decrypt_webhook_secret
from accession.auth.audit import Actor
from accession.configuration.changes import Action, Change, describe_differences
from accession.configuration.plan_context import PlanContext
from accession.db.models import Webhook
from accession.webhooks.registry import (
    WebhookSpec,
    add_webhook,
    change_webhook,
    find_webhook,
    list_webhooks,
    remove_webhook,
    rotate_secret,
)
from accession.webhooks.signing import check_secret


def plan_webhooks(context: PlanContext) -> list[Change]:
    """Return the changes of the webhooks in the files."""
    webhooks = {webhook.name: webhook for webhook in list_webhooks(context.session)}
    planned = []
    for located in context.configuration.webhooks.entries:
        spec = located.entry.spec()
        stored = webhooks.get(spec.name)
        context.check_collections(located, "collections", spec.collections)
        noun = f'secret of webhook "{spec.name}"'
        secret = context.secret(located, "secret", located.entry.secret, noun, is_stored=stored is not None)
        if secret is not None:
            context.check(located, "secret", partial(check_secret, secret))
        if stored is not None:
            planned += _webhook_changes(context, stored, spec, secret)
        elif secret is not None:
            planned.append(_new_webhook(spec, secret))
    return planned


def _webhook_changes(
    context: PlanContext, stored: Webhook, spec: WebhookSpec, secret: SecretStr | None
) -> list[Change]:
    planned = []
    collections = context.describe_collections(stored.collection_ids or ())
    if details := _differences(stored, collections, spec):
        planned.append(_changed_webhook(spec, details))
    if secret is not None and decrypt_webhook_secret(stored) != secret:
        planned.append(_replaced_secret(spec.name, secret))
    return planned


def _differences(stored: Webhook, collections: list[str], spec: WebhookSpec) -> dict[str, str]:
    """Return the values that differ; of the URLs only the hosts, as a path may contain secrets."""
    old = {
        "host": httpx.URL(stored.url).host,
        "events": sorted(stored.events),
        "collections": collections,
    }
    new = {
        "host": httpx.URL(spec.url).host,
        "events": sorted(spec.events),
        "collections": sorted(set(spec.collections)),
    }
    url = {"url": "replaced"} if stored.url != spec.url else {}
    return url | describe_differences(old, new)


def _new_webhook(spec: WebhookSpec, secret: SecretStr) -> Change:
    details = {"host": httpx.URL(spec.url).host}
    return Change(Action.ADD, f'Add webhook "{spec.name}"', details, partial(_add_webhook, spec, secret))


def _add_webhook(spec: WebhookSpec, secret: SecretStr, session: Session, actor: Actor) -> None:
    add_webhook(session, actor, spec, secret)


def _changed_webhook(spec: WebhookSpec, details: Mapping[str, str]) -> Change:
    return Change(Action.CHANGE, f'Change webhook "{spec.name}"', details, partial(_change_webhook, spec))


def _change_webhook(spec: WebhookSpec, session: Session, actor: Actor) -> None:
    change_webhook(session, actor, find_webhook(session, spec.name), spec)


def _replaced_secret(name: str, secret: SecretStr) -> Change:
    description = f'Replace the secret of webhook "{name}"'
    return Change(Action.CHANGE, description, {}, partial(_replace_secret, name, secret))


def _replace_secret(name: str, secret: SecretStr, session: Session, actor: Actor) -> None:
    rotate_secret(session, actor, find_webhook(session, name), secret)


def plan_removed_webhooks(context: PlanContext) -> list[Change]:
    """Return the removals of the webhooks that are absent from the files."""
    section = context.configuration.webhooks
    stored = list_webhooks(context.session) if section.is_managed else ()
    return [_removed_webhook(each.name) for each in stored if each.name not in section.names]


def _removed_webhook(name: str) -> Change:
    return Change(Action.REMOVE, f'Remove webhook "{name}"', {}, partial(_remove_webhook, name))


def _remove_webhook(name: str, session: Session, actor: Actor) -> None:
    remove_webhook(session, actor, find_webhook(session, name))
