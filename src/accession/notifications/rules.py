"""Rules: which events a channel is notified of, for which collections, and when."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from accession.accounts.collections import find_collections
from accession.auth.names import validate_name
from accession.core.clock import utc_now
from accession.core.errors import InvalidInput, NotFound, UserError
from accession.core.settings import get_settings
from accession.db.models import Collection, Notification, NotificationChannel, NotificationRule
from accession.notifications.channels import delete_pending, find_channel
from accession.notifications.kinds import EventKind, Severity
from accession.notifications.quiet_hours import parse_quiet_hours, parse_time_zone

RULE_LIMITS: Mapping[str, tuple[int, int]] = {
    "still_failing_hours": (1, 720),
    "no_success_hours": (1, 8760),
    "rejected_records": (0, 1_000_000_000),
    "disk_free_percent": (1, 99),
}
"""Lowest and highest values of the thresholds of a rule."""


@dataclass(frozen=True)
class RuleSpec:
    """A rule, as a person enters it.

    Attributes:
        name: name of the rule.
        channel: name of the channel that is notified.
        events: kinds of events; () for all.
        collections: names of collections, to be notified of their events only; () for all events.
        min_severity: lowest severity of the events.
        quiet_hours: daily span of time such as "22:00-07:00" in which messages are held back, or "".
        time_zone: time zone of the quiet hours; "" for that of the schedule.
        critical_ignores_quiet_hours: whether critical events are reported in the quiet hours, too.
        still_failing_hours: hours after which a problem is reported again, then daily.
        no_success_hours: hours without a successful run after which that is reported.
        rejected_records: number of open rejected records of a collection above which that is reported.
        disk_free_percent: free space of a disk, in percent, below which that is reported.
    """

    name: str
    channel: str
    events: tuple[EventKind, ...] = ()
    collections: tuple[str, ...] = ()
    min_severity: Severity = Severity.WARNING
    quiet_hours: str = ""
    time_zone: str = ""
    critical_ignores_quiet_hours: bool = True
    still_failing_hours: int = 24
    no_success_hours: int = 26
    rejected_records: int = 100
    disk_free_percent: int = 10


@dataclass(frozen=True)
class RuleView(RuleSpec):
    """A stored rule."""

    id: int = field(kw_only=True)


def rule_views(session: Session, *conditions: ColumnElement[bool]) -> list[RuleView]:
    """Return the rules that meet the conditions, by name."""
    names = dict(session.execute(select(Collection.id, Collection.name)).all())
    query = select(NotificationRule, NotificationChannel.name).join(NotificationChannel).where(*conditions)
    rows = session.execute(query.order_by(NotificationRule.name))
    return [_view(rule, channel, names) for rule, channel in rows]


def rule_collection_ids(session: Session) -> dict[str, Sequence[int]]:
    """Return the ids of the collections of each rule, by its name; empty for a rule of all events.

    Collections that are marked for deletion are included.
    """
    query = select(NotificationRule.name, NotificationRule.collection_ids)
    return {row.name: row.collection_ids or () for row in session.execute(query)}


def find_rule(session: Session, name: str) -> RuleView:
    """Return the rule with this name.

    Raises:
        NotFound: there is none.
    """
    rules = rule_views(session, NotificationRule.name == name)
    if not rules:
        raise NotFound(f'No notification rule is named "{name}": see `accession notifications rules list`.')
    return rules[0]


def get_rule(session: Session, rule_id: int) -> RuleView:
    """Return the rule with this id.

    Raises:
        NotFound: there is none.
    """
    rules = rule_views(session, NotificationRule.id == rule_id)
    if not rules:
        raise NotFound(f"There is no notification rule {rule_id}.")
    return rules[0]


def add_rule(session: Session, spec: RuleSpec) -> int:
    """Add a rule, and return its id.

    Raises:
        InvalidInput: a value is invalid.
        NotFound: no channel or no collection has this name.
        UserError: the name is in use or invalid.
    """
    row = {**_row(session, spec), "created_at": utc_now()}
    statement = insert(NotificationRule).values(row).on_conflict_do_nothing()
    rule_id: int | None = session.scalar(statement.returning(NotificationRule.id))
    if rule_id is None:
        raise _name_in_use(spec.name)
    return rule_id


def change_rule(session: Session, rule_id: int, spec: RuleSpec) -> None:
    """Replace all values of a rule.

    Raises:
        InvalidInput: a value is invalid.
        NotFound: there is no such rule, or no channel or collection with this name.
        UserError: the name is in use or invalid.
    """
    get_rule(session, rule_id)
    row = _row(session, spec)
    same_name = select(NotificationRule.id).where(
        NotificationRule.name == spec.name, NotificationRule.id != rule_id
    )
    if session.scalar(same_name) is not None:
        raise _name_in_use(spec.name)
    session.execute(update(NotificationRule).where(NotificationRule.id == rule_id).values(row))


def _name_in_use(name: str) -> UserError:
    return UserError(
        f'A notification rule named "{name}" already exists: choose another name, '
        f'or remove it with `accession notifications rules remove "{name}"`.'
    )


def remove_rule(session: Session, rule_id: int) -> None:
    """Delete a rule and its messages that have not been sent.

    Raises:
        NotFound: there is no such rule.
    """
    get_rule(session, rule_id)
    delete_pending(session, select(Notification.id).where(Notification.rule_id == rule_id))
    session.execute(delete(NotificationRule).where(NotificationRule.id == rule_id))


def normalise_rule(spec: RuleSpec) -> RuleSpec:
    """Return the rule as it is stored: with its time zone, and quiet hours and events in one form.

    Raises:
        InvalidInput: a value is invalid.
        UserError: the name is invalid.
    """
    validate_name("notification rule", spec.name)
    if spec.events == (EventKind.RECOVERED,):
        raise InvalidInput(
            "A rule for recovered alone would never apply: select the events that recover, too."
        )
    for name, (low, high) in RULE_LIMITS.items():
        if not low <= getattr(spec, name) <= high:
            raise InvalidInput(
                f"The {name.replace('_', ' ')} of the rule are invalid: enter {low} to {high:,}."
            )
    time_zone = parse_time_zone(spec.time_zone or get_settings().time_zone).key
    return replace(
        spec,
        events=tuple(dict.fromkeys(spec.events)),
        quiet_hours=_normalise_quiet_hours(spec.quiet_hours, time_zone),
        time_zone=time_zone,
    )


def _normalise_quiet_hours(text: str, time_zone: str) -> str:
    if not text.strip():
        return ""
    hours = parse_quiet_hours(text, time_zone)
    return f"{hours.start:%H:%M}-{hours.end:%H:%M}"


def _row(session: Session, spec: RuleSpec) -> dict[str, Any]:
    """Check the values of a rule, and return its columns."""
    normal = normalise_rule(spec)
    collections = [each.id for each in find_collections(session, normal.collections)]
    values = asdict(normal)
    for name in ("id", "channel", "collections"):
        values.pop(name, None)
    return {
        **values,
        "channel_id": find_channel(session, normal.channel).id,
        "events": [event.value for event in normal.events],
        "collection_ids": sorted(collections) or None,
        "min_severity": normal.min_severity.value,
        "quiet_hours": normal.quiet_hours or None,
    }


def _view(rule: NotificationRule, channel: str, collections: Mapping[int, str]) -> RuleView:
    return RuleView(
        id=rule.id,
        name=rule.name,
        channel=channel,
        events=tuple(map(EventKind, rule.events)),
        collections=tuple(collections[id_] for id_ in rule.collection_ids or () if id_ in collections),
        min_severity=Severity(rule.min_severity),
        quiet_hours=rule.quiet_hours or "",
        time_zone=rule.time_zone,
        critical_ignores_quiet_hours=rule.critical_ignores_quiet_hours,
        still_failing_hours=rule.still_failing_hours,
        no_success_hours=rule.no_success_hours,
        rejected_records=rule.rejected_records,
        disk_free_percent=rule.disk_free_percent,
    )
