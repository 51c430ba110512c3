"""Logging: structlog for our own lines, and the same format for those of Hypercorn and librdkafka."""

import logging
import sys
from functools import partial
from typing import Any, Literal

import structlog

from dispatcher.telemetry.outlet import Outlet
from dispatcher.telemetry.rates import ClientLines

_TRACEBACKS = structlog.processors.ExceptionRenderer(
    # Local variables would carry secrets and records into the log.
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure_logging(level: str, form: Literal["auto", "console", "json"], worker: str = "") -> None:
    """Send every log line to stderr, one line each, without ever waiting for a reader.

    Args:
        level: Minimum level to log, such as ``info``.
        form: ``console`` for people, ``json`` for machines, ``auto`` by whether stderr is a terminal.
        worker: The name of this process if it is one of several, for each line.
    """
    has_stderr = sys.stderr is not None  # without a descriptor 2 (`2>&-`) Python has none
    console = form == "console" or (form == "auto" and has_stderr and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if worker:
        shared.append(partial(_add_worker, worker))
    rendering: list[structlog.typing.Processor] = (
        [_escape, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [_TRACEBACKS, structlog.processors.JSONRenderer()]
    )
    lines = ClientLines()
    handler = Outlet(sys.stderr.fileno() if has_stderr else None)
    handler.addFilter(lines.filter)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It logs each request at the level info; our own lines are enough.
    logging.getLogger("httpx2").setLevel(level.upper() if level == "debug" else max(root.level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            lines,  # early, so that a line that is left out costs no further work
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _add_worker(
    worker: str, _logger: Any, _method: str, line: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    line.setdefault("worker", worker)
    return line


def _escape(_logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape text from clients and brokers that would move a terminal's cursor or reverse text; JSON does so anyway."""
    for name, value in line.items():
        if isinstance(value, str) and not value.isprintable():
            line[name] = "".join(
                [one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in value]
            )
    return line


def dropped_lines() -> int:
    """The number of log lines that were dropped because nobody read the log."""
    return sum(handler.dropped_lines for handler in logging.getLogger().handlers if isinstance(handler, Outlet))
