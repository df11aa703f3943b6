"""JSON API: requests that it refuses, and what the OpenAPI document says of them."""

from typing import Any

import httpx
import pytest
from redis import Redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from accession.db.models import Collection, Run
from tests.fixtures.web_client import Browser, bearer, make_token

API = "/api/v1"


@pytest.fixture
def api(browser: Browser, session: Session, collection: Collection) -> Browser:
    """Return a client that sends an operator's token; there is one collection."""
    browser.headers = bearer(make_token(session))
    return browser


@pytest.fixture
def document(browser: Browser) -> dict[str, Any]:
    """Return the OpenAPI document."""
    document: dict[str, Any] = browser.get(f"{API}/openapi.json").json()
    return document


def detail(response: httpx.Response, status: int) -> str:
    """Return the sentence of a problem document with this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return str(response.json()["detail"])


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("collections/1/runs", {"workflow": "purchases", "force_reimport": 0}, "force_reimport"),
        ("collections/1/runs", {"workflow": "purchases", "force_reimport": "true"}, "force_reimport"),
        ("runs", {"workflow": "purchases", "collection_ids": ["1"]}, "collection_ids.0"),
        ("collections/pause", {"reason": "", "cancel_runs": 1}, "reason"),
        ("collections/pause", {"reason": "move", "cancel_runs": 1}, "cancel_runs"),
        ("collections/pause", {"reason": "move", "until": 1_900_000_000}, "until"),
        ("collections/pause", {"reason": "move", "until": "1900000000"}, "until"),
        ("collections/1/backfill", {"first_day": 1_500_000_000, "last_day": "2020-01-01"}, "first_day"),
        ("collections/1/backfill", {"first_day": "20200101", "last_day": "2020-01-01"}, "first_day"),
        ("collections/1/verification", {"repair": "false"}, "repair"),
        ("rejected-records/retry", {"last_id": 1.0}, "last_id"),
    ],
)
def test_value_of_another_type_is_refused(
    api: Browser, session: Session, redis: Redis, path: str, body: Any, field: str
) -> None:
    assert detail(api.post(f"{API}/{path}", json=body), 422).startswith(f"{field} is invalid: ")
    assert session.scalar(select(func.count(Run.id))) == 0
    assert redis.llen("default") == 0


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("titles?with_warnings=1", "with_warnings"),
        ("titles?purchased_until=0", "purchased_until"),
        ("titles?purchased_from=2020-01-01T00:00:00", "purchased_from"),
        ("rejected-records?resolved=yes", "resolved"),
        ("rejected-records?received_from=1700000000", "received_from"),
        ("runs?ended_since=1700000000", "ended_since"),
        ("runs?ended_since=2020-01-01", "ended_since"),
        ("runs?ended_before=0001-01-01T00:00:00%2B14:00", "ended_before"),
    ],
)
def test_parameter_in_another_format_is_refused(api: Browser, path: str, parameter: str) -> None:
    assert detail(api.get(f"{API}/{path}"), 422).startswith(f"{parameter} is invalid: it ")


def test_parameter_in_documented_format_is_accepted(api: Browser) -> None:
    for path in (
        "titles?with_warnings=false&purchased_until=2020-01-31",
        "rejected-records?resolved=true&received_from=2020-01-31",
        "runs?ended_since=2020-01-31T12:00:00Z&ended_before=2020-01-31t13:30:00.5%2B01:00",
    ):
        assert api.get(f"{API}/{path}").status_code == 200


def test_unknown_parameter_is_refused(api: Browser) -> None:
    path = f"{API}/collections/1/schedules/events?dryrun=true"
    assert detail(api.request("PUT", path, json={}), 422) == (
        "The parameter dryrun is unknown: this operation has dry_run."
    )
    assert detail(api.get(f"{API}/collections?name=Alder"), 422) == (
        "The parameter name is unknown: this operation has cause, filter, sort, text."
    )
    assert detail(api.post(f"{API}/runs/1/cancel?force=true"), 422).endswith("this operation has none.")


def test_unknown_field_is_refused(api: Browser) -> None:
    for path, body in (
        ("collections/1/runs", {"workflow": "purchases", "force": True}),
        ("runs", {"workflow": "purchases", "collection": 1}),
        ("webhooks/1/pause", {"cause": "move"}),
    ):
        assert detail(api.post(f"{API}/{path}", json=body), 422).endswith("Extra inputs are not permitted.")


@pytest.mark.parametrize(
    ("content", "media_type", "status", "sentence"),
    [
        (b'{"workflow": ', "application/json", 400, "The body is not valid JSON: see character 14."),
        (b'"\xff"', "application/json", 400, "The body cannot be read: send valid JSON"),
        (b'{"workflow": "events"}', "text/plain", 415, "The body has no JSON media type"),
        (b"[]", "application/json", 422, "body is invalid"),
        (b"", "application/json", 422, "body is invalid: Field required."),
    ],
)
def test_body_that_is_no_json_object_is_refused(
    api: Browser, content: bytes, media_type: str, status: int, sentence: str
) -> None:
    response = api.post(f"{API}/runs", content=content, headers={"Content-Type": media_type})
    assert detail(response, status).startswith(sentence)


def test_empty_configuration_is_refused(browser: Browser) -> None:
    response = browser.post(f"{API}/configuration/apply?prune=true", content=b"\n")
    assert detail(response, 422).startswith("The request has no body")


def test_path_of_an_action_has_only_its_method(api: Browser) -> None:
    for path in ("collections/pause", "runs/retry", "rejected-records/resolve"):
        response = api.get(f"{API}/{path}")
        assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_errors_are_documented_as_problems(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            errors = {status: each for status, each in operation["responses"].items() if status >= "400"}
            bodies = {"400", "413", "415"} if "requestBody" in operation else set()
            assert errors.keys() >= {"401", "403", "422", "503"} | bodies, path
            assert all(list(each["content"]) == ["application/problem+json"] for each in errors.values()), (
                path
            )


def test_only_reading_is_documented_as_possible_anonymously(document: dict[str, Any]) -> None:
    for methods in document["paths"].values():
        for method, operation in methods.items():
            assert ({} in operation["security"]) == (method == "get")
    schemes = document["components"]["securitySchemes"]
    assert (schemes["token"]["scheme"], schemes["session"]["in"]) == ("bearer", "cookie")


def test_every_operation_and_parameter_is_described(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    for operation in operations:
        assert operation["operationId"].replace("_", "").isalpha()
        assert operation["description"]
        assert set(operation["tags"]) <= tags
        assert all(parameter["description"] for parameter in operation.get("parameters", []))
