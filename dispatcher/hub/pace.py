"""Paces clients that need a lot of work at once: a few are served per turn of the loop, and their owners take turns.

The event loop runs everything that is ready before it returns to the records. A thousand requests that arrive at the
same moment would delay every subscriber by a second; a write for each of 300 subscribers that are catching up, by 30
ms. Here they wait in line: a flood from one address delays only itself, and another client's turn is among the next
ones.
"""

from collections import deque
from collections.abc import Hashable

import trio


class Pace:
    """Lets a fixed number of waiters pass in each turn of the loop.

    *Thread*: Trio's. Without `run`, nobody passes once the first turn is used up.

    Args:
        per_turn: The number.
    """

    def __init__(self, per_turn: int) -> None:
        self._per_turn = self._left = per_turn
        self._lines: dict[Hashable, deque[trio.Event]] = {}
        """The waiters, by holder, in the order of the holders' turns."""
        self._wake_up = trio.Event()

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return sum(map(len, self._lines.values()))

    async def pass_by(self, holder: Hashable) -> None:
        """Wait for a turn, unless this one still has room. *Cancellation*: safe.

        Args:
            holder: Whose turn it is.
        """
        self._wake_up.set()
        if self._left and not self._lines:
            self._left -= 1
            await trio.lowlevel.checkpoint()
            return
        mine = trio.Event()
        self._lines.setdefault(holder, deque()).append(mine)
        try:
            await mine.wait()
        except trio.Cancelled:
            # It is still in line: a waiter that was let pass is not cancelled here.
            line = self._lines[holder]
            line.remove(mine)
            if not line:
                del self._lines[holder]
            raise

    async def run(self) -> None:
        """Let waiters pass until cancelled. *Cancellation*: safe."""
        while True:
            await self._wake_up.wait()
            self._wake_up = trio.Event()
            while self._lines or self._left < self._per_turn:
                await trio.lowlevel.checkpoint()
                self._left = self._per_turn
                while self._lines and self._left:
                    self._left -= 1
                    self._pass_on()

    def _pass_on(self) -> None:
        holder, line = next(iter(self._lines.items()))
        del self._lines[holder]
        line.popleft().set()
        if line:
            self._lines[holder] = line
