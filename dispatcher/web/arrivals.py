"""Connections that have not sent the head of their first request: each is a socket and some bytes, without a task.

So clients that open connections and send half a head cost little. One task reads from all of them; a connection gets a
task, a parser and a place in line once its head is complete.

Rules of this module:

* Bytes that cannot begin a head, or are too many for one, are passed on at once: the parser knows what to answer.
* What a client has sent is passed on as it was received, including what follows the head.
* All of them have the same time for a head, so they expire in the order in which they came.
"""

import math
import os
import re
import select
import socket
import struct
from collections.abc import Callable, Hashable
from contextlib import suppress

import trio

from dispatcher.sansio.addresses import Address
from dispatcher.web.http11 import MAX_HEAD_BYTES
from dispatcher.web.intake import Place

READS_PER_TURN = 16
"""Maximum number of connections that are read from per turn of the loop: 5 µs each, 50 µs if that completes a head."""

_LEAST_FIRST_BYTE = 0x21
"""A lower byte begins no head (h11 refuses it at once), but TLS, for example, or an empty line."""

_BLANK_LINE = re.compile(rb"\n\r?\n")
"""The end of a head, as h11 finds it."""


class Arrival:
    """A connection before its first request (`intake.Closable`). *Thread*: Trio's.

    Args:
        stream: The socket.
        peer: The other end.
        holder: The owner of its place.
        place: Its place.
    """

    __slots__ = ("aborted", "among", "expires_at", "holder", "peer", "place", "received", "stream")

    def __init__(self, stream: trio.SocketStream, peer: Address, holder: Hashable, place: Place) -> None:
        self.stream = stream
        self.peer = peer
        self.holder = holder
        self.place = place
        self.received = b""
        """What the client has sent."""
        self.aborted = False
        self.among: Arrivals | None = None
        """Those with which it waits for the rest of its head."""
        self.expires_at = math.inf

    def abort(self) -> None:
        """Close it, with a reset."""
        self.aborted = True
        with suppress(OSError):
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close it."""
        if self.among is not None:
            self.among.forget(self)
        self.stream.socket.close()


class Arrivals:
    """The connections that wait for the rest of their heads.

    *Thread*: Trio's. Where there is no epoll (not Linux), each connection is passed on at once.

    Args:
        timeout_seconds: Maximum time for a head.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._waiting: dict[int, Arrival] = {}
        """By descriptor, in the order in which they came."""
        self._epoll: select.epoll | None = None
        self._pass_on: Callable[[Arrival], None] | None = None
        self._patience = trio.CancelScope()
        """Its deadline is the first one's."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self._waiting)

    async def read_heads(
        self, pass_on: Callable[[Arrival], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Read until cancelled, then close those that are left. *Cancellation*: safe.

        Args:
            pass_on: Takes each connection whose head is complete.
            task_status: Started when connections can be added.
        """
        self._pass_on = pass_on
        try:
            if not hasattr(select, "epoll"):
                task_status.started()
                await trio.sleep_forever()
            self._epoll = epoll = select.epoll()
            task_status.started()
            while True:
                await self._step(epoll)
        finally:
            self._pass_on = None
            for arrival in tuple(self._waiting.values()):
                self._end(arrival)
            if self._epoll is not None:
                self._epoll.close()
                self._epoll = None

    def add(self, arrival: Arrival) -> None:
        """Take a connection that was accepted; one that comes after the end is closed."""
        if self._pass_on is None:
            self._end(arrival)
        elif self._epoll is None:
            self._pass_on(arrival)
        elif self._needs_more(arrival):
            arrival.among, arrival.expires_at = self, trio.current_time() + self._timeout_seconds
            if not self._waiting:
                self._patience.deadline = arrival.expires_at
            descriptor = arrival.stream.socket.fileno()
            self._waiting[descriptor] = arrival
            self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, arrival: Arrival) -> None:
        """Read no more from a connection, which still has its descriptor."""
        descriptor, arrival.among = arrival.stream.socket.fileno(), None
        del self._waiting[descriptor]
        if self._epoll is not None:
            self._epoll.unregister(descriptor)

    async def _step(self, epoll: select.epoll) -> None:
        """Wait for some of them, and read what they have sent."""
        first = next(iter(self._waiting.values()), None)
        with trio.CancelScope(deadline=math.inf if first is None else first.expires_at) as self._patience:
            await trio.lowlevel.wait_readable(epoll.fileno())
        now, first = trio.current_time(), next(iter(self._waiting.values()), None)
        while first is not None and first.expires_at <= now:
            self._end(first)
            first = next(iter(self._waiting.values()), None)
        for descriptor, _events in epoll.poll(0, READS_PER_TURN):
            self._needs_more(self._waiting[descriptor])

    def _needs_more(self, arrival: Arrival) -> bool:
        """Read what a client has sent; returns whether its head is still incomplete."""
        try:
            data = os.read(arrival.stream.socket.fileno(), MAX_HEAD_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            self._end(arrival)
            return False
        searched_bytes = max(0, len(arrival.received) - 2)
        arrival.received = received = arrival.received + data
        if (
            received[0] >= _LEAST_FIRST_BYTE
            and len(received) <= MAX_HEAD_BYTES
            and not _BLANK_LINE.search(received, searched_bytes)
        ):
            return True
        if arrival.among is not None:
            self.forget(arrival)
        if self._pass_on is not None:
            self._pass_on(arrival)
        return False

    @staticmethod
    def _end(arrival: Arrival) -> None:
        """Close one whose client has left, or whose time is over."""
        arrival.close()
        arrival.place.release()
