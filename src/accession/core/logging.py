"""Logging configuration for the command line, the workers and the scheduler."""

import logging
import sys
from io import StringIO
from textwrap import indent
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo

from accession.core.sanitize import sanitize, sanitize_lines
from accession.core.settings import Settings

# Their INFO messages repeat ours. At DEBUG httpcore logs signed headers, and urllib3 URLs of notifications.
_QUIET = (
    "httpx",
    "httpcore",
    "urllib3",
    "hpack",
    "alembic",
    "kombu",
    "amqp",
    "celery.worker.strategy",
    "celery.app.trace",
)


def configure_logging(settings: Settings) -> None:
    """Write all log messages, also those of libraries, to standard error in the configured format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback)
    )
    # JSON escapes unprintable characters by itself.
    sanitizers = [] if settings.log_format == "json" else [_sanitize_values]
    if settings.log_format == "json":
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *sanitizers, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _sanitize_values(_logger: object, _method: str, line: EventDict) -> EventDict:
    """Keep vendor data in a message from breaking the line or controlling the terminal."""
    for name, value in line.items():
        text = value if isinstance(value, str) else repr(value)
        if name != "exc_info" and not text.isprintable():
            line[name] = sanitize(text)
    return line


def _write_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    """Write the traceback indented, so that no line of it can be mistaken for a log message.

    It has no local variables: they may contain vendor data.
    """
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write("\n" + indent(sanitize_lines(text.getvalue().strip()), "    "))
