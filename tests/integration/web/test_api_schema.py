"""Property tests: the API conforms to its own OpenAPI document, whoever sends the requests.

Schemathesis makes valid and invalid requests of the document: "coverage" has the limits of all values,
"fuzzing" random ones, and "stateful" uses the ids of earlier responses.
"""

from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from accession.auth.roles import UserRole
from accession.auth.tokens import token_views
from accession.db.engine import engine, transaction
from tests.fixtures.factories import populate_all_tables
from tests.fixtures.vendor import ScriptedVendor
from tests.fixtures.web_client import OpenBrowser, bearer, make_token

SEED = 1
TOKEN = "schemathesis"
ADMINISTRATION = tuple(
    f"{method} /api/v1/{path}"
    for method in ("GET", "POST", "PATCH", "DELETE")
    for path in ("users", "tokens", "audit", "settings", "configuration")
)

# Operations that also refuse (422) some values which their schemas allow: why a schema cannot describe them.
NOT_IN_SCHEMAS = {
    "apply_configuration": "names of collections and channels must exist",
    "create_channel": "Apprise knows which URLs are valid",
    "create_collection": "the base URL must name a host",
    "create_rule": "time zones, and quiet hours",
    "create_token": "either a role or feeds; names by Unicode category",
    "create_user": "names by Unicode category",
    "create_webhook": "the URL must name a host",
    "pause_workflows": "the end must be in the future",
    "plan_configuration": "names of collections and channels must exist",
    "replace_digest": "time zones, and email addresses",
    "replace_rule": "time zones, and quiet hours",
    "replace_schedule": "time zones, and cron expressions",
    "replace_webhook": "the URL must name a host",
    "replay_webhook_events": "the end must be after the start",
    "search_titles": "a cursor must be of the same search",
    "send_digest": "email addresses",
    "show_backfill_cost": "days must be in order, since 2014 and not in the future",
    "show_report": "each report has some of the parameters",
    "start_backfill": "days must be in order, since 2014 and not in the future",
    "start_run": "only purchases can be imported again",
    "start_runs": "only purchases can be imported again",
    "start_verification": "months must be in order",
    "update_account": "the base URL must name a host",
}


@dataclass
class Findings:
    """Failed checks with their requests, and the statuses of the responses to each operation."""

    failures: list[str] = field(default_factory=list)
    statuses: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def successful(self) -> list[str]:
        """Return the operations that were successful at least once, as method and path."""
        return [label for label, statuses in self.statuses.items() if min(statuses) < 400]


def run_schemathesis(
    app: FastAPI,
    headers: dict[str, str],
    phase: str,
    *,
    examples: int,
    document: dict[str, Any] | None = None,
) -> Findings:
    """Send the requests of a phase with these headers, and check the responses in all ways.

    `examples` is the number of requests per operation, or of sequences of them; the document alone determines
    the phase "coverage". By default the document is that of the app.
    """
    # Imported here, because it takes half a second, also in processes that run other tests.
    import schemathesis
    from schemathesis.config import SchemathesisConfig
    from schemathesis.engine import events, from_schema

    generation = {} if phase == "coverage" else {"max-examples": examples}
    config = {
        "seed": SEED,
        "headers": headers,
        "continue-on-failure": True,
        "cache": {"enabled": False},
        "generation": {"deterministic": True, "no-shrink": True, "database": "none"},
        # By default, 413 is no refusal.
        "checks": {"negative_data_rejection": {"expected-statuses": ["4xx", "5xx"]}},
        "phases": {"enabled": False, phase: {"enabled": True, "generation": generation}},
        "operations": [
            *(
                {"include-operation-id": name, "checks": {"positive_data_acceptance": {"enabled": False}}}
                for name in NOT_IN_SCHEMAS
            ),
            # Their schemas alone make a third of all requests: a configuration has unit tests of its own, and
            # facets have the parameters of the search.
            {"include-tag": "configuration", "phases": {"coverage": {"enabled": False}}},
            {"include-operation-id": "list_title_facets", "phases": {"coverage": {"enabled": False}}},
        ],
    }
    schema = schemathesis.openapi.from_dict(
        _with_required_authentication(document or app.openapi()), config=SchemathesisConfig.from_dict(config)
    )
    schema.app = app
    schema.hook("filter_case")(_spares_own_token)
    findings = Findings()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _record(findings, event.recorder)
        elif isinstance(event, events.NonFatalError | events.FatalError):
            findings.failures.append(repr(event))
    return findings


def _with_required_authentication(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document for an installation with users, in which nothing can be read anonymously."""
    changed = deepcopy(document)
    for methods in changed["paths"].values():
        for operation in methods.values():
            operation["security"] = [each for each in operation["security"] if each]
    return changed


def _spares_own_token(_: Any, case: Any) -> bool:
    """Return whether the request does not revoke the token that all requests are sent with."""
    token_id = case.path_parameters.get("token_id")
    if token_id is None:
        return True
    with transaction() as session:
        own = [str(token.id) for token in token_views(session) if token.name == TOKEN]
    return str(token_id) not in own


def _record(findings: Findings, recorder: Any) -> None:
    for case_id, interaction in recorder.interactions.items():
        case = recorder.cases[case_id].value
        response = interaction.response
        if response is None:
            findings.failures.append(f"no response\n{case.as_curl_command()}")
            continue
        findings.statuses[case.operation.label].add(response.status_code)
        for check in recorder.checks.get(case_id, []):
            if check.failure_info is not None:
                content = response.content.decode(errors="replace")[:500]
                findings.failures.append(f"{check.failure_info.failure}\n{case.as_curl_command()}\n{content}")


@pytest.fixture
def app(open_browser: OpenBrowser, session: Session, vendor: ScriptedVendor) -> FastAPI:
    """Return the app of an installation with users and at least one object of every kind."""
    populate_all_tables(engine())
    return open_browser().app


@pytest.mark.no_cover  # slow if measured, and other tests run the same lines
@pytest.mark.parametrize(("phase", "examples"), [("coverage", 0), ("fuzzing", 4)])
def test_administrator_gets_documented_responses(
    app: FastAPI, session: Session, phase: str, examples: int
) -> None:
    headers = bearer(make_token(session, TOKEN, UserRole.ADMINISTRATOR))
    findings = run_schemathesis(app, headers, phase, examples=examples)
    assert findings.failures == []
    assert len(findings.successful) > len(findings.statuses) / 2


@pytest.mark.no_cover
def test_sequence_of_requests_gets_documented_responses(app: FastAPI, session: Session) -> None:
    headers = bearer(make_token(session, TOKEN, UserRole.ADMINISTRATOR))
    findings = run_schemathesis(app, headers, "stateful", examples=100)
    assert findings.failures == []
    assert any(label.startswith("DELETE ") for label in findings.successful)


@pytest.mark.no_cover
def test_operator_gets_documented_responses(app: FastAPI, session: Session) -> None:
    headers = bearer(make_token(session, TOKEN, UserRole.OPERATOR))
    findings = run_schemathesis(app, headers, "fuzzing", examples=2)
    assert findings.failures == []
    changes = [label for label in findings.successful if not label.startswith("GET ")]
    assert "POST /api/v1/runs" in changes
    assert not any(label.startswith(ADMINISTRATION) for label in findings.successful)


@pytest.mark.no_cover
def test_viewer_gets_documented_responses(app: FastAPI, session: Session) -> None:
    headers = bearer(make_token(session, TOKEN, UserRole.VIEWER))
    findings = run_schemathesis(app, headers, "fuzzing", examples=2)
    assert findings.failures == []
    assert "GET /api/v1/titles" in findings.successful
    assert all(label.startswith("GET ") for label in findings.successful)


@pytest.mark.no_cover
def test_no_operation_is_possible_without_credentials(app: FastAPI) -> None:
    findings = run_schemathesis(app, {}, "fuzzing", examples=1)
    assert findings.failures == []
    assert set().union(*findings.statuses.values()) == {401, 403}


@pytest.mark.no_cover
def test_response_that_is_not_documented_is_found(app: FastAPI, session: Session) -> None:
    path = "/api/v1/runs/{run_id}"
    document = app.openapi()
    changed = {**document, "paths": {path: deepcopy(document["paths"][path])}}
    del changed["paths"][path]["get"]["responses"]["404"]
    headers = bearer(make_token(session, TOKEN, UserRole.VIEWER))
    findings = run_schemathesis(app, headers, "fuzzing", examples=4, document=changed)
    assert findings.failures
    assert all("Received: 404" in failure for failure in findings.failures), findings.failures
