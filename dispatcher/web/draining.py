"""Drains a replica: it accepts no new streams, and ends the open ones over a time that an operator chooses.

*Thread*: Trio's.
"""

from collections.abc import Callable

import structlog
import trio

from dispatcher.hub.goodbyes import drained
from dispatcher.hub.hub import Hub

log = structlog.get_logger(__name__)

REASON = "an operator is draining this replica"

DEFAULT_SECONDS = 10.0
MAX_SECONDS = 3600.0

GOODBYES_PER_SECOND = 1000
"""Bounds the work if the time is short: a goodbye takes half a millisecond."""


class Drain:
    """Whether the replica is being drained; `run` does the work.

    Args:
        hub: The hub whose subscribers are asked to leave.
        stop: Begins a graceful stop.
    """

    def __init__(self, hub: Hub, stop: Callable[[], None]) -> None:
        self._hub = hub
        self._stop = stop
        self.seconds = 0.0
        """How long the goodbyes are spread over."""
        self._begun = trio.Event()
        self._stop_wanted = trio.Event()
        self._under_way = trio.CancelScope()

    @property
    def subscribers(self) -> int:
        """The number of remaining subscribers."""
        return self._hub.subscribers

    @property
    def is_on(self) -> bool:
        """Whether new streams are refused."""
        return self._begun.is_set()

    def begin(self, seconds: float, *, stops: bool) -> None:
        """Accept no new streams, and end the open ones within a time; a second call only adds `stops`.

        Args:
            seconds: How long the goodbyes are spread over.
            stops: Whether the process stops when no subscriber is left.
        """
        if stops:
            self._stop_wanted.set()
        if not self.is_on:
            self.seconds = seconds
            self._begun.set()
            log.warning("draining", subscribers=self._hub.subscribers, seconds=seconds, stops=stops)

    def cancel(self) -> None:
        """Accept new streams again."""
        if self.is_on:
            self._begun, self._stop_wanted = trio.Event(), trio.Event()
            self._under_way.cancel()
            log.warning("draining ended", subscribers=self._hub.subscribers)

    async def run(self) -> None:
        """Wait for an order, and carry it out, until cancelled."""
        while True:
            await self._begun.wait()
            if self.is_on:  # unless it was cancelled in the same step
                with trio.CancelScope() as self._under_way:
                    await self._empty()
                    await self._stop_wanted.wait()
                    self._stop()
                    await trio.sleep_forever()

    async def _empty(self) -> None:
        """Return when the last subscriber has left."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._say_goodbye)
            await self._hub.wait_no_subscribers()
            nursery.cancel_scope.cancel()

    async def _say_goodbye(self) -> None:
        """End all streams, spread evenly over the time."""
        subscribers = self._hub.sample_subscribers(self._hub.subscribers)
        pause_seconds = max(self.seconds / max(1, len(subscribers)), 1 / GOODBYES_PER_SECOND)
        for subscriber in subscribers:
            subscriber.end(drained())
            await trio.sleep(pause_seconds)
