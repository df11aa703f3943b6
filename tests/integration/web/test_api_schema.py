"""The API does what its own OpenAPI document says, whatever it is asked."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import positive_data_acceptance
from sqlalchemy.orm import Session

from accession.db.models import Collection
from tests.fixtures.vendor import Vendor
from tests.fixtures.web_client import Open, make_token

DOCUMENT = "/api/v1/openapi.json"


def test_whatever_is_asked_is_answered_as_the_document_says(
    browser_on: Open, session: Session, collection: Collection, vendor: Vendor, ann: str
) -> None:
    headers = {"Authorization": f"Bearer {make_token(session)}"}
    schema = schemathesis.openapi.from_asgi(DOCUMENT, browser_on().app, headers=headers)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)

        @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=found.ok().as_strategy())
        def holds(case: schemathesis.Case[Any]) -> None:
            # What cannot be used is told with 422, also where no schema could have said so.
            case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance])

        holds()
