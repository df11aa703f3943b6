"""Request log: one line per request, without private data."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from fastapi import FastAPI, Request

from accession.core.logging import configure_logging
from accession.core.settings import Settings
from accession.web import request_log
from accession.web.request_log import RequestLog
from tests.fixtures.web_server import serve_app

LogRequest = Callable[[str, str], list[str]]


@dataclass
class Principal:
    name: str


def make_app() -> FastAPI:
    """Return an app whose route sets the principal named by the query."""
    app = FastAPI()

    @app.get("/titles/{title}")
    def title(title: str, request: Request, who: str = "") -> str:
        if who:
            request.state.principal = Principal(who)
        return title

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError

    app.add_middleware(RequestLog)
    return app


@pytest.fixture
def log_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[LogRequest]:
    """Return a function that sends a request and returns its log lines in a log format."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)

    def log_lines(log_format: str, path: str) -> list[str]:
        configure_logging(Settings(log_format=log_format))
        # Other tests of this process may have set its level.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        monkeypatch.setattr(request_log, "log", structlog.get_logger("accession.web.request_log"))
        with serve_app(make_app()) as client:
            client.get(path)
        return capsys.readouterr().err.splitlines()

    yield log_lines
    root.handlers[:], root.level = before
    root.setLevel(before[1])
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    structlog.reset_defaults()


def fields_of(lines: list[str]) -> dict[str, Any]:
    """Return the fields of the only line, without the duration and the timestamp."""
    (line,) = lines
    fields: dict[str, Any] = json.loads(line)
    assert fields.pop("milliseconds") >= 0
    assert fields.pop("timestamp")
    return fields


def test_request_is_logged_without_its_query(log_request: LogRequest) -> None:
    assert fields_of(log_request("json", "/titles/abc?who=&token=secret")) == {
        "event": "request",
        "level": "info",
        "logger": "accession.web.request_log",
        "method": "GET",
        "path": "/titles/abc",
        "status": 200,
    }


def test_principal_is_logged_when_known(log_request: LogRequest) -> None:
    assert fields_of(log_request("json", "/titles/abc?who=Ada"))["principal"] == "Ada"


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/broken", 500)])
def test_failed_request_is_logged_with_its_status(log_request: LogRequest, path: str, status: int) -> None:
    fields = fields_of(log_request("json", path))

    assert (fields["path"], fields["status"]) == (path, status)


def test_path_is_escaped_and_shortened_in_the_log(log_request: LogRequest) -> None:
    (line,) = log_request("console", "/titles/a%0Afake%1b[2J" + "b" * 5000)

    assert line.isprintable()
    assert len(line) < 1000
    assert "method=GET" in line
    assert "status=200" in line
