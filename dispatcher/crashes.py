"""Logs a crash of our own code when it happens.

The tasks beside it take seconds to end, because the last commit is awaited. If the process is killed meanwhile, its log
would not have the reason.
"""

from collections.abc import Awaitable, Callable

import structlog

from dispatcher.errors import DispatcherError

log = structlog.get_logger(__name__)


async def log_crash(run: Callable[..., Awaitable[None]], *arguments: object, **keywords: object) -> None:
    """Run it; an exception, alone or in a group with others, is logged and passed on.

    *Cancellation*: as that of `run`.
    """
    try:
        await run(*arguments, **keywords)
    except BaseException as error:
        if is_crash(error):
            log.exception("crashed, stopping")
        raise


def is_crash(error: BaseException) -> bool:
    """Whether it is neither a cancellation nor an error with a reason for people, such as an address that is in use."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_crash, error.exceptions))
    return isinstance(error, Exception) and not isinstance(error, DispatcherError | OSError)
