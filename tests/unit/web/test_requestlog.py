"""A log line for each request."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from fastapi import FastAPI, Request

from accession.core.logging import set_up_logging
from accession.core.settings import Settings
from accession.web import requestlog
from accession.web.requestlog import RequestLog
from tests.fixtures.web_server import served

Logged = Callable[[str, str], list[str]]


@dataclass
class Principal:
    name: str


def app() -> FastAPI:
    """An app that knows who asks, when that is said."""
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
def logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Logged]:
    """The lines about one request in a form of log; afterwards logging is as it was."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)

    def lines_of(log_format: str, path: str) -> list[str]:
        set_up_logging(Settings(log_format=log_format))
        # Another server of this process may have given it a level.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        monkeypatch.setattr(requestlog, "log", structlog.get_logger("accession.web.requestlog"))
        with served(app()) as client:
            client.get(path)
        return capsys.readouterr().err.splitlines()

    yield lines_of
    root.handlers[:], root.level = before
    root.setLevel(before[1])
    logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)
    structlog.reset_defaults()


def told(lines: list[str]) -> dict[str, Any]:
    """The only line, without what differs from time to time."""
    (line,) = map(json.loads, lines)
    assert line.pop("milliseconds") >= 0
    assert line.pop("timestamp")
    said: dict[str, Any] = line
    return said


def test_a_request_is_one_line_without_its_query(logged: Logged) -> None:
    assert told(logged("json", "/titles/abc?who=&token=secret")) == {
        "event": "request",
        "level": "info",
        "logger": "accession.web.requestlog",
        "method": "GET",
        "path": "/titles/abc",
        "status": 200,
    }


def test_who_has_asked_is_told_where_it_is_known(logged: Logged) -> None:
    assert told(logged("json", "/titles/abc?who=Ada"))["principal"] == "Ada"


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/broken", 500)])
def test_requests_that_fail_are_told_too(logged: Logged, path: str, status: int) -> None:
    line = told(logged("json", path))

    assert (line["path"], line["status"]) == (path, status)


def test_a_path_can_neither_begin_a_line_nor_fill_the_log(logged: Logged) -> None:
    (line,) = logged("console", "/titles/a%0Afake%1b[2J" + "b" * 5000)

    assert line.isprintable()
    assert len(line) < 1000
    assert "method=GET" in line
    assert "status=200" in line
