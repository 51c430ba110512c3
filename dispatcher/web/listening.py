"""The listening sockets: accepting continues whatever an accept returns, and pauses when descriptors run out."""

import errno
import math
import os
import resource
import socket
from collections.abc import Callable

import structlog
import trio

log = structlog.get_logger(__name__)

BACKLOG = 4096
"""Connections that the kernel queues while we are busy: all of another replica's subscribers may arrive at once."""

ACCEPTED_PER_TURN = 8
"""Connections accepted in one turn of the loop. With one alone, those of a flood are in front of everybody's in the
kernel's queue, and a health check waits there for as long as the flood is ahead; here addresses take turns (`Pace`)."""

REST_SECONDS = 0.1
"""How long accepting is paused when the process, or the machine, has no descriptor or no memory for one more."""

LOG_SECONDS = 60.0
"""Least time between two log lines about that."""

RESERVED_DESCRIPTORS = 64
"""What is left for the Kafka clients, which connect to each broker, and for files, past what is open at the start."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def connections_within_descriptors(max_connections: int, max_subscribers: int = 0) -> int:
    """`max_connections`, or what the limit of descriptors leaves; with a warning if `max_subscribers` is more."""
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return max_connections
    try:
        is_open = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are enough
    except OSError:  # not Linux
        is_open = RESERVED_DESCRIPTORS
    left = limit - is_open - RESERVED_DESCRIPTORS
    if left < min(max_connections, max_subscribers):
        log.warning(
            "the limit of descriptors allows fewer connections than max_subscribers",
            connections=max(16, left),
            max_subscribers=max_subscribers,
            descriptors=limit,
        )
    return max(16, min(max_connections, left))


async def accept_for_ever(
    listener: trio.SocketListener,
    take: Callable[[trio.SocketStream], None],
    make_room: Callable[[], object],
) -> None:
    """Accept connections until cancelled. *Cancellation*: safe.

    Args:
        listener: Where.
        take: Takes each connection; never waits.
        make_room: Called when there is no descriptor for one more.
    """
    logged_at = -math.inf
    while True:
        try:
            stream = await listener.accept()
        except trio.ClosedResourceError:
            return
        except OSError as error:
            if error.errno == errno.EINVAL:
                # A parent process has ended the listening, and may begin it again (`workers.sockets`).
                await trio.sleep(REST_SECONDS)
                continue
            # Others are about that one connection: it has gone already.
            if error.errno not in _OUT_OF_RESOURCES:
                continue
            now = trio.current_time()
            if now - logged_at >= LOG_SECONDS:
                logged_at = now
                log.error("accepting paused: out of descriptors", error=os.strerror(error.errno))  # noqa: TRY400
            make_room()
            await trio.sleep(REST_SECONDS)
        else:
            take(stream)
            _accept_more(listener.socket, take)


def _accept_more(listening: trio.socket.SocketType, take: Callable[[trio.SocketStream], None]) -> None:
    """Accept what else waits, up to the bound, without another turn of the loop."""
    # Trio's own `accept` is a turn each time.
    plain = socket.socket(listening.family, listening.type, listening.proto, fileno=listening.fileno())
    try:
        for _ in range(ACCEPTED_PER_TURN - 1):
            accepted, _address = plain.accept()
            take(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))
    except OSError:
        pass  # nothing waits; or the next turn meets the error, too
    finally:
        plain.detach()
