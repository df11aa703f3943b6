"""Property test: the API conforms to its OpenAPI document at the boundary values of all fields."""

import pytest
from fastapi import FastAPI
from sqlalchemy.orm import Session

from accession.auth.roles import UserRole
from tests.fixtures.api_schema import TOKEN, run_schemathesis
from tests.fixtures.web_client import bearer, make_token


@pytest.mark.no_cover  # slow if measured, and other tests run the same lines
def test_boundary_values_get_documented_responses(populated_app: FastAPI, session: Session) -> None:
    headers = bearer(make_token(session, TOKEN, UserRole.ADMINISTRATOR))
    findings = run_schemathesis(populated_app, headers, "coverage")
    assert findings.failures == []
    assert len(findings.successful) > len(findings.statuses) / 2
