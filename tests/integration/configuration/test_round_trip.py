"""Property tests: what was applied has no difference, and neither has its export."""

from datetime import UTC, datetime
from typing import Any

import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from accession.auth.audit import Actor, ActorKind
from accession.configuration.documents import parse_document
from accession.configuration.export import export_configuration, to_yaml
from accession.configuration.loading import Configuration, load_configuration
from accession.configuration.model import SecretReference
from accession.core.workflow import Workflow
from accession.db.engine import transaction
from accession.db.models import WebhookEvent
from accession.digests.options import Frequency, Weekday
from accession.notifications.kinds import EventKind, Severity
from tests.fixtures.servers import delete_all_rows

EVENTS = [event.value for event in WebhookEvent]
ANN = Actor(ActorKind.USER, "ann", "192.0.2.1")

words = st.text(st.characters(categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=8)
lines = st.lists(words, min_size=1, max_size=3).map(" ".join)
identifiers = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=8)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"])
times = st.datetimes(datetime(2031, 1, 1), datetime(2039, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001

schedules = st.fixed_dictionaries(
    {},
    optional={
        workflow: st.fixed_dictionaries(
            {},
            optional={
                "cron": st.sampled_from(["0 4 * * *", "*/5 * * * *", "30 2 * * 1-5"]),
                "time_zone": zones,
                "jitter_minutes": st.integers(0, 1440),
            },
        )
        for workflow in ("purchases", "events", "circulation")
    },
)
limits = st.fixed_dictionaries(
    {},
    optional={
        "max_concurrency": st.integers(1, 32),
        "max_requests_per_second": st.floats(0.01, 1000),
    },
)


digests = st.fixed_dictionaries(
    {},
    optional={
        "frequency": st.sampled_from(list(Frequency)).map(str),
        "weekday": st.sampled_from(list(Weekday)).map(str),
        "time": st.sampled_from(["00:00", "07:30", "23:59"]),
        "time_zone": zones,
        "recipients": st.lists(st.sampled_from(["ann@a.example", "bo@b.example"]), unique=True),
        "send_empty": st.booleans(),
        "max_titles": st.integers(1, 200),
    },
)


@st.composite
def pauses(draw: st.DrawFn) -> list[dict[str, Any]]:
    workflows = draw(st.lists(st.sampled_from(list(Workflow)), unique=True))
    return [
        {"reason": draw(lines), "workflows": [workflow.value]}
        | ({"until": draw(times)} if draw(st.booleans()) else {})
        for workflow in workflows
    ]


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Return a valid file: collections of a few accounts with their limits, and all other lists."""
    accounts = draw(
        st.lists(
            st.fixed_dictionaries({"library_id": lines, "account_id": identifiers, "limits": limits}),
            min_size=1,
            max_size=3,
            unique_by=lambda account: (account["library_id"], account["account_id"]),
        )
    )
    names = draw(st.lists(lines, max_size=4, unique=True))
    channels = draw(st.lists(lines, max_size=2, unique=True))
    rules = draw(st.lists(lines, max_size=3, unique=True)) if channels else []
    some_names = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
    return {
        "collections": [
            {
                **draw(st.sampled_from(accounts)),
                "name": name,
                "account_key": {"env": "ACCOUNT_KEY"},
                "base_url": draw(st.sampled_from(["https://vendor.example", "http://127.0.0.1:8080"])),
                "schedules": draw(schedules),
                "pauses": draw(pauses()),
            }
            for name in names
        ],
        "notifications": {
            "channels": [{"name": name, "url": {"env": "CHANNEL_URL"}} for name in channels],
            "rules": [
                {
                    "name": name,
                    "channel": draw(st.sampled_from(channels)),
                    "events": [EventKind.RUN_FAILED.value] if draw(st.booleans()) else [],
                    "collections": draw(some_names),
                    "min_severity": draw(st.sampled_from(list(Severity))).value,
                    "quiet_hours": draw(st.sampled_from(["", "22:00-07:00"])),
                    "time_zone": draw(zones),
                    "critical_ignores_quiet_hours": draw(st.booleans()),
                    "no_success_hours": draw(st.integers(1, 8760)),
                }
                for name in rules
            ],
        },
        "webhooks": [
            {
                "name": name,
                "url": draw(st.sampled_from(["https://index.example/hook", "http://127.0.0.1:9"])),
                "secret": {"env": "WEBHOOK_SECRET"},
                "events": draw(st.lists(st.sampled_from(EVENTS), min_size=1, unique=True)),
                "collections": draw(some_names),
            }
            for name in draw(st.lists(lines, max_size=3, unique=True))
        ],
        "digests": [{"collection": name} | draw(digests) for name in draw(some_names)],
    }


def read_secret(reference: SecretReference) -> SecretStr:
    """Return a secret that every exported name leads to."""
    kind = reference.env.partition("_")[0]
    secrets = {"CHANNEL": "json://127.0.0.1/hook", "WEBHOOK": f"whsec_{'A' * 32}"}
    return SecretStr(secrets.get(kind, "key"))


def load(text: str) -> Configuration:
    return load_configuration([parse_document("file.yaml", text.encode())])


def apply(text: str) -> list[str]:
    """Apply a file, with pruning; return the changes that were made."""
    from accession.configuration.applying import apply_configuration

    plan = apply_configuration(ANN, load(text), read_secret, prune=True)
    return list(map(str, plan.changes))


def export() -> str:
    with transaction() as session:
        return to_yaml(export_configuration(session))


@given(first=configurations(), second=configurations())
# Shrinking would take minutes.
@settings(max_examples=15, deadline=None, database=None, phases=[Phase.generate])
def test_applied_configuration_has_no_difference(
    celery_app: None, first: dict[str, Any], second: dict[str, Any]
) -> None:
    delete_all_rows()
    for configuration in (first, second):
        text = yaml.safe_dump(configuration)
        apply(text)
        assert apply(text) == []
        exported = export()
        assert apply(exported) == []
    delete_all_rows()
    apply(exported)
    assert export() == exported
