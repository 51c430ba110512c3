"""Accepts connections: continues after any error of ``accept``, and pauses when descriptors run out."""

import errno
import math
import os
import resource
import socket
import time
from collections.abc import Callable

import structlog
import trio

log = structlog.get_logger(__name__)

BACKLOG = 4096
"""Connections that the kernel queues while we are busy: all of another replica's subscribers may arrive at once."""

ACCEPTED_PER_TURN = 8
"""Maximum number of connections accepted per turn of the loop. With only one per turn, a health check would wait in the
kernel's queue for the whole flood ahead of it; once connections are accepted, addresses take turns (`Pace`)."""

ACCEPT_SECONDS = 0.0005
"""After this long, no further connection is accepted in the same turn. While all places are taken, each accept also
ends an idle connection, and eight of both would hold the loop for two milliseconds."""

REST_SECONDS = 0.1
"""How long accepting pauses if the process, or the machine, has no descriptor or no memory for another connection."""

LOG_SECONDS = 60.0
"""Minimum time between two log lines about that."""

RESERVED_DESCRIPTORS = 64
"""Descriptors reserved for the Kafka clients, which connect to each broker, and for files, besides those open at the
start."""

_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def connections_within_descriptors(max_connections: int, max_subscribers: int = 0) -> int:
    """`max_connections`, or fewer if the limit of descriptors is lower; warns if that is below `max_subscribers`."""
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
        listener: The listening socket.
        take: Takes each connection; never waits.
        make_room: Called when there is no descriptor for another connection.
    """
    logged_at = -math.inf
    while True:
        try:
            stream = await listener.accept()
        except trio.ClosedResourceError:
            return
        except OSError as error:
            if error.errno == errno.EINVAL:
                # A parent process has stopped listening, and may start again (`workers.sockets`).
                await trio.sleep(REST_SECONDS)
                continue
            # Other errors concern only that connection, which is already gone.
            if error.errno not in _OUT_OF_RESOURCES:
                continue
            now = trio.current_time()
            if now - logged_at >= LOG_SECONDS:
                logged_at = now
                log.error("accepting paused: out of file descriptors", error=os.strerror(error.errno))  # noqa: TRY400
            make_room()
            await trio.sleep(REST_SECONDS)
        else:
            began = time.perf_counter()
            take(stream)
            _accept_more(listener.socket, take, began + ACCEPT_SECONDS)


def _accept_more(listening: trio.socket.SocketType, take: Callable[[trio.SocketStream], None], deadline: float) -> None:
    """Accept other waiting connections, up to the bounds, within the same turn of the loop."""
    # Trio's own `accept` takes a turn each time.
    plain = socket.socket(listening.family, listening.type, listening.proto, fileno=listening.fileno())
    try:
        for _ in range(ACCEPTED_PER_TURN - 1):
            if time.perf_counter() >= deadline:
                return
            accepted, _address = plain.accept()
            take(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))
    except OSError:
        pass  # no connection is waiting, or the next turn gets the same error
    finally:
        plain.detach()
