"""Consistency of the documentation for operators, the alert rules and the Grafana dashboard with the code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from redis import Redis
from sqlalchemy.orm import Session

from accession.core.clock import utc_now
from accession.core.workflow import Workflow
from accession.db.models import Collection
from accession.digests.options import DigestOptions, set_digest
from accession.runs.ledger import get_or_create_checkpoint
from tests.fixtures.digests import ANN
from tests.fixtures.factories import NOON
from tests.fixtures.notifications import make_channel
from tests.fixtures.purchases import purchase_title
from tests.fixtures.webhooks import make_webhook

DOCS = Path(__file__).parents[3] / "docs"
METRICS_PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
ALERTS_PAGE = (DOCS / "how-to" / "alerts.md").read_text(encoding="utf-8")
OPERATOR_PAGES = sorted([*DOCS.glob("*.md"), *(DOCS / "how-to").glob("*.md")])
ALERTS = (DOCS / "operations" / "alerts.yaml").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((DOCS / "operations" / "grafana.json").read_text(encoding="utf-8"))

ROW = re.compile(r"^\| `(accession_\w+)` \| (\w+) \| ([^|]*)\|", re.MULTILINE)
EXPRESSION = re.compile(r"^ +expr: (?:>-\n((?: {10,}.*\n)+)|(.*)\n)", re.MULTILINE)
METRIC = re.compile(r"\baccession_\w+")
SELECTOR = re.compile(r"\b(accession_\w+)\{([^}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


@pytest.fixture
def families(session: Session, collection: Collection, queues: Redis) -> dict[str, Metric]:
    """Return every metric that has a sample, by its documented name."""
    from accession.tasks.heartbeats import record_scheduler_tick
    from accession.web.metrics import AccessionCollector

    record_scheduler_tick()
    get_or_create_checkpoint(session, collection, Workflow.EVENTS).finish = utc_now()
    purchase_title(session, collection, "abc", NOON)
    make_webhook(session)
    make_channel(session, "json://127.0.0.1:9")
    set_digest(session, ANN, collection, DigestOptions())
    session.commit()
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in AccessionCollector().collect()
    }


def labels_of(family: Metric) -> set[str]:
    return {label for sample in family.samples for label in sample.labels} - {"le"}


def expressions(source: str) -> Iterator[str]:
    if source == "alerts":
        yield from (block or line for block, line in EXPRESSION.findall(ALERTS))
    else:
        yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])


def test_every_metric_is_documented_with_type_and_labels(families: dict[str, Metric]) -> None:
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROW.findall(METRICS_PAGE)
    }

    assert documented == {name: (family.type, labels_of(family)) for name, family in families.items()}


@pytest.mark.parametrize("source", ["alerts", "dashboard"])
def test_expressions_use_existing_metrics_and_labels(source: str, families: dict[str, Metric]) -> None:
    served = {sample.name: labels_of(family) for family in families.values() for sample in family.samples}
    all_expressions = list(expressions(source))
    assert len(all_expressions) >= 15
    for expression in all_expressions:
        metrics = set(METRIC.findall(expression))
        assert metrics or expression.startswith("up{"), expression
        assert metrics <= served.keys(), expression
        for name, selected in SELECTOR.findall(expression):
            assert set(re.findall(r"(\w+)(?:=|!)", selected)) <= served[name], expression
        labels = set().union(*(served[name] for name in metrics)) | {"le"}
        for grouping in GROUPING.findall(expression):
            assert set(re.findall(r"\w+", grouping)) <= labels, expression


def test_dashboard_shows_every_metric(families: dict[str, Metric]) -> None:
    shown = " ".join(expressions("dashboard"))

    assert [name for name in families if name not in shown] == []


def test_states_and_outcomes_in_expressions_exist() -> None:
    from accession.bibliotheca.outcomes import RequestOutcome
    from accession.db.models import RunState
    from accession.runs.views import NEVER

    values = {"state": {*RunState, NEVER, "waiting", "unacknowledged"}, "outcome": {*RequestOutcome}}
    for label, known in values.items():
        for selected in re.findall(rf'{label}[=!]~?\\?"([^"\\]+)', ALERTS + json.dumps(DASHBOARD)):
            assert set(selected.split("|")) <= known
    for outcome in RequestOutcome:
        assert f"- `{outcome}`" in METRICS_PAGE


def test_every_alert_is_documented() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)

    assert len(alerts) == len(set(alerts)) >= 12
    (table,) = re.findall(r"\| alert \|.*?\n\n", ALERTS_PAGE, re.DOTALL)
    assert re.findall(r"`(Accession\w+)`", table) == alerts


@pytest.mark.parametrize("page", OPERATOR_PAGES, ids=lambda page: page.stem)
def test_documented_commands_exist(page: Path) -> None:
    commands = (DOCS / "cli.md").read_text(encoding="utf-8")
    for command in set(
        re.findall(r"`(accession [a-z]+(?: [a-z][a-z-]*)?)", page.read_text(encoding="utf-8"))
    ):
        assert f"`{command}`" in commands, command


def test_every_api_path_is_documented(queues: Redis) -> None:
    from accession.web.app import create_app

    page = (DOCS / "http.md").read_text(encoding="utf-8")
    operations = {
        f"{method.upper()} {path}"
        for path, path_operations in create_app().openapi()["paths"].items()
        for method in path_operations
    }
    assert set(re.findall(r"`([A-Z]+ /api/v1/[^`]+)`", page)) == operations
