"""Log lines: one set-up, two forms, and each line carries what it is about."""

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

SetUp = Callable[..., Any]


@pytest.fixture
def set_up() -> Iterator[SetUp]:
    """Set up logging as the settings say; returns a logger. Afterwards logging is as it was."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    levels = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "alembic", "kombu")}

    def up(**settings: Any) -> Any:
        configure_logging(Settings(**settings))
        return structlog.get_logger(f"accession.{uuid4().hex}")

    yield up
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


def test_a_json_line_carries_what_it_is_about(set_up: SetUp, capsys: pytest.CaptureFixture[str]) -> None:
    log = set_up(log_format="json")
    with structlog.contextvars.bound_contextvars(workflow="purchases", collection=7, run="task-1"):
        log.info("page imported", records=50)

    (line,) = lines(capsys)
    said = json.loads(line)
    moment = datetime.fromisoformat(said.pop("timestamp"))
    assert moment.tzinfo is not None
    assert said.pop("logger").startswith("accession.")
    assert said == {
        "event": "page imported",
        "level": "info",
        "workflow": "purchases",
        "collection": 7,
        "run": "task-1",
        "records": 50,
    }


def test_a_console_line_carries_what_it_is_about(set_up: SetUp, capsys: pytest.CaptureFixture[str]) -> None:
    log = set_up()
    with structlog.contextvars.bound_contextvars(workflow="purchases", collection=7):
        log.warning("the chain stops", run="task-1")

    (line,) = lines(capsys)
    assert "\x1b" not in line
    for part in ("warning", "the chain stops", "workflow=purchases", "collection=7", "run=task-1"):
        assert part in line


def test_lines_of_libraries_carry_what_they_are_about_too(
    set_up: SetUp, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(log_format="json")
    with structlog.contextvars.bound_contextvars(run="task-1"):
        logging.getLogger("celery.worker").warning("lost %s", "connection", extra={"broker": "valkey"})

    (line,) = lines(capsys)
    said = json.loads(line)
    assert (said["event"], said["run"], said["broker"], said["level"], said["logger"]) == (
        "lost connection",
        "task-1",
        "valkey",
        "warning",
        "celery.worker",
    )


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_nothing_below_the_chosen_level_is_written(
    set_up: SetUp, capsys: pytest.CaptureFixture[str], level: str, shown: list[str]
) -> None:
    log = set_up(log_level=level, log_format="json")
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("said")
        getattr(logging.getLogger("some.library"), name)("said too")

    assert [json.loads(line)["level"] for line in lines(capsys)] == [
        each for name in shown for each in (name,) * 2
    ]


def test_libraries_that_say_at_info_what_our_lines_say_better_are_quiet_even_at_debug(
    set_up: SetUp, capsys: pytest.CaptureFixture[str]
) -> None:
    """httpcore would print signed headers."""
    set_up(log_level="debug")
    for name in ("httpx", "httpcore.http11", "alembic.runtime", "kombu.pidbox"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).debug("chatter")

    assert lines(capsys) == []


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_comes_with_its_traceback(
    set_up: SetUp, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    log = set_up(log_format=log_format)
    try:
        raise RuntimeError("why it failed")
    except RuntimeError:
        log.exception("it failed")

    said = lines(capsys)
    assert len(said) == 1 if log_format == "json" else len(said) > 1
    text = "\n".join(said)
    for part in ("it failed", "Traceback", "RuntimeError: why it failed"):
        assert part in text


def test_logging_that_is_set_up_twice_says_everything_once(
    set_up: SetUp, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up()
    log = set_up()
    log.info("once")

    assert len(lines(capsys)) == 1


def test_a_traceback_tells_nothing_of_what_the_variables_held(
    set_up: SetUp, capsys: pytest.CaptureFixture[str]
) -> None:
    for log_format in ("console", "json"):
        log = set_up(log_format=log_format)
        answer = "patron-" + "4711"
        try:
            raise ValueError(len(answer))
        except ValueError:
            log.exception("it failed")

        said = "\n".join(lines(capsys))
        assert "ValueError" in said
        assert "patron-4711" not in said


HOSTILE = (
    "\x1b[2J\x9b31m\x1b]52;c;aGk=\x07\u202egnp.exe \ud800\r\n2024-05-01T00:00:00Z [error    ] all is lost"
    "\u2028\x85\x0b[red]x[/red] \x00"
)


class Strange:
    def __repr__(self) -> str:
        return HOSTILE


def say_it_all(log: Any) -> None:
    """One call each of what is logged of the vendor's words, ours and the libraries'."""
    log.warning(f"said {HOSTILE}", reason=HOSTILE, many=[HOSTILE], strange=Strange())
    with structlog.contextvars.bound_contextvars(title=HOSTILE):
        logging.getLogger("some.library").warning("said %s", HOSTILE, extra={"more": HOSTILE})


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_the_vendor_says_is_one_harmless_line(
    set_up: SetUp, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    say_it_all(set_up(log_format=log_format))

    first, second, *others = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert others == []
    for line in (first, second):
        assert line.isprintable()
        assert "all is lost" in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_an_exception_quotes_is_harmless_and_begins_no_line(
    set_up: SetUp, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    log = set_up(log_format=log_format)
    for said in (log, logging.getLogger("some.library")):
        try:
            raise ValueError(HOSTILE) from KeyError(HOSTILE)
        except ValueError:
            said.exception("it failed")

    printed = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in printed)
    starts = [line for line in printed if line and not line.startswith("    ")]
    assert len(starts) == 2
    assert all("it failed" in line for line in starts)
    assert "ValueError" in "\n".join(printed)
