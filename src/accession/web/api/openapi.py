"""The OpenAPI document of the API: what FastAPI does not derive from the endpoints."""

from typing import Any

from accession.web.errors import PROBLEM_MEDIA_TYPE, Problem
from accession.web.request_checks import SAFE_METHODS
from accession.web.sessions import COOKIE

DESCRIPTION = """\
Send a token as `Authorization: Bearer acc_...`. A viewer's token may read, an operator's also change, and an
administrator's also manage channels, webhooks, users, tokens and configuration. While no user exists and the
server listens on a loopback address, programs on its machine may read without a token.

Lists with pages return `items` and `next`: pass `next` as `cursor` to get the next page; it is null on the
last page. Times have a time zone (RFC 3339). Parameters and fields that are not documented are refused.

Errors are `application/problem+json` (RFC 9457): `detail` is one sentence that says what failed, why, and
what to do.
"""

TAGS = {
    "collections": "Collections: accounts with the vendor, schedules, limits and health.",
    "runs": "Runs of workflows, with their steps, log lines and requests to the vendor.",
    "control": "Start, retry, cancel, pause and resume the workflows of several collections.",
    "verification": "Compare the purchases of past months with those that the vendor lists.",
    "titles": "Search the catalogue; titles with their history and purchase records.",
    "rejected records": "Purchase records and events that could not be imported.",
    "reports": "Reports on titles and their use, as JSON or CSV.",
    "exports": "Scheduled exports and their last results.",
    "digests": "Daily or weekly summaries of a collection by mail.",
    "notifications": "Channels, rules and sent messages about problems.",
    "webhooks": "Events that are sent to other programs.",
    "configuration": "The installation as one document.",
    "storage": "Sizes of the tables, and pruning of old rows.",
    "administration": "Users, tokens, audit log, settings and versions.",
}

_SECURITY_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token with a role, created with `accession tokens add`.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "The session of a person who is logged in. Below the path `/accession`, the cookie is "
        "`accession_session_accession`. Changes must come from a page of the dashboard, as browsers state in "
        "`Sec-Fetch-Site` or `Origin`.",
    },
}
_CREDENTIALS: list[dict[str, list[str]]] = [{name: []} for name in _SECURITY_SCHEMES]

_ERRORS = {
    400: "The body is not valid JSON.",
    401: "There is no valid token or session.",
    403: "The caller may not do this, or a change without a token did not come from the dashboard.",
    404: "There is no such object.",
    409: "The request cannot be done in the present state.",
    413: "The body is too long.",
    415: "The body has another media type than JSON.",
    422: "A parameter, or a value of the body, is invalid.",
    502: "The vendor rejected the request or did not respond.",
    503: "The database or the broker is unavailable.",
}
_ERRORS_OF_BODIES = (400, 413, 415)
ERRORS_OF_ALL = (401, 403, 422, 503)
"""Errors of every operation, also without parameters: unknown ones are refused."""

_HEADERS = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    503: {"Retry-After": {"required": True, "schema": {"type": "integer"}, "description": "In seconds."}},
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of error responses."""
    return {
        status: {
            "description": _ERRORS[status],
            "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status in statuses
    }


def complete_document(document: dict[str, Any]) -> None:
    """Add authentication, errors and names to the document that FastAPI has made of the endpoints."""
    components = document["components"]
    components["securitySchemes"] = _SECURITY_SCHEMES
    components["schemas"]["Problem"] = Problem.model_json_schema()
    for methods in document["paths"].values():
        for method, operation in methods.items():
            operation["summary"] = operation["operationId"].replace("_", " ").capitalize()
            for parameter in operation.get("parameters", []):
                parameter.setdefault("description", _describe_id(parameter["name"]))
            operation["security"] = [*_CREDENTIALS, *([{}] if method.upper() in SAFE_METHODS else [])]
            if "requestBody" in operation:
                errors = problem_responses(*_ERRORS_OF_BODIES)
                operation["responses"].update({str(status): error for status, error in errors.items()})


def _describe_id(name: str) -> str:
    return f"Id of the {name.removesuffix('_id').replace('_', ' ')}."
