"""Compare a configuration with the installation: the changes that would make them equal."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from itertools import groupby
from typing import Any

from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.accounts.account import Account
from accession.accounts.collections import list_collections
from accession.accounts.keys import decrypt_account_key, decrypt_channel_url
from accession.accounts.libraries import VendorAccount, vendor_account, vendor_library
from accession.accounts.limits import VendorLimits, stored_limits
from accession.configuration import changes
from accession.configuration.changes import Change
from accession.configuration.documents import InvalidConfiguration, Problem
from accession.configuration.loading import Configuration, Located
from accession.configuration.model import ChannelEntry, CollectionEntry, RuleEntry, SecretReference
from accession.configuration.references import SecretReader
from accession.core.clock import utc_now
from accession.core.errors import InvalidInput
from accession.core.workflow import SCHEDULED_WORKFLOWS, Workflow
from accession.db.models import Collection, NotificationChannel
from accession.notifications.channels import list_channels
from accession.notifications.rules import RuleSpec, RuleView, rule_collection_ids, rule_views
from accession.notifications.services import check_url
from accession.runs.pauses import list_pauses
from accession.runs.schedules import ScheduleOverride, list_schedules


@dataclass(frozen=True)
class Plan:
    """The changes that make the installation equal to the files, in their order.

    `notes` say what stays as it is although the files differ.
    """

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return a text that differs between plans with different changes."""
        return sha256("\n".join(map(str, self.changes)).encode()).hexdigest()


def make_plan(
    session: Session, configuration: Configuration, read_secret: SecretReader, *, prune: bool
) -> Plan:
    """Compare a configuration with the installation. Nothing is written.

    Args:
        session: session with the transaction in which the plan will be executed.
        configuration: contents of the files.
        read_secret: reads the secrets that the files refer to.
        prune: whether what is absent from the files is removed, in the lists that the files have.

    Raises:
        InvalidConfiguration: the files have mistakes; all of them are listed.
        UserError: a stored secret cannot be decrypted.
    """
    return _Planner(session, configuration, read_secret, prune=prune).plan()


class _Planner:
    """Collects changes, notes and mistakes."""

    def __init__(
        self, session: Session, configuration: Configuration, read_secret: SecretReader, *, prune: bool
    ) -> None:
        self._session = session
        self._configuration = configuration
        self._read_secret = read_secret
        self._prune = prune
        self._stored = {collection.name: collection for collection in list_collections(session)}
        self._channels = {channel.name: channel for channel in list_channels(session)}
        self._rules = {rule.name: rule for rule in rule_views(session)}
        self._rule_collection_ids = rule_collection_ids(session)
        self._collections = [
            (located, self._collection_of(located.entry)) for located in configuration.collections.entries
        ]
        self._new_names = {stored.name: located.entry.name for located, stored in self._collections if stored}
        self._problems: list[Problem] = list(configuration.problems)
        self._notes: list[str] = []
        self._kept_secrets: list[str] = []

    def plan(self) -> Plan:
        planned = [
            *self._renames(),
            *self._account_changes(),
            *self._limits(),
            *self._schedules(),
            *self._pauses(),
            *self._channel_changes(),
            *self._rule_changes(),
            *self._removals(),
        ]
        if self._problems:
            raise InvalidConfiguration(self._problems)
        if self._kept_secrets:
            places = ", ".join(dict.fromkeys(self._kept_secrets))
            self._notes.append(
                f"Stored secrets are kept, because these are missing or may not be read from here: {places}."
            )
        return Plan(tuple(planned), tuple(self._notes))

    def _collection_of(self, entry: CollectionEntry) -> Collection | None:
        """Return the stored collection that the entry describes, also if it has its previous name."""
        if entry.name not in self._stored and entry.previous_name is not None:
            return self._stored.get(entry.previous_name)
        return self._stored.get(entry.name)

    def _renames(self) -> list[Change]:
        return [changes.renamed_collection(old, new) for old, new in self._new_names.items() if old != new]

    def _account_changes(self) -> list[Change]:
        """Return changed accounts and then new collections, which adopt the limits of their accounts."""
        changed, added = [], []
        for located, stored in self._collections:
            entry = located.entry
            key = self._secret(
                located, "account_key", entry.account_key, f'account key of "{entry.name}"', stored
            )
            fields = {
                "library_id": entry.library_id,
                "account_id": entry.account_id,
                "base_url": entry.base_url,
            }
            if stored is not None:
                changed += _account_change(entry.name, stored, fields, key)
            elif key is not None:
                added.append(changes.new_collection(Account(entry.name, account_key=key, **fields)))
        return [*changed, *added]

    def _secret(
        self,
        located: Located[Any],
        key: str,
        reference: SecretReference,
        noun: str,
        stored: Collection | NotificationChannel | None,
    ) -> SecretStr | None:
        """Return the secret; None if there is none: the stored one stays, or without any it is a mistake."""
        try:
            secret = self._read_secret(reference)
        except InvalidInput as error:
            self._problems.append(located.problem(str(error), key))
            return None
        if secret is None and stored is None:
            message = f"There is no {noun}: {reference} does not exist, or may not be read from here."
            self._problems.append(located.problem(message, key))
        elif secret is None:
            self._kept_secrets.append(str(reference))
        return secret

    def _limits(self) -> list[Change]:
        new_limits: dict[VendorAccount, VendorLimits] = {}
        first: dict[VendorAccount, CollectionEntry] = {}
        for located, _ in self._collections:
            account = _account_of(located.entry)
            first.setdefault(account, located.entry)
            if located.entry.limits is not None:
                limits = located.entry.limits.limits()
                if new_limits.setdefault(account, limits) != limits:
                    message = "Another collection with this account has other limits: enter the same."
                    self._problems.append(located.problem(message, "limits"))
        present = {vendor_account(stored): stored_limits(stored) for stored in self._stored.values()}
        moves = self._accounts_with_moves()
        planned = []
        for account, entry in first.items():
            old = present.get(account, VendorLimits())
            new = new_limits.get(account, VendorLimits())
            if old != new or account in moves:
                planned.append(changes.changed_limits(entry.name, old, new))
        return planned

    def _accounts_with_moves(self) -> set[VendorAccount]:
        """Return the accounts that a stored collection moves from or to, with the limits that it has."""
        accounts = [
            (vendor_account(stored), _account_of(located.entry))
            for located, stored in self._collections
            if stored is not None
        ]
        return {account for old, new in accounts if old != new for account in (old, new)}

    def _schedules(self) -> list[Change]:
        overrides = {
            (schedule.collection_id, schedule.workflow): schedule.override
            for schedule in list_schedules(self._session)
        }
        planned = []
        for located, stored in self._collections:
            for workflow in SCHEDULED_WORKFLOWS:
                old = overrides[stored.id, workflow] if stored else ScheduleOverride()
                new = getattr(located.entry.schedules, workflow).override()
                if old != new:
                    planned.append(changes.changed_schedule(located.entry.name, workflow, old, new))
        return planned

    def _pauses(self) -> list[Change]:
        in_force, now = list_pauses(self._session), utc_now()
        planned = []
        for located, stored in self._collections:
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

    def _channel_changes(self) -> list[Change]:
        planned = []
        for located in self._configuration.channels.entries:
            entry, stored = located.entry, self._channels.get(located.entry.name)
            noun = f'URL of notification channel "{entry.name}"'
            url = self._secret(located, "url", entry.url, noun, stored)
            if url is None or (stored is not None and decrypt_channel_url(stored) == url):
                continue
            if (service := self._service(located, url)) is None:
                continue
            if stored is None:
                planned.append(changes.new_channel(entry.name, url, service))
            else:
                details = {"url": "replaced"}
                if service != stored.service:
                    details["service"] = f"{stored.service} → {service}"
                planned.append(changes.changed_channel(entry.name, url, details))
        return planned

    def _service(self, located: Located[ChannelEntry], url: SecretStr) -> str | None:
        try:
            return check_url(url)
        except InvalidInput as error:
            self._problems.append(located.problem(str(error), "url"))
            return None

    def _rule_changes(self) -> list[Change]:
        channels = self._names_to_come("channels", self._channels.keys())
        collections = self._names_to_come("collections", self._stored.keys() - self._new_names.keys())
        planned = []
        for located in self._configuration.rules.entries:
            spec = located.entry.spec()
            if spec.channel not in channels:
                self._report_unknown(located, "channel", f'notification channel is named "{spec.channel}"')
            for name in spec.collections:
                if name not in collections:
                    self._report_unknown(located, "collections", f'collection is named "{name}"')
            if (stored := self._rules.get(spec.name)) is None:
                planned.append(changes.new_rule(spec))
            elif details := self._rule_differences(stored, spec):
                planned.append(changes.changed_rule(spec, details))
        return planned

    def _names_to_come(self, section: str, stored: Any) -> set[str]:
        """Return the names that there will be: those in the files, and those stored that are not removed."""
        configured = getattr(self._configuration, section)
        is_pruned = self._prune and configured.is_managed
        return set(configured.names) | (set() if is_pruned else set(stored))

    def _report_unknown(self, located: Located[RuleEntry], key: str, noun: str) -> None:
        self._problems.append(located.problem(f"No {noun}: correct the name, or add it.", key))

    def _rule_differences(self, stored: RuleView, spec: RuleSpec) -> dict[str, str]:
        # They can be of collections that are marked for deletion.
        ids = self._rule_collection_ids[stored.name]
        names = [
            self._new_names.get(each.name, each.name) for each in self._stored.values() if each.id in ids
        ]
        removed = ["none that is left"] if ids else []
        old = asdict(stored) | {"collections": sorted(names) or removed}
        new = asdict(spec) | {"collections": sorted(set(spec.collections))}
        for values in (old, new):
            values["events"] = sorted(values["events"])
        return changes.describe_differences(old, new)

    def _removals(self) -> list[Change]:
        configuration, new_names = self._configuration, self._new_names
        collections = [name for name in self._stored if name not in new_names]
        channels = [name for name in self._channels if name not in configuration.channels.names]
        rules = [name for name in self._rules if name not in configuration.rules.names]
        planned: list[Change] = []
        if configuration.rules.is_managed:
            planned += [changes.removed_rule(name) for name in rules]
        if configuration.channels.is_managed:
            for name in channels:
                lost = [rule for rule in rules if self._rules[rule].channel == name]
                planned.append(changes.removed_channel(name, () if configuration.rules.is_managed else lost))
        if configuration.collections.is_managed:
            planned += [changes.removed_collection(name) for name in collections]
        if self._prune:
            return planned
        self._notes += [f"Not in the files, and kept without pruning: {each}." for each in planned]
        return []


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
    details = changes.describe_differences(old, fields)
    if key is not None and decrypt_account_key(stored) != key:
        details["account_key"] = "replaced"
    return [changes.changed_account(name, details, fields, key)] if details else []


_Pauses = Mapping[Workflow, tuple[str, datetime | None]]


def _pause_changes(name: str, old: _Pauses, new: _Pauses) -> list[Change]:
    ended = [workflow for workflow in old if workflow not in new]
    begun = [workflow for workflow in new if old.get(workflow) != new[workflow]]
    planned = [changes.ended_pause(name, ended)] if ended else []
    for (reason, until), workflows in groupby(begun, key=lambda workflow: new[workflow]):
        planned.append(changes.new_pause(name, list(workflows), reason, until))
    return planned
