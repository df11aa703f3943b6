"""Changes of the digests of collections."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

from sqlalchemy.orm import Session

from accession.accounts.collections import find_collection
from accession.auth.audit import Actor
from accession.configuration.changes import Action, Change, describe_differences
from accession.configuration.plan_context import PlanContext
from accession.digests.options import DigestOptions, remove_digest, set_digest
from accession.digests.views import digest_views


def plan_digests(context: PlanContext) -> list[Change]:
    """Return the changes of the digests in the files."""
    stored = _stored_digests(context)
    planned = []
    for located in context.configuration.digests.entries:
        name, options = located.entry.collection, located.entry.options()
        context.check_collections(located, "collection", [name])
        if (old := stored.get(name)) is None:
            planned.append(_new_digest(name, options))
        elif details := _differences(old, options):
            planned.append(_changed_digest(name, options, details))
    return planned


def _stored_digests(context: PlanContext) -> dict[str, DigestOptions]:
    """Return the stored options by the name that the collection will have."""
    return {
        context.new_names.get(view.collection, view.collection): view.options
        for view in digest_views(context.session)
    }


def _differences(old: DigestOptions, new: DigestOptions) -> dict[str, str]:
    values = (asdict(each) | {"recipients": sorted(each.recipients)} for each in (old, new))
    return describe_differences(*values, none="none")


def _new_digest(name: str, options: DigestOptions) -> Change:
    details = {"schedule": f"{options.cron.description} ({options.time_zone})"}
    return Change(Action.ADD, f'Add digest of "{name}"', details, partial(_set_digest, name, options))


def _changed_digest(name: str, options: DigestOptions, details: Mapping[str, str]) -> Change:
    return Change(Action.CHANGE, f'Change digest of "{name}"', details, partial(_set_digest, name, options))


def _set_digest(name: str, options: DigestOptions, session: Session, actor: Actor) -> None:
    set_digest(session, actor, find_collection(session, name), options)


def plan_removed_digests(context: PlanContext) -> list[Change]:
    """Return the removals of the digests that are absent from the files."""
    section = context.configuration.digests
    stored = _stored_digests(context) if section.is_managed else ()
    return [_removed_digest(name) for name in stored if name not in section.names]


def _removed_digest(name: str) -> Change:
    return Change(Action.REMOVE, f'Remove digest of "{name}"', {}, partial(_remove_digest, name))


def _remove_digest(name: str, session: Session, actor: Actor) -> None:
    remove_digest(session, actor, find_collection(session, name))
