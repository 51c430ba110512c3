"""Paces clients that need a lot of work at once: a few are served per turn of the loop, and their owners take turns.

The event loop runs everything that is ready before it returns to the records. A thousand requests that arrive at the
same moment would delay every subscriber by a second; a write for each of 300 subscribers that are catching up, by 30
ms. Here they wait in line: a flood from one address delays only itself, and another client soon has its turn.

A record needs a few turns from Kafka's thread to the sockets, so long turns delay it. Waiters may give way: the
longer a turn was, for whatever reason, the fewer of them pass after it.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable

import trio

SHORT_TURN_SECONDS = 0.0015
"""After a turn of the loop that was no longer than this, the full number may pass."""

LONG_TURN_SECONDS = 0.003
"""After a turn between the two, fewer may pass; after a longer one, none."""


IDLE_CHECKPOINT_SECONDS = 0.0001
"""If a checkpoint returns sooner than this, no other task wanted the loop."""


async def leave_to_others(seconds: float) -> None:
    """Return when other tasks have had the loop for this long, or no other task wants it. *Cancellation*: safe."""
    while seconds > 0:
        before = trio.current_time()
        await trio.lowlevel.checkpoint()
        taken = trio.current_time() - before
        seconds = seconds - taken if taken > IDLE_CHECKPOINT_SECONDS else 0


class Pace:
    """Lets a few waiters pass in each turn of the loop.

    *Thread*: Trio's. Without `run`, nobody passes once the first turn is used up.

    Args:
        per_turn: Maximum number of waiters that pass in one turn, or the sum of their costs.
        after_longer_turn: The same after a longer turn, and after those that nobody passed.
        skips: Maximum number of long turns in a row after which nobody passes: there must be progress even on a loop
            that is always busy. Fewer if they take longer than as many turns of `LONG_TURN_SECONDS` and one more:
            beside turns that long, what passes is little. None: as many pass after long turns as after short ones.
        now: A clock, in seconds.
    """

    def __init__(
        self,
        per_turn: int,
        *,
        after_longer_turn: int = 1,
        skips: int | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._per_turn = self._left = per_turn
        self._after_longer_turn = min(after_longer_turn, per_turn)
        self._longest_skip_seconds = None if skips is None else (skips + 1) * LONG_TURN_SECONDS
        self._now = now
        self._first: Pace | None = None
        self._skipped_seconds = 0.0
        """Duration of the turns in a row after which nobody passed."""
        self._lines: dict[Hashable, deque[tuple[trio.Event, int]]] = {}
        """The waiters with their costs, by holder, in the order of the holders' turns."""
        self._wake_up = trio.Event()

    @property
    def waiting(self) -> int:
        """The number of waiters."""
        return sum(map(len, self._lines.values()))

    @property
    def waits(self) -> bool:
        """Whether anybody waits."""
        return bool(self._lines)

    def give_way_to(self, other: "Pace") -> None:
        """While anybody waits at another pace, let only as many pass as after a longer turn."""
        self._first = other

    async def pass_by(self, holder: Hashable, cost: int = 1) -> None:
        """Wait for a turn, unless this one still has room. *Cancellation*: safe.

        Args:
            holder: On whose behalf: holders take turns.
            cost: How much of a turn's room it takes; the last one in a turn may take more than is left.
        """
        self._wake_up.set()
        if self._left > 0 and not self._lines:
            self._left -= cost
            await trio.lowlevel.checkpoint()
            return
        mine = trio.Event(), cost
        self._lines.setdefault(holder, deque()).append(mine)
        try:
            await mine[0].wait()
        except trio.Cancelled:
            if not mine[0].is_set():  # otherwise it was allowed to pass between its cancellation and this step
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
                began = self._now()
                await trio.lowlevel.checkpoint()
                self._left = self._share(self._now() - began)
                while self._lines and self._left > 0:
                    self._left -= self._pass_on()

    def _share(self, taken_seconds: float) -> int:
        """How many may pass after a turn that took this long."""
        if self._longest_skip_seconds is None or taken_seconds <= SHORT_TURN_SECONDS:
            share = self._per_turn
        elif taken_seconds <= LONG_TURN_SECONDS or self._skipped_seconds + taken_seconds > self._longest_skip_seconds:
            share = self._after_longer_turn
        else:
            share = 0
        self._skipped_seconds = 0 if share else self._skipped_seconds + taken_seconds
        gives_way = self._first is not None and self._first.waits
        return min(share, self._after_longer_turn) if gives_way else share

    def _pass_on(self) -> int:
        """Let the next waiter pass; returns its cost."""
        holder, line = next(iter(self._lines.items()))
        del self._lines[holder]
        passing, cost = line.popleft()
        passing.set()
        if line:
            self._lines[holder] = line
        return cost
