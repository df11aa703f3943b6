"""What goes wrong, as whoever asked is told: a status and a sentence, for programs as RFC 9457 has it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError as BrokerError
from pydantic import BaseModel, Field
from redis import RedisError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from accession.bibliotheca.errors import RemoteIntegrationException
from accession.core.errors import NotFound, Unusable, UserError
from accession.core.sanitize import harmless

MEDIA_TYPE = "application/problem+json"

_LATER = {"Retry-After": "10"}


class Problem(BaseModel):
    """Why a request was not done."""

    type: str = Field(default="about:blank", description="What kind of problem; the status says enough.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened, to what, and what to do next.")


class Refused(Exception):
    """A request that is not granted."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """`detail` is the sentence that says why, and what to do."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


BUG = Refused(500, "Something went wrong in Accession: its log says what.", {"Connection": "close"})
"""What is told of an error that nobody foresaw. The server closes the connection on which one rose."""

FORESEEN: tuple[type[Exception], ...] = (
    Refused,
    UserError,
    RemoteIntegrationException,
    OperationalError,
    RedisError,
    BrokerError,
    RequestValidationError,
    HTTPException,
)


def refused_by(error: Exception) -> Refused:
    """What to tell of an error; `BUG` of one that is none of `FORESEEN`."""
    match error:
        case Refused():
            return error
        case NotFound():
            return Refused(404, str(error))
        case Unusable():
            return Refused(422, str(error))
        case UserError():
            return Refused(409, str(error))
        case RemoteIntegrationException():
            return Refused(502, str(error))
        case OperationalError():
            return Refused(503, "The database does not answer: see `accession doctor`.", _LATER)
        case RedisError() | BrokerError():
            return Refused(503, "The broker does not answer: see `accession doctor`.", _LATER)
        case RequestValidationError():
            return Refused(422, _first_fault(error))
        case HTTPException():
            return Refused(error.status_code, error.detail, error.headers)
    return BUG


def _first_fault(error: RequestValidationError) -> str:
    fault: Mapping[str, Any] = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"][1:]) or str(fault["loc"][0])
    return f"{place} cannot be used: {fault['msg'].removeprefix('Value error, ')}."


def problem(refused: Refused) -> JSONResponse:
    """The answer for a program."""
    told = Problem(
        title=HTTPStatus(refused.status).phrase, status=refused.status, detail=harmless(refused.detail)
    )
    return JSONResponse(told.model_dump(), refused.status, refused.headers, media_type=MEDIA_TYPE)
