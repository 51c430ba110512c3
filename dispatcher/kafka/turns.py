"""A line in which clients take turns, whatever the number of requests that each has waiting."""

from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio


class Turns:
    """At most a number of turns at a time.

    The client whose last turn, or first request, is the longest ago comes next, with its oldest request: a client with
    a hundred requests in line delays another by one turn, not by a hundred.

    *Thread*: Trio's.

    Args:
        number: How many turns there are at a time.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.taken = 0
        self._lines: dict[Hashable, deque[trio.Event]] = {}
        """Requests by client, in the order in which clients come next."""

    @property
    def waiting(self) -> int:
        """Requests in line. *Thread*: any."""
        return sum(map(len, tuple(self._lines.values())))

    @asynccontextmanager
    async def turn(self, client: Hashable) -> AsyncIterator[None]:
        """Have a turn for the body. *Backpressure*: waits in line. *Cancellation*: safe."""
        if self.taken < self.number:
            self.taken += 1
            await self._checkpoint()
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _checkpoint(self) -> None:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._pass_on()
            raise

    async def _wait(self, client: Hashable) -> None:
        mine = trio.Event()
        self._lines.setdefault(client, deque()).append(mine)
        try:
            await mine.wait()
        except trio.Cancelled:
            if mine.is_set():
                self._pass_on()
            else:
                self._lines[client].remove(mine)
                if not self._lines[client]:
                    del self._lines[client]
            raise

    def _pass_on(self) -> None:
        if not self._lines:
            self.taken -= 1
            return
        client, line = next(iter(self._lines.items()))
        del self._lines[client]
        line.popleft().set()
        if line:
            self._lines[client] = line
