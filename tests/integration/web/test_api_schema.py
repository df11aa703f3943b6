"""Property tests: the API conforms to its own OpenAPI document, whoever sends the requests.

The requests with boundary values are in `test_api_boundary_values.py`, so that two processes share the work.
"""

from copy import deepcopy

import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from accession.auth.roles import UserRole
from tests.fixtures.api_schema import TOKEN, run_schemathesis
from tests.fixtures.web_client import bearer, make_token

ADMINISTRATION = tuple(
    f"{method} /api/v1/{path}"
    for method in ("GET", "POST", "PATCH", "DELETE")
    for path in ("users", "tokens", "audit", "settings", "configuration")
)


@pytest.mark.no_cover  # slow if measured, and other tests run the same lines
def test_administrator_gets_documented_responses(populated_app: FastAPI, session: Session) -> None:
    headers = bearer(make_token(session, TOKEN, UserRole.ADMINISTRATOR))
    findings = run_schemathesis(populated_app, headers, "fuzzing", examples=4)
    assert findings.failures == []
    assert len(findings.successful) > len(findings.statuses) / 2


@pytest.mark.no_cover
def test_sequence_of_requests_gets_documented_responses(populated_app: FastAPI, session: Session) -> None:
    headers = bearer(make_token(session, TOKEN, UserRole.ADMINISTRATOR))
    findings = run_schemathesis(populated_app, headers, "stateful", examples=100)
    assert findings.failures == []
    assert any(label.startswith("DELETE ") for label in findings.successful)


@pytest.mark.no_cover
def test_operator_gets_documented_responses(populated_app: FastAPI, session: Session) -> None:
    headers = bearer(make_token(session, TOKEN, UserRole.OPERATOR))
    findings = run_schemathesis(populated_app, headers, "fuzzing", examples=2)
    assert findings.failures == []
    changes = [label for label in findings.successful if not label.startswith("GET ")]
    assert "POST /api/v1/runs" in changes
    assert not any(label.startswith(ADMINISTRATION) for label in findings.successful)


@pytest.mark.no_cover
def test_viewer_gets_documented_responses(populated_app: FastAPI, session: Session) -> None:
    headers = bearer(make_token(session, TOKEN, UserRole.VIEWER))
    findings = run_schemathesis(populated_app, headers, "fuzzing", examples=2)
    assert findings.failures == []
    assert "GET /api/v1/titles" in findings.successful
    assert all(label.startswith("GET ") for label in findings.successful)


@pytest.mark.no_cover
def test_no_operation_is_possible_without_credentials(populated_app: FastAPI) -> None:
    findings = run_schemathesis(populated_app, {}, "fuzzing", examples=1)
    assert findings.failures == []
    assert set().union(*findings.statuses.values()) == {401, 403}


@pytest.mark.no_cover
def test_response_that_is_not_documented_is_found(populated_app: FastAPI, session: Session) -> None:
    path = "/api/v1/runs/{run_id}"
    document = populated_app.openapi()
    changed = {**document, "paths": {path: deepcopy(document["paths"][path])}}
    del changed["paths"][path]["get"]["responses"]["404"]
    headers = bearer(make_token(session, TOKEN, UserRole.VIEWER))
    findings = run_schemathesis(populated_app, headers, "fuzzing", examples=4, document=changed)
    assert findings.failures
    assert all("Received: 404" in failure for failure in findings.failures), findings.failures
