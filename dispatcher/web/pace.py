"""The pace at which requests begin: a few in each turn of the event loop, and clients take turns.

A request costs a millisecond or more until its stream is open, and the loop runs everything that is ready before it
returns to the records. So a thousand requests that arrive at the same moment would delay every subscriber by a second.
Here they wait in line, by address: a flood from one address delays only itself, and another client's request begins in
the next turn.
"""

from collections import deque
from collections.abc import Hashable

import trio

PER_TURN = 2
"""Requests that begin in one turn of the loop: each has some ten steps to go, so about twenty are under way."""


class Pace:
    """Lets requests begin.

    *Thread*: Trio's. `run` has to run, or no request begins.
    """

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[trio.Event]] = {}
        """Those that wait, by holder, in the order in which holders come next."""
        self._wake_up = trio.Event()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return sum(map(len, self._lines.values()))

    async def pass_by(self, holder: Hashable) -> None:
        """Wait for a turn. *Cancellation*: safe.

        Args:
            holder: Whose request it is.
        """
        mine = trio.Event()
        self._lines.setdefault(holder, deque()).append(mine)
        self._wake_up.set()
        try:
            await mine.wait()
        except trio.Cancelled:
            line = self._lines.get(holder)
            if line is not None and mine in line:
                line.remove(mine)
                if not line:
                    del self._lines[holder]
            raise

    async def run(self) -> None:
        """Let requests begin until cancelled. *Cancellation*: safe."""
        while True:
            await self._wake_up.wait()
            self._wake_up = trio.Event()
            while self._lines:
                for _ in range(min(PER_TURN, len(self._lines))):
                    self._pass_on()
                await trio.lowlevel.checkpoint()

    def _pass_on(self) -> None:
        holder, line = next(iter(self._lines.items()))
        del self._lines[holder]
        line.popleft().set()
        if line:
            self._lines[holder] = line
