"""The pace at which clients that want much at once get it: a few in each turn of the loop, and their owners take turns.

The event loop runs everything that is ready before it returns to the records. A thousand requests that arrive at the
same moment would delay every subscriber by a second, and a write for each of 300 subscribers that catch up by 30 ms.
Here they wait in line: a flood from one address delays only itself, and another client's turn is among the next ones.
"""

from collections import deque
from collections.abc import Hashable

import trio


class Pace:
    """Lets a number pass in each turn of the loop.

    *Thread*: Trio's. `run` has to run, or nobody passes once the first turn is used up.

    Args:
        per_turn: How many.
    """

    def __init__(self, per_turn: int) -> None:
        self._per_turn = self._left = per_turn
        self._lines: dict[Hashable, deque[trio.Event]] = {}
        """Those that wait, by holder, in the order in which holders come next."""
        self._wake_up = trio.Event()

    @property
    def waiting(self) -> int:
        """How many are in line."""
        return sum(map(len, self._lines.values()))

    async def pass_by(self, holder: Hashable) -> None:
        """Wait for a turn, if those of this one are taken. *Cancellation*: safe.

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
            # It is in line still: whoever has been let pass is not cancelled here.
            line = self._lines[holder]
            line.remove(mine)
            if not line:
                del self._lines[holder]
            raise

    async def run(self) -> None:
        """Let them pass until cancelled. *Cancellation*: safe."""
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
