"""Rules: stored, listed, changed and validated."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session

from accession.core.errors import InvalidInput, NotFound, UserError
from accession.db.models import Collection
from accession.notifications.channels import add_channel
from accession.notifications.kinds import EventKind, Severity
from accession.notifications.rules import (
    RuleSpec,
    add_rule,
    change_rule,
    find_rule,
    remove_rule,
    rule_views,
)

RULE = RuleSpec(
    name="night",
    channel="ops",
    events=(EventKind.RUN_FAILED, EventKind.RECOVERED),
    collections=("Alder Library",),
    min_severity=Severity.ERROR,
    quiet_hours="22:00-07:00",
    time_zone="Europe/Berlin",
    critical_ignores_quiet_hours=False,
    still_failing_hours=12,
    no_success_hours=30,
    rejected_records=0,
    disk_free_percent=5,
)


@pytest.fixture(autouse=True)
def _channel(session: Session, collection: Collection) -> None:
    add_channel(session, "ops", SecretStr("json://127.0.0.1:9"))


def test_rule_is_listed_as_it_was_entered(session: Session) -> None:
    rule_id = add_rule(session, RULE)
    (view,) = rule_views(session)
    assert view.id == rule_id
    assert all(getattr(view, name) == value for name, value in vars(RULE).items())


def test_rule_without_time_zone_has_that_of_the_schedule(session: Session) -> None:
    add_rule(session, RuleSpec(name="all", channel="ops"))
    assert find_rule(session, "all").time_zone == "UTC"


def test_changed_rule_has_all_new_values(session: Session) -> None:
    rule_id = add_rule(session, RuleSpec(name="all", channel="ops"))
    change_rule(session, rule_id, RULE)
    assert find_rule(session, "night").still_failing_hours == 12
    with pytest.raises(NotFound):
        find_rule(session, "all")


def test_removed_rule_is_gone(session: Session) -> None:
    rule_id = add_rule(session, RULE)
    remove_rule(session, rule_id)
    assert rule_views(session) == []
    with pytest.raises(NotFound):
        remove_rule(session, rule_id)
    with pytest.raises(NotFound):
        change_rule(session, rule_id, RULE)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quiet_hours": "at night"}, "quiet hours"),
        ({"time_zone": "Mars"}, "time zone"),
        ({"still_failing_hours": 0}, "still failing hours"),
        ({"no_success_hours": 9000}, "no success hours"),
        ({"rejected_records": -1}, "rejected records"),
        ({"disk_free_percent": 100}, "disk free percent"),
        ({"events": (EventKind.RECOVERED,)}, "recovered alone"),
    ],
)
def test_invalid_value_is_explained(session: Session, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        add_rule(session, replace(RULE, **changes))


@pytest.mark.parametrize("changes", [{"channel": "nowhere"}, {"collections": ("Nowhere",)}])
def test_unknown_channel_or_collection_is_rejected(session: Session, changes: dict[str, Any]) -> None:
    with pytest.raises(NotFound):
        add_rule(session, replace(RULE, **changes))


def test_name_in_use_is_rejected(session: Session) -> None:
    add_rule(session, RULE)
    other = add_rule(session, replace(RULE, name="day"))
    with pytest.raises(UserError, match='"night" already exists'):
        add_rule(session, RULE)
    with pytest.raises(UserError, match='"night" already exists'):
        change_rule(session, other, RULE)
