"""Log messages in both formats."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
import structlog

from accession.core.logging import configure_logging
from accession.core.settings import Settings

ConfigureLogging = Callable[..., Any]


@pytest.fixture
def configure() -> Iterator[ConfigureLogging]:
    """Configure logging with these settings and return a logger; logging is restored after the test."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    levels = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "alembic", "kombu")}

    def configure_with(**settings: Any) -> Any:
        configure_logging(Settings(**settings))
        return structlog.get_logger(f"accession.{uuid4().hex}")

    yield configure_with
    root.handlers[:], root.level = before
    root.setLevel(before[1])
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_json_message_has_context(configure: ConfigureLogging, capsys: pytest.CaptureFixture[str]) -> None:
    log = configure(log_format="json")
    with structlog.contextvars.bound_contextvars(workflow="purchases", collection=7, run="task-1"):
        log.info("page imported", records=50)

    (line,) = lines(capsys)
    message = json.loads(line)
    time = datetime.fromisoformat(message.pop("timestamp"))
    assert time.tzinfo is not None
    assert message.pop("logger").startswith("accession.")
    assert message == {
        "event": "page imported",
        "level": "info",
        "workflow": "purchases",
        "collection": 7,
        "run": "task-1",
        "records": 50,
    }


def test_console_message_has_context(configure: ConfigureLogging, capsys: pytest.CaptureFixture[str]) -> None:
    log = configure()
    with structlog.contextvars.bound_contextvars(workflow="purchases", collection=7):
        log.warning("run stopped", run="task-1")

    (line,) = lines(capsys)
    assert "\x1b" not in line
    for part in ("warning", "run stopped", "workflow=purchases", "collection=7", "run=task-1"):
        assert part in line


def test_library_message_has_context(configure: ConfigureLogging, capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_format="json")
    with structlog.contextvars.bound_contextvars(run="task-1"):
        logging.getLogger("celery.worker").warning("lost %s", "connection", extra={"broker": "valkey"})

    (line,) = lines(capsys)
    message = json.loads(line)
    assert (message["event"], message["run"], message["broker"], message["level"], message["logger"]) == (
        "lost connection",
        "task-1",
        "valkey",
        "warning",
        "celery.worker",
    )


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_messages_below_level_are_dropped(
    configure: ConfigureLogging, capsys: pytest.CaptureFixture[str], level: str, expected: list[str]
) -> None:
    log = configure(log_level=level, log_format="json")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("message")
        getattr(logging.getLogger("some.library"), name)("message of a library")

    assert [json.loads(line)["level"] for line in lines(capsys)] == [
        each for name in expected for each in (name,) * 2
    ]


def test_noisy_libraries_are_quiet_at_debug_level(
    configure: ConfigureLogging, capsys: pytest.CaptureFixture[str]
) -> None:
    """httpcore would print signed headers."""
    configure(log_level="debug")
    for name in ("httpx", "httpcore.http11", "alembic.runtime", "kombu.pidbox"):
        logging.getLogger(name).info("message")
        logging.getLogger(name).debug("message")

    assert lines(capsys) == []


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_exception_is_logged_with_traceback(
    configure: ConfigureLogging, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    log = configure(log_format=log_format)
    try:
        raise RuntimeError("why it failed")
    except RuntimeError:
        log.exception("it failed")

    output = lines(capsys)
    assert len(output) == 1 if log_format == "json" else len(output) > 1
    text = "\n".join(output)
    for part in ("it failed", "Traceback", "RuntimeError: why it failed"):
        assert part in text


def test_logging_configured_twice_writes_once(
    configure: ConfigureLogging, capsys: pytest.CaptureFixture[str]
) -> None:
    configure()
    log = configure()
    log.info("once")

    assert len(lines(capsys)) == 1


def test_traceback_has_no_local_variables(
    configure: ConfigureLogging, capsys: pytest.CaptureFixture[str]
) -> None:
    for log_format in ("console", "json"):
        log = configure(log_format=log_format)
        response = "patron-" + "4711"
        try:
            raise ValueError(len(response))
        except ValueError:
            log.exception("it failed")

        output = "\n".join(lines(capsys))
        assert "ValueError" in output
        assert "patron-4711" not in output


HOSTILE = (
    "\x1b[2J\x9b31m\x1b]52;c;aGk=\x07\u202egnp.exe \ud800\r\n2024-05-01T00:00:00Z [error    ] forged line"
    "\u2028\x85\x0b[red]x[/red] \x00"
)


class HostileRepr:
    def __repr__(self) -> str:
        return HOSTILE


def log_hostile_text(log: Any) -> None:
    """Log one message with our logger and one with a library's, with hostile text in every place."""
    log.warning(f"text: {HOSTILE}", reason=HOSTILE, many=[HOSTILE], value=HostileRepr())
    with structlog.contextvars.bound_contextvars(title=HOSTILE):
        logging.getLogger("some.library").warning("text: %s", HOSTILE, extra={"more": HOSTILE})


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_hostile_text_is_one_printable_line(
    configure: ConfigureLogging, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    log_hostile_text(configure(log_format=log_format))

    first, second, *others = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert others == []
    for line in (first, second):
        assert line.isprintable()
        assert "forged line" in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_hostile_traceback_cannot_forge_lines(
    configure: ConfigureLogging, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    log = configure(log_format=log_format)
    for logger in (log, logging.getLogger("some.library")):
        try:
            raise ValueError(HOSTILE) from KeyError(HOSTILE)
        except ValueError:
            logger.exception("it failed")

    printed = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in printed)
    starts = [line for line in printed if line and not line.startswith("    ")]
    assert len(starts) == 2
    assert all("it failed" in line for line in starts)
    assert "ValueError" in "\n".join(printed)
