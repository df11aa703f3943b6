"""Changes of collections: accounts, request limits, schedules and pauses."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import groupby

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
from accession.accounts.keys import decrypt_account_key
from accession.accounts.libraries import VendorAccount, vendor_account, vendor_library
from accession.accounts.limits import VendorLimits, set_vendor_limits, stored_limits
from accession.auth.audit import Actor, AuditAction, record
from accession.configuration.changes import Action, Change, Effect, describe_differences
from accession.configuration.model import CollectionEntry
from accession.configuration.plan_context import PlanContext
from accession.core.clock import utc_now
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection
from accession.runs.pauses import list_pauses
from accession.runs.schedules import ScheduleOverride, list_schedules, set_schedule
from accession.tasks.control import pause_in_transaction, resume_in_transaction


def plan_collections(context: PlanContext) -> list[Change]:
    """Return the changes of all collections in the files; those of accounts come before what they have."""
    return [
        *_renames(context),
        *_account_changes(context),
        *_limits(context),
        *_schedules(context),
        *_pauses(context),
    ]


def plan_removed_collections(context: PlanContext) -> list[Change]:
    """Return the removals of the collections that are absent from the files."""
    if not context.configuration.collections.is_managed:
        return []
    return [_removed_collection(name) for name in context.stored if name not in context.new_names]


def _renames(context: PlanContext) -> list[Change]:
    return [_renamed_collection(old, new) for old, new in context.new_names.items() if old != new]


def _account_changes(context: PlanContext) -> list[Change]:
    """Return changed accounts and then new collections, which adopt the limits of their accounts."""
    changed, added = [], []
    for located, stored in context.collections:
        entry = located.entry
        noun = f'account key of "{entry.name}"'
        key = context.secret(located, "account_key", entry.account_key, noun, is_stored=stored is not None)
        fields = {
            "library_id": entry.library_id,
            "account_id": entry.account_id,
            "base_url": entry.base_url,
        }
        if stored is not None:
            changed += _account_change(entry.name, stored, fields, key)
        elif key is not None:
            added.append(_new_collection(Account(entry.name, account_key=key, **fields)))
    return [*changed, *added]


def _account_of(entry: CollectionEntry) -> VendorAccount:
    return VendorAccount(vendor_library(entry.base_url, entry.library_id), entry.account_id)


def _account_change(
    name: str, stored: Collection, fields: Mapping[str, str], key: SecretStr | None
) -> list[Change]:
    old = {
        "library_id": stored.library_id.strip(),
        "account_id": stored.account_id,
        "base_url": stored.base_url,
    }
    details = describe_differences(old, fields)
    if key is not None and decrypt_account_key(stored) != key:
        details["account_key"] = "replaced"
    return [_changed_account(name, details, fields, key)] if details else []


def _limits(context: PlanContext) -> list[Change]:
    new_limits: dict[VendorAccount, VendorLimits] = {}
    first: dict[VendorAccount, CollectionEntry] = {}
    for located, _ in context.collections:
        account = _account_of(located.entry)
        first.setdefault(account, located.entry)
        if located.entry.limits is not None:
            limits = located.entry.limits.limits()
            if new_limits.setdefault(account, limits) != limits:
                message = "Another collection with this account has other limits: enter the same."
                context.problems.append(located.problem(message, "limits"))
    present = {vendor_account(stored): stored_limits(stored) for stored in context.stored.values()}
    moves = _accounts_with_moves(context)
    planned = []
    for account, entry in first.items():
        old = present.get(account, VendorLimits())
        new = new_limits.get(account, VendorLimits())
        if old != new or account in moves:
            planned.append(_changed_limits(entry.name, old, new))
    return planned


def _accounts_with_moves(context: PlanContext) -> set[VendorAccount]:
    """Return the accounts that a stored collection moves from or to, with the limits that it has."""
    accounts = [
        (vendor_account(stored), _account_of(located.entry))
        for located, stored in context.collections
        if stored is not None
    ]
    return {account for old, new in accounts if old != new for account in (old, new)}


def _schedules(context: PlanContext) -> list[Change]:
    overrides = {
        (schedule.collection_id, schedule.workflow): schedule.override
        for schedule in list_schedules(context.session)
    }
    planned = []
    for located, stored in context.collections:
        for workflow in SCHEDULED_WORKFLOWS:
            old = overrides[stored.id, workflow] if stored else ScheduleOverride()
            new = getattr(located.entry.schedules, workflow).override()
            if old != new:
                planned.append(_changed_schedule(located.entry.name, workflow, old, new))
    return planned


def _pauses(context: PlanContext) -> list[Change]:
    in_force, now = list_pauses(context.session), utc_now()
    planned = []
    for located, stored in context.collections:
        entry = located.entry
        if entry.pauses is None:
            continue
        old = {
            workflow: (pause.reason, pause.until)
            for workflow in Workflow
            if stored and (pause := in_force.get((stored.id, workflow)))
        }
        new = {
            workflow: (pause.reason, pause.until)
            for pause in entry.pauses
            for workflow in pause.selected_workflows()
            if pause.until is None or pause.until > now
        }
        planned += _pause_changes(entry.name, old, new)
    return planned


_Pauses = Mapping[Workflow, tuple[str, datetime | None]]


def _pause_changes(name: str, old: _Pauses, new: _Pauses) -> list[Change]:
    ended = [workflow for workflow in old if workflow not in new]
    begun = [workflow for workflow in new if old.get(workflow) != new[workflow]]
    planned = [_ended_pause(name, ended)] if ended else []
    for (reason, until), workflows in groupby(begun, key=lambda workflow: new[workflow]):
        planned.append(_new_pause(name, list(workflows), reason, until))
    return planned


def _new_collection(account: Account) -> Change:
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


def _renamed_collection(old: str, new: str) -> Change:
    """Return the change that renames a collection."""
    return Change(
        Action.CHANGE, f'Rename collection "{old}" to "{new}"', {}, partial(_rename_collection, old, new)
    )


def _rename_collection(old: str, new: str, session: Session, actor: Actor) -> None:
    rename_collection(session, find_collection(session, old), new)
    record(session, actor, AuditAction.COLLECTION_EDIT, new, {"name": f"{old} → {new}"})


def _changed_account(
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


def _removed_collection(name: str) -> Change:
    """Return the change that marks a collection for deletion."""
    return Change(
        Action.REMOVE, f'Mark collection "{name}" for deletion', {}, partial(_remove_collection, name)
    )


def _remove_collection(name: str, session: Session, actor: Actor) -> None:
    mark_for_deletion(find_collection(session, name))
    record(session, actor, AuditAction.COLLECTION_REMOVE, name)


def _changed_limits(name: str, old: VendorLimits, new: VendorLimits) -> Change:
    """Return the change of the limits of a collection's account.

    They can be equal to the old ones, if collections move from one account to another.
    """
    details = describe_differences(asdict(old), asdict(new), none="inherited")
    description = f'Set request limits of the account of "{name}"'
    return Change(Action.CHANGE, description, details, partial(_set_limits, name, new))


def _set_limits(name: str, limits: VendorLimits, session: Session, actor: Actor) -> None:
    set_vendor_limits(session, find_collection(session, name), limits)
    record(session, actor, AuditAction.COLLECTION_SET_LIMITS, name, asdict(limits))


def _changed_schedule(name: str, workflow: Workflow, old: ScheduleOverride, new: ScheduleOverride) -> Change:
    """Return the change of the schedule of a collection's workflow."""
    details = describe_differences(asdict(old), asdict(new), none="inherited")
    description = f'Change schedule of {workflow} of "{name}"'
    return Change(Action.CHANGE, description, details, partial(_set_schedule, name, workflow, new))


def _set_schedule(
    name: str, workflow: Workflow, override: ScheduleOverride, session: Session, actor: Actor
) -> None:
    set_schedule(session, actor, find_collection(session, name), workflow, override)


def _new_pause(name: str, workflows: Sequence[Workflow], reason: str, until: datetime | None) -> Change:
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


def _ended_pause(name: str, workflows: Sequence[Workflow]) -> Change:
    """Return the change that resumes workflows of a collection."""
    return Change(
        Action.CHANGE, f'Resume {", ".join(workflows)} of "{name}"', {}, partial(_resume, name, workflows)
    )


def _resume(name: str, workflows: Sequence[Workflow], session: Session, actor: Actor) -> Effect:
    collection = find_collection(session, name)
    return resume_in_transaction(session, actor, [collection.id], workflows)[1]
