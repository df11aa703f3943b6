"""Property test: the API conforms to its own OpenAPI document."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy.orm import Session

from accession.db.models import Collection
from tests.fixtures.vendor import ScriptedVendor
from tests.fixtures.web_client import OpenBrowser, bearer, make_token

OPENAPI_PATH = "/api/v1/openapi.json"


@pytest.mark.no_cover  # slow if measured, and other tests run the same lines
def test_any_request_gets_a_response_as_documented(
    open_browser: OpenBrowser, session: Session, collection: Collection, vendor: ScriptedVendor, ann: str
) -> None:
    # Imported here, because it takes half a second, also in processes that run other tests.
    import schemathesis
    from schemathesis.core.result import Ok
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    headers = bearer(make_token(session))
    schema = schemathesis.openapi.from_asgi(OPENAPI_PATH, open_browser().app, headers=headers)
    for operation in schema.get_all_operations():
        assert isinstance(operation, Ok)

        @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.ok().as_strategy())
        def check(case: schemathesis.Case[Any]) -> None:
            # The API also rejects values that a schema cannot describe, with status 422.
            case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

        check()
