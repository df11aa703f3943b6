"""HTTP errors of the web app: which status and sentence an exception becomes (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError as BrokerError
from pydantic import BaseModel, Field
from redis import RedisError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from accession.bibliotheca.errors import RemoteIntegrationException
from accession.core.errors import InvalidInput, NotFound, UserError
from accession.core.sanitize import sanitize
from accession.core.validation import first_invalid_field
from accession.db.blocking import is_lock_timeout
from accession.db.engine import database_unavailable
from accession.tasks.broker import broker_unavailable

MAX_BODY_BYTES = 1024 * 1024
"""Length of the longest request body; forms and JSON objects of the API are far shorter."""

PROBLEM_MEDIA_TYPE = "application/problem+json"

_RETRY_LATER = {"Retry-After": "10"}

_ROWS_LOCKED = (
    "Another session of the database keeps rows locked: see the page About for which one, and try again when "
    "it has ended."
)


class Problem(BaseModel):
    """Why a request failed."""

    type: str = Field(default="about:blank", description="Problem type; always about:blank.")
    title: str = Field(description="Name of the HTTP status.")
    status: int = Field(description="HTTP status code.")
    detail: str = Field(description="What failed, why, and what to do.")


class HTTPProblem(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """Create a problem; `detail` is one sentence: what failed, why, and what to do."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


# The server closes a connection on which an unexpected error rose.
INTERNAL_ERROR = HTTPProblem(
    500, "Internal error: see the log of Accession's web server for details.", {"Connection": "close"}
)


def body_too_long() -> HTTPProblem:
    """Return the problem of a request whose body is longer than `MAX_BODY_BYTES`."""
    return HTTPProblem(413, f"The request is too long: send at most {MAX_BODY_BYTES:,} bytes.")


HANDLED_ERRORS: tuple[type[Exception], ...] = (
    HTTPProblem,
    UserError,
    RemoteIntegrationException,
    OperationalError,
    RedisError,
    BrokerError,
    RequestValidationError,
    HTTPException,
)


def problem_from_error(error: Exception) -> HTTPProblem:
    """Return the problem that describes the exception; `INTERNAL_ERROR` for one not in `HANDLED_ERRORS`."""
    match error:
        case HTTPProblem():
            return error
        case NotFound():
            return HTTPProblem(404, str(error))
        case InvalidInput():
            return HTTPProblem(422, str(error))
        case UserError():
            return HTTPProblem(409, str(error))
        case RemoteIntegrationException():
            return HTTPProblem(502, str(error))
        case OperationalError() if is_lock_timeout(error):
            return HTTPProblem(503, _ROWS_LOCKED, _RETRY_LATER)
        case OperationalError():
            return HTTPProblem(503, database_unavailable(), _RETRY_LATER)
        case RedisError() | BrokerError():
            return HTTPProblem(503, broker_unavailable(), _RETRY_LATER)
        case RequestValidationError():
            return _invalid_request(error)
        case HTTPException(status_code=400):
            return HTTPProblem(400, "The body cannot be read: send valid JSON, or a valid form, in UTF-8.")
        case HTTPException(status_code=404):
            return HTTPProblem(404, "There is nothing at this address: check its path.")
        case HTTPException(status_code=413):
            return body_too_long()
        case HTTPException():
            return HTTPProblem(error.status_code, error.detail, error.headers)
    return INTERNAL_ERROR


def _invalid_request(error: RequestValidationError) -> HTTPProblem:
    errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        _, position = errors[0]["loc"]
        return HTTPProblem(400, f"The body is not valid JSON: see character {position + 1}.")
    field = first_invalid_field(errors)
    # FastAPI's paths begin with the parameter's place, such as "query" or "body".
    name = ".".join(field.path[1:]) or field.path[0]
    return HTTPProblem(422, f"{name} is invalid: {field.reason}.")


def problem_response(problem: HTTPProblem) -> JSONResponse:
    """Return the problem as `application/problem+json`."""
    content = Problem(
        title=HTTPStatus(problem.status).phrase, status=problem.status, detail=sanitize(problem.detail)
    )
    return JSONResponse(content.model_dump(), problem.status, problem.headers, media_type=PROBLEM_MEDIA_TYPE)
