"""What goes wrong, told as RFC 9457 has it: `application/problem+json`."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError as BrokerError
from pydantic import BaseModel, Field
from redis import RedisError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from accession.bibliotheca.errors import RemoteIntegrationException
from accession.errors import NotFound, Unusable, UserError
from accession.harmless import harmless

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """Why a request was not done."""

    type: str = Field(default="about:blank", description="What kind of problem; the status says enough.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened, to what, and what to do next.")


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer that tells of a problem."""
    told = Problem(title=HTTPStatus(status).phrase, status=status, detail=harmless(detail))
    return JSONResponse(
        told.model_dump(), status, headers=dict(headers) if headers else None, media_type=MEDIA_TYPE
    )


def as_problem(error: Exception) -> tuple[int, str, Mapping[str, str] | None] | None:
    """The status, the sentence and the headers that tell of an error; None for one that is a bug of ours."""
    match error:
        case NotFound():
            return HTTPStatus.NOT_FOUND, str(error), None
        case Unusable():
            return HTTPStatus.UNPROCESSABLE_ENTITY, str(error), None
        case UserError():
            return HTTPStatus.CONFLICT, str(error), None
        case RemoteIntegrationException():
            return HTTPStatus.BAD_GATEWAY, str(error), None
        case OperationalError():
            return HTTPStatus.SERVICE_UNAVAILABLE, "The database does not answer: see that it runs.", None
        case RedisError() | BrokerError():
            return HTTPStatus.SERVICE_UNAVAILABLE, "The broker does not answer: see that it runs.", None
        case RequestValidationError():
            return HTTPStatus.UNPROCESSABLE_ENTITY, _first_fault(error), None
        case HTTPException():
            return error.status_code, error.detail, error.headers
    return None


def _first_fault(error: RequestValidationError) -> str:
    fault: Mapping[str, Any] = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"][1:]) or str(fault["loc"][0])
    return f"{place} cannot be used: {fault['msg'].removeprefix('Value error, ')}."


async def answer_problem(_: Request, error: Exception) -> JSONResponse:
    """The answer to a request for data that ended with an error."""
    told = as_problem(error)
    if told is None:
        # The server logs it once it has risen.
        told = (
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "Something went wrong in Accession: its log says what.",
            None,
        )
    return problem(*told)
