"""Log lines that carry what they are about: one set-up for CLI, workers and beat."""

import logging
import sys
from io import StringIO
from textwrap import indent
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo

from accession.core.sanitize import harmless, harmless_lines
from accession.core.settings import Settings

# These say at INFO what our own lines say better, and httpcore prints signed headers at DEBUG.
_QUIET = (
    "httpx",
    "httpcore",
    "hpack",
    "alembic",
    "kombu",
    "amqp",
    "celery.worker.strategy",
    "celery.app.trace",
)


def set_up_logging(settings: Settings) -> None:
    """Send every log line, ours and the libraries', to standard error in the chosen form."""
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
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=_harmless_traceback
        )
    )
    # JSON escapes what cannot be printed.
    prepared = [] if settings.log_format == "json" else [_harmless_values]
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
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *prepared, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _harmless_values(_logger: object, _method: str, line: EventDict) -> EventDict:
    """One call is one line, whatever the vendor put into it."""
    for name, value in line.items():
        shown = value if isinstance(value, str) else repr(value)
        if name != "exc_info" and not shown.isprintable():
            line[name] = harmless(shown)
    return line


def _harmless_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    """Below the line, indented, so that nothing in it passes for a line; local variables, among them the
    vendor's answers, are not shown."""
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write("\n" + indent(harmless_lines(text.getvalue().strip()), "    "))
