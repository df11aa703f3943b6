"""docs/operations.md and its files name the metrics that there are."""

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
from accession.runs.ledger import timestamp

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "operations.md").read_text(encoding="utf-8")
ALERTS = (DOCS / "operations" / "alerts.yaml").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((DOCS / "operations" / "grafana.json").read_text(encoding="utf-8"))

ROW = re.compile(r"^\| `(accession_\w+)` \| (\w+) \| ([^|]*)\|", re.MULTILINE)
EXPRESSION = re.compile(r"^ +expr: (?:>-\n((?: {10,}.*\n)+)|(.*)\n)", re.MULTILINE)
METRIC = re.compile(r"\baccession_\w+")
SELECTOR = re.compile(r"\b(accession_\w+)\{([^}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\)")


@pytest.fixture
def families(session: Session, collection: Collection, queues: Redis) -> dict[str, Metric]:
    """Every metric with a sample, by the name that the page gives it."""
    from accession.tasks.heartbeats import note_tick
    from accession.web.metrics import Figures

    note_tick()
    timestamp(session, collection, Workflow.EVENTS).finish = utc_now()
    session.commit()
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in Figures().collect()
    }


def labels_of(family: Metric) -> set[str]:
    return {label for sample in family.samples for label in sample.labels} - {"le"}


def expressions(source: str) -> Iterator[str]:
    if source == "alerts":
        yield from (block or line for block, line in EXPRESSION.findall(ALERTS))
    else:
        yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])


def test_the_page_explains_each_metric_with_its_type_and_its_labels(families: dict[str, Metric]) -> None:
    explained = {
        name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in ROW.findall(PAGE)
    }

    assert explained == {name: (family.type, labels_of(family)) for name, family in families.items()}


@pytest.mark.parametrize("source", ["alerts", "dashboard"])
def test_alerts_and_dashboard_ask_for_metrics_and_labels_that_there_are(
    source: str, families: dict[str, Metric]
) -> None:
    served = {sample.name: labels_of(family) for family in families.values() for sample in family.samples}
    found = list(expressions(source))
    assert len(found) >= 15
    for expression in found:
        named = set(METRIC.findall(expression))
        assert named or expression.startswith("up{"), expression
        assert named <= served.keys(), expression
        for name, selected in SELECTOR.findall(expression):
            assert set(re.findall(r"(\w+)(?:=|!)", selected)) <= served[name], expression
        of_any = set().union(*(served[name] for name in named)) | {"le"}
        for grouped in GROUPING.findall(expression):
            assert set(re.findall(r"\w+", grouped)) <= of_any, expression


def test_the_dashboard_shows_every_metric(families: dict[str, Metric]) -> None:
    shown = " ".join(expressions("dashboard"))

    assert [name for name in families if name not in shown] == []


def test_states_and_outcomes_that_are_asked_for_exist() -> None:
    from accession.bibliotheca.client import Outcome
    from accession.db.models import RunState
    from accession.runs.views import NEVER

    words = {"state": {*RunState, NEVER, "waiting", "unacknowledged"}, "outcome": {*Outcome}}
    for label, known in words.items():
        for asked in re.findall(rf'{label}[=!]~?\\?"([^"\\]+)', ALERTS + json.dumps(DASHBOARD)):
            assert set(asked.split("|")) <= known
    for outcome in Outcome:
        assert f"- `{outcome}`" in PAGE


def test_the_page_says_what_to_do_about_each_alert() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)

    assert len(alerts) == len(set(alerts)) >= 12
    (table,) = re.findall(r"\| alert \|.*?\n\n", PAGE, re.DOTALL)
    assert re.findall(r"`(Accession\w+)`", table) == alerts


def test_the_page_speaks_of_commands_and_files_that_there_are() -> None:
    commands = (DOCS / "cli.md").read_text(encoding="utf-8")
    for command in set(re.findall(r"`(accession [a-z]+(?: [a-z]+)?)`", PAGE)):
        assert f"`{command}`" in commands, command
    for path in re.findall(r"\]\((operations/[\w.]+)\)", PAGE):
        assert (DOCS / path).is_file()
