"""A line in which owners take turns, as do the clients of each owner, however many requests each of them has."""

from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio


class Turns:
    """Grants a limited number of turns at a time.

    The next turn goes to the owner whose last turn, or first request, was longest ago, and among its clients to the one
    whose was: an owner with a hundred clients in line delays another owner by one turn, not by a hundred.

    *Thread*: Trio's.

    Args:
        number: How many turns there are at a time.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.taken = 0
        self._lines: dict[Hashable, dict[Hashable, deque[trio.Event]]] = {}
        """Requests by owner and client, in the order of their next turns."""

    @property
    def waiting(self) -> int:
        """Requests in line. *Thread*: any."""
        return sum(len(line) for clients in tuple(self._lines.values()) for line in tuple(clients.values()))

    @asynccontextmanager
    async def turn(self, client: Hashable) -> AsyncIterator[None]:
        """Hold a turn for the body of the ``async with`` block. *Backpressure*: waits in line. *Cancellation*: safe.

        Args:
            client: The client that asks, or a pair of its owner and the client.
        """
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
        owner, client = client if isinstance(client, tuple) else (client, None)
        self._lines.setdefault(owner, {}).setdefault(client, deque()).append(mine)
        try:
            await mine.wait()
        except trio.Cancelled:
            if mine.is_set():
                self._pass_on()
            else:
                clients = self._lines[owner]
                clients[client].remove(mine)
                if not clients[client]:
                    del clients[client]
                if not clients:
                    del self._lines[owner]
            raise

    def _pass_on(self) -> None:
        if not self._lines:
            self.taken -= 1
            return
        owner, clients = next(iter(self._lines.items()))
        client, line = next(iter(clients.items()))
        del self._lines[owner], clients[client]
        line.popleft().set()
        if line:
            clients[client] = line
        if clients:
            self._lines[owner] = clients
