"""Turns a coroutine into an exit code, and exceptions into a line for people."""

import errno
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NoReturn

import structlog
from rich.console import Console
from rich.markup import escape

from dispatcher.errors import ResourcesError, SettingsError, SettingsProblem
from dispatcher.settings import Settings

log = structlog.get_logger(__name__)

EXIT_FAILED = 1
EXIT_WRONG_SETTINGS = 2
EXIT_INTERRUPTED = 130
"""Ctrl-C before anything runs that needs time to stop; the usual code in shells."""

_CANNOT_BIND = {errno.EACCES, errno.EADDRINUSE, errno.EADDRNOTAVAIL}


def run_to_exit(run: Callable[[], Awaitable[int | None]], settings: Settings, *, worker: str = "") -> None:
    """Run until it returns; an exception becomes one log line and an exit code.

    Args:
        run: Returns the exit code, None for 0.
        settings: How to log, and the address to name if it cannot be bound.
        worker: The name of this process if it is one of several.
    """
    import trio  # noqa: PLC0415 - `config` does without it

    from dispatcher.telemetry.logs import configure_logging  # noqa: PLC0415

    configure_logging(settings.log_level, settings.log_format, worker)
    code: int | None = 0
    problems: list[SettingsProblem] = []
    try:
        code = trio.run(run)
    except* SettingsError as group:
        problems = [problem for error in _leaves(group) for problem in error.problems]
    except* ResourcesError as group:
        log.error("cannot start", error=str(next(_leaves(group))))  # noqa: TRY400 - the reason is enough
        # The interpreter's normal exit can hang if no thread could be started (seen in CPython 3.11, `ulimit -v`).
        logging.shutdown()
        os._exit(EXIT_FAILED)
    except* KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except* Exception as group:
        code = EXIT_FAILED
        if all(_cannot_bind(error) for error in _leaves(group)):
            reason = str(next(_leaves(group)))
            log.error("cannot bind", bind=settings.bind, error=reason)  # noqa: TRY400 - the reason says it all
        else:
            log.exception("failed", exc_info=group)
    if code:
        sys.exit(code)
    if problems:
        refuse(problems)


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[Any]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _cannot_bind(error: BaseException) -> bool:
    return isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno in _CANNOT_BIND)


def refuse(problems: Sequence[SettingsProblem]) -> NoReturn:
    """Report what is wrong with the settings, and exit."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    number = len(problems)
    console.print(f"[bold red]{number} invalid setting{'s' if number > 1 else ''}; nothing was started.[/]")
    for problem in problems:
        console.print(f"  [bold]{escape(problem.key)}[/] = {escape(problem.value)}\n    {escape(problem.remedy)}")
    sys.exit(EXIT_WRONG_SETTINGS)
